// Package facts is the read model of the reports: what the database contains as of one
// moment, as the types of package reports. It lists every table, declared or not, with
// counts and ages, and adds up erasures, sweeps, requests, holds and disclosures. It
// changes nothing but the record of the reports that were issued.
//
// What a recorded fact means, such as that a request is late, is decided by the caller.
package facts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Store reads one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Clock returns the database's time to the microsecond, which is as fine as it records
// times: everything that is committed now has an earlier time, and what is recorded from
// now on a later one.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var row struct{ Now time.Time }
	err := pg.Bun(s.db).NewRaw(`SELECT clock_timestamp() AS now`).Scan(ctx, &row)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the database's clock: %w", pg.Map(err))
	}
	return row.Now.UTC(), nil
}

// Issued is one report that was issued.
type Issued struct {
	Kind, Format, PolicyHash, Digest string
	AsOf                             time.Time
}

// issuedRow is an issued report as bun writes it.
type issuedRow struct {
	bun.BaseModel `bun:"table:trakr.reports_issued"`

	ReportID   string
	Kind       string
	Format     string
	AsOf       time.Time
	PolicyHash string
	Digest     string
	IssuedTo   string
	IssuedAt   time.Time
}

// Issue records that a report was issued, with its digest, and the audit event in the same
// transaction. A report that cannot be recorded is not issued. The row has the database's
// time, as the report's own moment does: with a clock of this process that runs behind, a
// report would count itself at its next issue.
func (s *Store) Issue(ctx context.Context, a lifecycle.Access, now time.Time, r Issued) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("issuing a report: %w", err)
	}
	a.CorrelationID = id.String()
	e := audit.New(ctx, now, a, audit.ReportIssue, audit.Success)
	e.StatusDetail = r.Kind + " " + r.Format
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&issuedRow{
			ReportID: id.String(), Kind: r.Kind, Format: r.Format, AsOf: r.AsOf, PolicyHash: r.PolicyHash, Digest: r.Digest,
			IssuedTo: a.Caller.ID,
		}).Value("issued_at", "clock_timestamp()").Exec(ctx)
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("issuing a report: %w", err)
	}
	return nil
}
