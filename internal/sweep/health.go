package sweep

import (
	"context"
	"time"

	"trakr/internal/check"
	"trakr/internal/store/findings"
	"trakr/internal/store/heartbeats"
)

// Health is how recently a kind of sweep ran.
type Health struct {
	Kind     string
	Last     *findings.Run // newest pass that finished and did not fail; nil when none
	Newest   *findings.Run // newest pass that finished, failed or not; nil when none
	Since    time.Time     // since when it is scheduled; zero when it never was
	Interval time.Duration
	Overdue  bool
}

// Failing reports whether the newest pass failed: the results of an older pass then no
// longer describe the present, even when the sweep is not overdue.
func (h Health) Failing() bool { return h.Newest != nil && h.Newest.Result == findings.Failed }

// Result returns the health as a check.
func (h Health) Result() check.Result {
	r := check.Result{ID: "sweep." + h.Kind, Title: "the sweep " + h.Kind + " runs in time", State: check.Pass}
	switch {
	case h.Last == nil && h.Since.IsZero():
		r.State, r.Evidence = check.Unknown, "the service never ran here"
	case h.Overdue:
		r.State, r.Evidence, r.WayOut = check.Fail, "no pass within twice its interval", "is the service running?"
	}
	return r
}

// Health returns how recently one kind ran, as of a moment. Whether it is overdue is
// heartbeats' rule.
func (r *Runner) Health(ctx context.Context, kind string, interval time.Duration, at time.Time) (Health, error) {
	h := Health{Kind: kind, Interval: interval}
	var err error
	if h.Last, err = r.findings.LastSuccess(ctx, kind, at); err != nil {
		return h, err
	}
	if h.Newest, err = r.findings.LastFinished(ctx, kind, at); err != nil {
		return h, err
	}
	if h.Since, err = r.beats.SweepExpectedSince(ctx, kind); err != nil {
		return h, err
	}
	beat := heartbeats.Beat{Job: kind, ExpectedSince: h.Since, Interval: interval}
	if h.Last != nil {
		beat.LastSucceeded = h.Last.FinishedAt
	}
	h.Overdue = beat.Overdue(at)
	return h, nil
}

// Expect records that a kind is scheduled from now on.
func (r *Runner) Expect(ctx context.Context, kind string) error {
	return r.beats.ExpectSweep(ctx, kind, r.now())
}
