// Package heartbeats stores when each scheduled job last started, succeeded and failed,
// for all replicas together, and since when each job and each kind of sweep is expected
// to run. Beat.Overdue is the one rule for "it ran in time", of jobs and of sweeps.
package heartbeats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// Beat is what is known of one job. Times are UTC, by the clocks of the replicas
// that ran it; nil means never.
type Beat struct {
	Job           string
	ExpectedSince time.Time // since when it is scheduled
	Interval      time.Duration
	Jitter        time.Duration // how late it may start
	LastStarted   *time.Time
	LastSucceeded *time.Time
	LastFailed    *time.Time
	Failure       string // closed-set word: why it last failed; "" when it never did
}

// Overdue reports whether a job had no success within twice its interval plus its
// jitter, as of a moment. The time counts from its last success or from when it was first
// expected, whichever is later: a success from before the job was scheduled does not make
// it late. A job that is expected only after the moment counts from its last success. One
// that was never expected and never succeeded is overdue; so is one whose time lies that
// far after the moment, because then a clock was moved.
func (b Beat) Overdue(at time.Time) bool {
	from := b.ExpectedSince
	if s := b.LastSucceeded; s != nil && (from.IsZero() || from.After(at) || s.After(from)) {
		from = *s
	}
	return from.IsZero() || at.Sub(from).Abs() > 2*b.Interval+b.Jitter
}

// Find returns the beat of a job; one that was never scheduled is overdue.
func Find(all []Beat, job string) Beat {
	for _, b := range all {
		if b.Job == job {
			return b
		}
	}
	return Beat{Job: job}
}

// Store keeps the beats of one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Expect notes that a job is scheduled, every so often and so late at most. Since
// when is kept from the first time on.
func (s *Store) Expect(ctx context.Context, job string, interval, jitter time.Duration, now time.Time) error {
	return s.write(ctx, `INSERT INTO trakr.job_heartbeats (job, expected_since, interval_seconds, jitter_seconds) VALUES (?, ?, ?, ?)
		ON CONFLICT (job) DO UPDATE SET interval_seconds = excluded.interval_seconds, jitter_seconds = excluded.jitter_seconds`,
		job, now.UTC(), int64(interval.Seconds()), int64(jitter.Seconds()))
}

// Started notes that a run began.
func (s *Store) Started(ctx context.Context, job string, now time.Time) error {
	return s.write(ctx, `UPDATE trakr.job_heartbeats SET last_started_at = ? WHERE job = ?`, now.UTC(), job)
}

// Succeeded notes that a run did what was due.
func (s *Store) Succeeded(ctx context.Context, job string, now time.Time) error {
	return s.write(ctx, `UPDATE trakr.job_heartbeats SET last_succeeded_at = ? WHERE job = ?`, now.UTC(), job)
}

// Failed notes that a run did not, and a closed-set word for why.
func (s *Store) Failed(ctx context.Context, job string, now time.Time, why string) error {
	return s.write(ctx, `UPDATE trakr.job_heartbeats SET last_failed_at = ?, failure = ? WHERE job = ?`, now.UTC(), why, job)
}

func (s *Store) write(ctx context.Context, query string, args ...any) error {
	res, err := pg.Bun(s.db).NewRaw(query, args...).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting a job's heartbeat: %w", pg.Map(err))
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("noting a job's heartbeat: the job was never scheduled"))
	}
	return nil
}

// ExpectSweep records that a kind of sweep is scheduled. The time of the first call is
// kept.
func (s *Store) ExpectSweep(ctx context.Context, kind string, now time.Time) error {
	_, err := pg.Bun(s.db).NewInsert().Model(&sweepSchedule{Kind: kind, FirstExpectedAt: now.UTC()}).On("CONFLICT DO NOTHING").Exec(ctx)
	if err != nil {
		return fmt.Errorf("recording a sweep's schedule: %w", pg.Map(err))
	}
	return nil
}

// SweepExpectedSince returns since when a kind of sweep is scheduled; zero when it never
// was.
func (s *Store) SweepExpectedSince(ctx context.Context, kind string) (time.Time, error) {
	var row sweepSchedule
	err := pg.Map(pg.Bun(s.db).NewSelect().Model(&row).Where("job = ?", kind).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading a sweep's schedule: %w", err)
	}
	return row.FirstExpectedAt.UTC(), nil
}

// sweepSchedule is a row of the table that only sweeps use.
type sweepSchedule struct {
	bun.BaseModel `bun:"table:trakr.schedule_state"`

	Kind            string `bun:"job,pk"`
	FirstExpectedAt time.Time
}

// List returns what is known of every job ever scheduled, by name.
func (s *Store) List(ctx context.Context) ([]Beat, error) {
	var rows []struct {
		Job             string
		ExpectedSince   time.Time
		IntervalSeconds int64
		JitterSeconds   int64
		LastStartedAt   *time.Time
		LastSucceededAt *time.Time
		LastFailedAt    *time.Time
		Failure         string `bun:",nullzero"`
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT job, expected_since, interval_seconds, jitter_seconds, last_started_at, last_succeeded_at, last_failed_at, failure
		FROM trakr.job_heartbeats ORDER BY job LIMIT 200`).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading heartbeats: %w", err)
	}
	out := make([]Beat, len(rows))
	for i, r := range rows {
		out[i] = Beat{Job: r.Job, ExpectedSince: r.ExpectedSince.UTC(), Interval: time.Duration(r.IntervalSeconds) * time.Second, Jitter: time.Duration(r.JitterSeconds) * time.Second,
			LastStarted: pg.UTC(r.LastStartedAt), LastSucceeded: pg.UTC(r.LastSucceededAt), LastFailed: pg.UTC(r.LastFailedAt), Failure: r.Failure}
	}
	return out, nil
}
