package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"trakr/internal/sequencer"
	"trakr/internal/store/audit"
)

const (
	sequenced = "sequenced from a backlog"
	whileOn   = "audited read, sequencer on"
	whileOff  = "audited read, sequencer off"
)

// sequencer measures how fast a backlog gets its positions, against the rate at
// which reads could make one, and what reads lose while the sequencer keeps up
// with them.
func (b *bench) sequencer(ctx context.Context) error {
	b.say.begin("sequencer, backlog")
	d, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	if err := b.backlog(ctx, d, b.plan.Events); err != nil {
		return err
	}
	passes, err := d.log.NewSequencer()
	if err != nil {
		return err
	}
	r, err := b.alternate(ctx, side{"sequencer", pass(passes)}, side{auditedRead, b.under(gateCallers, b.auditedRead(d))})
	if err != nil {
		return err
	}
	b.report.compare(subject{"sequencer", gateCallers, "events"}, series{sequenced, r[0]}, series{auditedRead, r[1]})
	return b.slowdown(ctx, d)
}

// pass times one pass over what waits; a backlog takes several.
func pass(s *audit.Sequencer) round {
	return func(ctx context.Context) (figure, error) {
		return rate(func() (int64, error) {
			n, err := s.Pass(ctx)
			if err == nil && n == 0 {
				err = errors.New("the backlog was too short")
			}
			return int64(n), err
		})
	}
}

// slowdown compares reads while the product's sequencer runs with reads while it
// does not. Either begins without a backlog, and with a second of reads that does
// not count: the sequencer has then as much to do in every second of the round as
// it has in ordinary operation.
func (b *bench) slowdown(ctx context.Context, d *database) error {
	b.say.begin("sequencer, slowdown of reads")
	dir, err := os.MkdirTemp("", "trakr-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file, err := sequencer.NewFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	seq, err := sequencer.New(sequencer.Config{
		DB: d.db, Log: d.log, Sinks: []sequencer.Sink{file}, Meter: b.telemetry.Meter, Now: time.Now, Slog: b.telemetry.Logger,
	})
	if err != nil {
		return err
	}
	reads := func(ctx context.Context) (figure, error) {
		if _, err := load(ctx, gateCallers, time.Second, b.auditedRead(d)); err != nil {
			return figure{}, err
		}
		return load(ctx, gateCallers, 2*b.plan.Length, b.auditedRead(d))
	}
	caughtUp := func(then round) round {
		return func(ctx context.Context) (figure, error) {
			if err := seq.Once(ctx); err != nil {
				return figure{}, err
			}
			return then(ctx)
		}
	}
	r, err := b.alternate(ctx, side{"on", caughtUp(beside(seq, d.log, reads))}, side{"off", caughtUp(reads)})
	if err != nil {
		return err
	}
	b.report.compare(subject{"sequencer", gateCallers, "reads"}, series{whileOn, r[0]}, series{whileOff, r[1]})
	return seq.Err()
}

// beside runs the sequencer during a round, and fails when it did nothing.
func beside(seq *sequencer.Sequencer, log *audit.Log, r round) round {
	return func(ctx context.Context) (figure, error) {
		before, err := log.Backlog(ctx)
		if err != nil {
			return figure{}, err
		}
		stop := inBackground(ctx, seq.Run)
		f, err := r(ctx)
		stop()
		if err != nil {
			return figure{}, err
		}
		after, err := log.Backlog(ctx)
		if err == nil && after.Size == before.Size {
			err = errors.New("the sequencer did not run")
		}
		return f, err
	}
}

// inBackground runs work until the returned function has been called, which waits
// for its end.
func inBackground(ctx context.Context, work func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { work(ctx) })
	return func() { cancel(); wg.Wait() }
}
