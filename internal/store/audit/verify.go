package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"trakr/internal/check"
	"trakr/internal/proof/merkle"
	"trakr/internal/store/guard"
	"trakr/internal/store/internal/pg"
)

// Outside is a checkpoint that was kept outside the database.
type Outside struct {
	Name string // where it was kept, for people
	Note []byte // the signed note
}

// Known is a size up to which the log was verified before, and its root then.
type Known struct {
	Size int64
	Root merkle.Hash
}

// VerifyOptions tune Verify.
type VerifyOptions struct {
	// Known lets Verify begin there: what was verified is not read again, but its
	// tree must still be the one whose root is given. Where it is not, or with
	// Whole, everything is read, and a log that no longer begins with it has a fault.
	// Duplicates, and events inserted among the old ones, show only then.
	Known *Known
	Whole bool
	// LogOnly leaves out the controls.
	LogOnly bool
	// Outside are the checkpoints kept elsewhere. They must have been read before
	// Verify is called: the running sequencer publishes newer ones. Without any, a
	// tail that was cut off with its leaves, tiles and checkpoints cannot be noticed.
	Outside []Outside
	// Progress is called now and then with how many of how many positions are verified.
	Progress func(done, total int64)
}

// Verification is what Verify found. It is clean when it has no faults and every
// control passes.
type Verification struct {
	Origin      string `json:"origin"` // of the checkpoints: which log this is
	Key         string `json:"key"`    // the log's public key (C2SP signed-note)
	From        int64  `json:"from"`   // the position it began at; 0 when everything was read
	Size        int64  `json:"size"`   // positions
	Root        string `json:"root"`   // of the tree of the stored leaves, base64; "" when leaves are missing
	Events      int64  `json:"events"` // read again, those that wait included
	Waiting     int64  `json:"waiting"`
	Expired     int64  `json:"expired"`       // positions whose content expired by policy
	ExpiredUpTo int64  `json:"expired_up_to"` // content expired by policy until this position
	Checkpoints int64  `json:"checkpoints"`
	Tiles       int64  `json:"tiles"`
	// Outside is the largest size of a checkpoint kept elsewhere that the log
	// contains; -1 when there was none to compare with.
	Outside  int64           `json:"outside"`
	Faults   []Fault         `json:"faults"` // by position; at most MaxFaults of a kind
	Counts   map[Kind]int64  `json:"counts"` // all faults
	Controls []guard.Control `json:"controls"`
	Seconds  float64         `json:"seconds"`
}

// Clean reports whether nothing was found.
func (v Verification) Clean() bool {
	return len(v.Faults) == 0 && !slices.ContainsFunc(v.Controls, func(c guard.Control) bool { return c.Required && c.State != check.Pass })
}

// TailKnown reports whether a cut tail would have been noticed.
func (v Verification) TailKnown() bool { return v.Outside >= 0 || v.Counts[CutTail] > 0 }

// Verify reads the whole log again, events, leaves, tiles, checkpoints, expiries
// and the catalog, in one snapshot, and reports every fault it finds. Writers and
// the sequencer may run meanwhile and cause none. Memory stays flat: it depends on
// the number of faults, up to a bound, and not on the log's length. It takes three
// connections.
//
// What is proven: each event's exact bytes hash to the leaf of its position, the
// leaves add up to every signed checkpoint, and each column equals its member of the
// record. What is not: recorded_at, epoch and xid are only the database's statement. The
// order they give is compared with that of the positions, they themselves are in no
// record.
func (l *Log) Verify(ctx context.Context, o VerifyOptions) (Verification, error) {
	if l.verifier == nil {
		return Verification{}, errors.New("a log without a key cannot be verified")
	}
	begin := time.Now()
	v := &verifying{log: l, o: o, faults: newFaults(), tree: merkle.NewTree()}
	v.out = Verification{Origin: l.verifier.Name(), Key: l.vkey, Outside: -1}
	err := inOneSnapshot(ctx, pg.Pool(l.db), 3, func(ctx context.Context, tx []pgx.Tx) error {
		// The three parts touch nothing in common but v.faults, which locks.
		other := make(chan error, 1)
		if err := v.prepare(ctx, tx[1]); err != nil {
			return err
		}
		go func() {
			if v.from > 0 {
				other <- nil
				return
			}
			other <- v.duplicates(ctx, tx[2])
		}()
		err := v.walk(ctx, tx[0], tx[1])
		return errors.Join(err, <-other)
	})
	if err == nil {
		err = v.compareOlder(ctx)
	}
	if err == nil && !o.LogOnly {
		v.out.Controls, err = guard.Check(ctx, l.db)
	}
	if err != nil {
		return Verification{}, fmt.Errorf("verifying the audit: %w", pg.Map(err))
	}
	v.out.Faults, v.out.Counts = v.faults.sorted()
	v.out.Seconds = time.Since(begin).Seconds()
	return v.out, nil
}

// inOneSnapshot runs do with n read-only transactions that see the same moment.
func inOneSnapshot(ctx context.Context, pool *pgxpool.Pool, n int, do func(context.Context, []pgx.Tx) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []pgx.Tx
	defer func() {
		for _, tx := range all {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // they wrote nothing
		}
	}()
	var moment string
	for range n {
		tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		all = append(all, tx)
		if moment == "" {
			err = tx.QueryRow(ctx, `SELECT pg_export_snapshot()`).Scan(&moment)
		} else {
			_, err = tx.Exec(ctx, `SET TRANSACTION SNAPSHOT '`+moment+`'`) // takes no parameter
		}
		if err != nil {
			return err
		}
		// A long reading is no forgotten transaction. The order comes from an index:
		// a sort would put the whole log on the disk first.
		_, err = tx.Exec(ctx, `SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
				WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout',
					'max_parallel_workers_per_gather')
			UNION ALL SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_sort', 'enable_incremental_sort', 'jit']) AS name`)
		if err != nil {
			return err
		}
	}
	return do(ctx, all)
}

// duplicates looks for an event_id that occurs twice. Within a month an index
// forbids it; over months nothing does.
func (v *verifying) duplicates(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT x.event_id::text
		FROM (SELECT event_id, lag(event_id) OVER (ORDER BY event_id) AS before FROM trakr.audit_events) AS x
		WHERE x.event_id = x.before`)
	if err != nil {
		return err
	}
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		v.faults.add(Fault{Kind: Duplicate, Position: nowhere, EventID: id, Detail: "this event_id occurs more than once"})
		return nil
	})
	return err
}
