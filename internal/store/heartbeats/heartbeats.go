// Package heartbeats stores when each scheduled job last started, succeeded and failed,
// for all replicas together, and since when each job and each kind of sweep is expected
// to run. Beat.Overdue is the one rule for "it ran in time", of jobs and of sweeps.
package heartbeats

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// Beat is when one job ran. Times are UTC, by the clocks of the replicas that ran it; nil
// means never.
type Beat struct {
	Job           string
	ExpectedSince time.Time // since when it is scheduled
	Interval      time.Duration
	Jitter        time.Duration // how late it may start
	LastStarted   *time.Time
	LastSucceeded *time.Time
	LastFailed    *time.Time
	Failure       string // why it last failed, from a closed set; "" when it never did
}

// Overdue reports whether a job had no success within twice its interval plus its
// jitter, as of a moment. The time counts from its last success or from when it was first
// expected, whichever is later: a success from before the job was scheduled does not make
// it late. A job that is expected only after the moment counts from its last success. One
// that was never expected and never succeeded is overdue; so is one whose time is that
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

// Store stores the beats of one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// beatRow is a beat as it is stored.
type beatRow struct {
	bun.BaseModel `bun:"table:trakr.job_heartbeats,alias:b"`

	Job             string
	ExpectedSince   time.Time
	IntervalSeconds int64
	JitterSeconds   int64
	LastStartedAt   *time.Time
	LastSucceededAt *time.Time
	LastFailedAt    *time.Time
	Failure         string `bun:",nullzero"`
}

// Expect records that a job is scheduled, how often, and how late it may start. The time of
// the first call is kept.
func (s *Store) Expect(ctx context.Context, job string, interval, jitter time.Duration, now time.Time) error {
	return exactlyOne(pg.Bun(s.db).NewInsert().Model(&beatRow{
		Job: job, ExpectedSince: now.UTC(), IntervalSeconds: int64(interval.Seconds()), JitterSeconds: int64(jitter.Seconds()),
	}).On("CONFLICT (job) DO UPDATE").Set("interval_seconds = excluded.interval_seconds").Set("jitter_seconds = excluded.jitter_seconds").
		Returning("NULL").Exec(ctx))
}

// Started records that a run began.
func (s *Store) Started(ctx context.Context, job string, now time.Time) error {
	return exactlyOne(s.update(job).Set("last_started_at = ?", now.UTC()).Exec(ctx))
}

// Succeeded records that a run did what was due.
func (s *Store) Succeeded(ctx context.Context, job string, now time.Time) error {
	return exactlyOne(s.update(job).Set("last_succeeded_at = ?", now.UTC()).Exec(ctx))
}

// Failed records that a run did not, and the reason, from a closed set.
func (s *Store) Failed(ctx context.Context, job string, now time.Time, why string) error {
	return exactlyOne(s.update(job).Set("last_failed_at = ?", now.UTC()).Set("failure = ?", why).Exec(ctx))
}

func (s *Store) update(job string) *bun.UpdateQuery {
	return pg.Bun(s.db).NewUpdate().Model((*beatRow)(nil)).Where("job = ?", job)
}

// exactlyOne refuses a write about a job that was never scheduled.
func exactlyOne(res sql.Result, err error) error {
	if err != nil {
		return fmt.Errorf("recording a job's heartbeat: %w", pg.Map(err))
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("recording a job's heartbeat: the job was never scheduled"))
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

// List returns the beats of all jobs that were ever scheduled, by name.
func (s *Store) List(ctx context.Context) ([]Beat, error) {
	var rows []beatRow
	if err := pg.Bun(s.db).NewSelect().Model(&rows).Order("job").Limit(200).Scan(ctx); err != nil {
		return nil, fmt.Errorf("reading heartbeats: %w", pg.Map(err))
	}
	out := make([]Beat, len(rows))
	for i, r := range rows {
		out[i] = Beat{
			Job: r.Job, ExpectedSince: r.ExpectedSince.UTC(),
			Interval: time.Duration(r.IntervalSeconds) * time.Second, Jitter: time.Duration(r.JitterSeconds) * time.Second,
			LastStarted: pg.UTC(r.LastStartedAt), LastSucceeded: pg.UTC(r.LastSucceededAt), LastFailed: pg.UTC(r.LastFailedAt),
			Failure: r.Failure,
		}
	}
	return out, nil
}
