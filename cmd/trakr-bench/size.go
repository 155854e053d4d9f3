package main

import (
	"context"
	"fmt"
	"time"
)

// size compares audited reads before and after the audit has grown large. Every
// turn has new connections, so that no plan of theirs is older than the turn, and
// the smallest audit is a new copy each time, since reads make it grow at once.
func (b *bench) size(ctx context.Context) error {
	b.say.begin("audited reads after many events")
	var sides []side
	for i, events := range b.plan.Sizes {
		names, err := b.audits(ctx, events, i == 0)
		if err != nil {
			return err
		}
		sides = append(sides, side{after(events), b.turnOf(names)})
	}
	if err := b.checkpoint(ctx); err != nil {
		return err
	}
	r, err := b.alternate(ctx, sides...)
	if err != nil {
		return err
	}
	for i := 1; i < len(sides); i++ {
		b.report.compare(subject{"size", gateCallers, "reads"}, series{sides[i].name, r[i]}, series{sides[0].name, r[0]})
	}
	return nil
}

func after(events int64) string { return fmt.Sprintf("audited read after %d events", events) }

// audits makes a database with an audit of that many events, or as many equal ones
// as there are turns.
func (b *bench) audits(ctx context.Context, events int64, forEachTurn bool) ([]string, error) {
	d, err := b.fresh(ctx)
	if err != nil {
		return nil, err
	}
	err = b.history(ctx, d, events)
	d.close()
	names := []string{d.name}
	for n := 0; forEachTurn && n < b.plan.Rounds && err == nil; n++ {
		var name string
		name, err = b.copyOf(ctx, d.name)
		names = append(names, name)
	}
	return names, err
}

// turnOf returns the round of reads that takes one database after the other, and
// the last one from then on.
func (b *bench) turnOf(names []string) round {
	return func(ctx context.Context) (figure, error) {
		d, err := b.open(ctx, names[0])
		if err != nil {
			return figure{}, err
		}
		defer d.close()
		if len(names) > 1 {
			names = names[1:]
		}
		if _, err := load(ctx, gateCallers, time.Second/2, b.auditedRead(d)); err != nil {
			return figure{}, err
		}
		return load(ctx, gateCallers, b.plan.Length, b.auditedRead(d))
	}
}
