// Command trakr-bench measures the audit and the orphan sweep against the same work
// without them, and against what PostgreSQL does by itself, and compares the figures
// with the gates of their specifications. Start it with `make bench`, or
// `go run ./cmd/trakr-bench`.
//
// It promises that every ratio comes from one run: the two sides of a comparison
// take turns in short rounds, with equally many connections to one database
// server, and their medians are compared. Absolute figures are shown beside; they
// belong to the machine. The server is a private PostgreSQL of its own with the
// settings `trakr serve` gives it and fsync on; only autovacuum is off, so that no
// round pays for what an earlier one left, and no plan is good by statistics that a
// fresh table would not have. It is in the system's temporary directory: let
// TMPDIR name a disk where fsync is real.
//
// It measures speed only. A missed gate is shown and fails nothing, because the
// machine may be busy; the exit code is 0 unless something could not be measured.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// measures are the parts of a run, in order. Each makes databases of its own.
var measures = []struct {
	name string
	does func(*bench, context.Context) error
}{
	{"reads", (*bench).reads},
	{"http", (*bench).http},
	{"export", (*bench).export},
	{"sequencer", (*bench).sequencer},
	{"verify", (*bench).verify},
	{"size", (*bench).size},
	{"orphans", (*bench).orphans},
}

// bench is one run.
type bench struct {
	*rig
	plan   plan
	report report
	say    *progress
}

// plan is how much is measured.
type plan struct {
	Rounds int           `json:"rounds"`    // of each side of a comparison, after one that warms up
	Length time.Duration `json:"length_ns"` // of a round
	Events int64         `json:"events"`    // backlog of the sequencer; events to export and to verify
	Sizes  []int64       `json:"sizes"`     // of the audit, before reading from it; ascending
	// Of the orphan sweep: tenants registered beside the template's, and rows of its child table.
	Registry int64 `json:"registry"`
	Children int64 `json:"children"`
	// Connections of each pool: the product's and the baseline's.
	Connections int `json:"connections"`
	// Limit ends a run that takes too long.
	Limit time.Duration `json:"limit_ns"`
}

var (
	full = plan{Rounds: 7, Length: 2 * time.Second, Events: 500_000, Sizes: []int64{10_000, 1_000_000, 10_000_000},
		Registry: 1_000_000, Children: 10_000_000, Limit: time.Hour}
	quick = plan{Rounds: 3, Length: time.Second, Events: 300_000, Sizes: []int64{10_000, 1_000_000},
		Registry: 50_000, Children: 500_000, Limit: 15 * time.Minute}
	// smoke shows that every measurement can be made. Its figures mean nothing.
	smoke = plan{Rounds: 1, Length: time.Second, Events: 3_000, Sizes: []int64{1_000, 3_000},
		Registry: 500, Children: 4_000, Limit: 5 * time.Minute}
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for the cleaning up
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures, prints the table and writes it down. What was measured before a
// failure or Ctrl-C is printed all the same.
func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	short := flags.Bool("quick", false, "fewer and shorter rounds, no audit of 10 million events, and an orphan sweep over a "+
		"twentieth; for a look, not for a statement")
	smoking := flags.Bool("smoke", false, "one short round of each measurement over small tables: to see that all can be made, "+
		"not for a figure")
	out := flags.String("out", "bin/bench", "write the figures to `PREFIX`.json and PREFIX.md")
	conns := flags.Int("connections", 12, "connections of each pool, the product's and the baseline's; the product's own default is 12")
	only := flags.String("only", "", "measure only this `NAME`: "+strings.Join(names(), ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *conns < 4 || *conns > 100 || (*only != "" && !slices.Contains(names(), *only)) {
		return fmt.Errorf("unknown argument, or not 4 to 100 connections; measures are %s", strings.Join(names(), ", "))
	}
	b := &bench{plan: full, say: newProgress(os.Stderr)}
	switch {
	case *smoking:
		b.plan = smoke
	case *short:
		b.plan = quick
	}
	b.plan.Connections = *conns
	ctx, cancel := context.WithTimeout(ctx, b.plan.Limit)
	defer cancel()

	b.say.begin("starting a private PostgreSQL")
	if b.rig, err = newRig(ctx, *conns); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.rig.close()) }()
	b.report = newReport(b.plan, *short || *smoking, b.rig.version)
	for _, m := range measures {
		if *only != "" && m.name != *only {
			continue
		}
		if err = m.does(b, ctx); err != nil {
			err = fmt.Errorf("measuring %s: %w", m.name, cmp.Or(ctx.Err(), err))
			break
		}
	}
	b.say.end()
	b.report.judge()
	return errors.Join(err, b.report.print(os.Stdout), b.report.write(*out))
}

func names() []string {
	var out []string
	for _, m := range measures {
		out = append(out, m.name)
	}
	return out
}
