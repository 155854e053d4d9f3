package audit

import (
	"context"
	"errors"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"golang.org/x/mod/sumdb/note"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// Log is the audit of one database.
type Log struct {
	db  *store.DB
	now func() time.Time

	signer   note.Signer // nil until SignWith
	verifier note.Verifier
	vkey     string

	edge edge
}

// NewLog returns the log of db. The clock gives occurred_at.
func NewLog(db *store.DB, now func() time.Time) (*Log, error) {
	if db == nil || now == nil {
		return nil, errors.New("an audit log needs a database and a clock")
	}
	return &Log{db: db, now: now}, nil
}

// Now is the log's clock.
func (l *Log) Now() time.Time { return l.now() }

// Append writes events in the caller's transaction: they are durable when it
// commits, and the act does not happen when they cannot be written. Failure is
// audit-unavailable.
func Append(ctx context.Context, tx bun.IDB, events ...Event) error {
	records := make([][]byte, len(events))
	for i, e := range events {
		records[i] = e.Record()
	}
	_, err := tx.NewRaw(`SELECT door.append(?)`, pgdialect.Array(records)).Exec(ctx)
	return Unavailable(err)
}

// Record writes events in a transaction of their own, for acts that did not
// happen: a denial, a refused token.
func (l *Log) Record(ctx context.Context, events ...Event) error {
	return Unavailable(pg.InTx(ctx, l.db, func(ctx context.Context, tx bun.Tx) error {
		return Append(ctx, tx, events...)
	}))
}

// reading records that the caller reads the log itself, before anything is read.
func (l *Log) reading(ctx context.Context, a lifecycle.Access, what string) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	e := New(ctx, l.now(), a, AuditRead, Success)
	e.StatusDetail = what
	return l.Record(ctx, e)
}

// sequencedWithin is how soon an event has a position while the service runs.
const sequencedWithin = 3 * time.Second

// Unavailable gives an error of writing the audit its kind. A database that does
// not answer keeps its own.
func Unavailable(err error) error {
	err = pg.Map(err)
	var f *lifecycle.Fault
	if err == nil || errors.As(err, &f) {
		return err
	}
	return lifecycle.Fail(lifecycle.AuditUnavailable,
		"The act was refused because its audit event could not be written; no value was released and nothing was changed. Try again later.",
		lifecycle.After(5*time.Second), lifecycle.Cause(err))
}
