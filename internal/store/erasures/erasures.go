// Package erasures stores how far each erasure has come. Package tenants sets its
// tombstone and deletes its rows; this package stores the ledger's line, the counts of the
// verifying step, and the certificate. Each is recorded once, in one transaction with its
// audit event.
package erasures

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/internal/pg"
)

// Erasure is one erasure and how far it has come. A zero time is a step not taken.
type Erasure struct {
	ID            uuid.UUID
	Tenant        lifecycle.TenantID
	Trigger       lifecycle.Trigger
	SubjectDigest []byte
	RequestID     string // "" for none
	RequestedAt   time.Time
	BegunAt       time.Time
	NotedAt       time.Time // in the ledger
	DeletedAt     time.Time // from live stores
	VerifiedAt    time.Time
	VerifiedBy    string // sweep run
	CertificateID string
	CertifiedAt   time.Time
	Notice        *Notice // to the end service; nil when none is due
	Uncertified   bool    // begun before its beginning was recorded: it gets no certificate
}

// Notice is how the end service is notified of an erasure.
type Notice struct {
	Told           bool      // something was sent about the tenant before, so that there is something to delete
	AcknowledgedAt time.Time // zero: not yet
}

// Pending reports whether the end service has still to acknowledge that it deleted what
// it received.
func (n *Notice) Pending() bool { return n != nil && n.Told && n.AcknowledgedAt.IsZero() }

// State returns how far the erasure has come.
func (x Erasure) State() lifecycle.ErasureState {
	switch {
	case x.CertificateID != "":
		return lifecycle.ErasureCertified
	case !x.VerifiedAt.IsZero() && x.Notice.Pending():
		return lifecycle.ErasureAwaitingRecipient
	case !x.VerifiedAt.IsZero():
		return lifecycle.ErasureVerified
	case !x.DeletedAt.IsZero():
		return lifecycle.ErasureDeleted
	}
	return lifecycle.ErasureBegun
}

// Store stores erasures in one database.
type Store struct {
	db  *store.DB
	now func() time.Time
}

// New returns the store of db.
func New(db *store.DB, now func() time.Time) *Store { return &Store{db, now} }

// row is an erasure as bun reads it, with its certificate and its notice.
type row struct {
	bun.BaseModel `bun:"table:trakr.erasures,alias:x"`

	ErasureID, TenantID, Trigger string
	SubjectDigest                []byte
	RequestID                    *string
	RequestedAt, BegunAt         time.Time
	NotedAt, ErasedAt            *time.Time
	VerifiedAt                   *time.Time
	VerifiedBy                   *string
	CertificateID                *string
	IssuedAt                     *time.Time
	Uncertified                  bool
	Told                         *bool
	AcknowledgedAt               *time.Time
}

// selectInto begins a query for erasures with all their columns. into is a *row or a
// *[]row.
func selectInto(db bun.IDB, into any) *bun.SelectQuery {
	return db.NewSelect().Model(into).
		Column("x.erasure_id", "x.tenant_id", "x.trigger", "x.subject_digest", "x.request_id", "x.requested_at", "x.begun_at",
			"x.noted_at", "x.erased_at", "x.verified_at", "x.verified_by", "x.uncertified", "c.certificate_id", "c.issued_at", "o.told").
		ColumnExpr("CASE o.state WHEN 'acknowledged' THEN o.closed_at END AS acknowledged_at").
		Join("LEFT JOIN trakr.certificates AS c ON c.erasure_id = x.erasure_id").
		Join("LEFT JOIN trakr.outbox AS o ON o.erasure_id = x.erasure_id")
}

func (r row) erasure() (Erasure, error) {
	id, err1 := uuid.Parse(r.ErasureID)
	tenant, err2 := lifecycle.ParseTenantID(r.TenantID)
	if err := errors.Join(err1, err2); err != nil {
		return Erasure{}, fmt.Errorf("reading an erasure: %w", err)
	}
	at := func(t *time.Time) time.Time {
		if t == nil {
			return time.Time{}
		}
		return t.UTC()
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	var notice *Notice
	if r.Told != nil {
		notice = &Notice{*r.Told, at(r.AcknowledgedAt)}
	}
	return Erasure{
		ID: id, Tenant: tenant, Trigger: lifecycle.Trigger(r.Trigger), SubjectDigest: r.SubjectDigest, RequestID: text(r.RequestID),
		RequestedAt: r.RequestedAt.UTC(), BegunAt: r.BegunAt.UTC(), NotedAt: at(r.NotedAt), DeletedAt: at(r.ErasedAt),
		VerifiedAt: at(r.VerifiedAt), VerifiedBy: text(r.VerifiedBy), CertificateID: text(r.CertificateID), CertifiedAt: at(r.IssuedAt),
		Notice: notice, Uncertified: r.Uncertified,
	}, nil
}

// Get returns one erasure, or not-found.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (Erasure, error) {
	var r row
	return r.scanned(selectInto(pg.Bun(s.db), &r).Where("x.erasure_id = ?", id.String()).Scan(ctx))
}

// Of returns the erasure of a tenant, or not-found.
func (s *Store) Of(ctx context.Context, tenant lifecycle.TenantID) (Erasure, error) {
	var r row
	return r.scanned(selectInto(pg.Bun(s.db), &r).Where("x.tenant_id = ?", tenant.String()).Scan(ctx))
}

// scanned returns the erasure after a query for one, whose error is err.
func (r *row) scanned(err error) (Erasure, error) {
	err = pg.Map(err)
	if errors.Is(err, pg.ErrNoRows) {
		return Erasure{}, lifecycle.Fail(lifecycle.NotFound, "There is no such erasure.")
	}
	if err != nil {
		return Erasure{}, fmt.Errorf("reading an erasure: %w", err)
	}
	return r.erasure()
}

// Unfinished lists erasures without a certificate, oldest first, beginning after one:
// those whose values are deleted, or those whose values are not. An erasure that was begun
// before its beginning was recorded gets no certificate and is finished when it is
// verified.
func (s *Store) Unfinished(ctx context.Context, deleted bool, after Erasure, limit int) ([]Erasure, error) {
	var rows []row
	err := selectInto(pg.Bun(s.db), &rows).
		Where("c.erasure_id IS NULL AND NOT (x.uncertified AND x.verified_at IS NOT NULL)").
		Where("(x.erased_at IS NOT NULL) = ?", deleted).
		Where("(x.begun_at, x.erasure_id) > (?, ?)", after.BegunAt, after.ID.String()).
		Order("x.begun_at", "x.erasure_id").Limit(int64(limit)).Scan(ctx)
	return erasures(rows, err)
}

// List lists erasures, newest first.
func (s *Store) List(ctx context.Context, limit int) ([]Erasure, error) {
	var rows []row
	err := selectInto(pg.Bun(s.db), &rows).Order("x.begun_at DESC", "x.erasure_id DESC").Limit(int64(limit)).Scan(ctx)
	return erasures(rows, err)
}

// erasures returns the erasures after a query for several, whose error is err.
func erasures(rows []row, err error) ([]Erasure, error) {
	if err != nil {
		return nil, fmt.Errorf("listing erasures: %w", pg.Map(err))
	}
	out := make([]Erasure, 0, len(rows))
	for _, r := range rows {
		e, err := r.erasure()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Note records that the ledger contains an erasure as its line seq. An erasure that is
// recorded already stays as it is.
func (s *Store) Note(ctx context.Context, id uuid.UUID, seq int64, hash [32]byte) error {
	_, err := pg.Bun(s.db).NewUpdate().Model((*row)(nil)).
		Set("noted_at = ?", s.now().UTC()).Set("ledger_seq = ?", seq).Set("ledger_hash = ?", hash[:]).
		Where("erasure_id = ?", id.String()).Where("noted_at IS NULL").Exec(ctx)
	if err != nil {
		return fmt.Errorf("recording the ledger's line of an erasure: %w", pg.Map(err))
	}
	return nil
}

// countRow is one count of the verifying step.
type countRow struct {
	bun.BaseModel `bun:"table:trakr.erasure_counts"`

	ErasureID       string
	Step            string
	Store           string
	TableName       string
	ColumnName      string
	Retained        bool
	Rows            int64
	PredicateDigest string
}

// Verified records what the verifying step counted, with its audit event, on the word of
// a sweep's run that is over and did not fail; the database refuses any other. An erasure
// that is verified already stays as it is.
func (s *Store) Verified(ctx context.Context, a lifecycle.Access, x Erasure, run string, counts []findings.Check) error {
	now := s.now().UTC()
	if now.Before(x.DeletedAt) { // replicas' clocks differ; the order of the steps does not
		now = x.DeletedAt
	}
	e := audit.New(ctx, now, a, audit.ErasureVerify, audit.Success)
	e.TenantID, e.CorrelationID, e.StatusDetail = x.Tenant, x.ID.String(), "clean"
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewUpdate().Model((*row)(nil)).Set("verified_at = ?", now).Set("verified_by = ?", run).
			Where("erasure_id = ?", x.ID.String()).Where("verified_at IS NULL").Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		for _, c := range counts {
			r := countRow{
				ErasureID: x.ID.String(), Step: "verify", Store: c.Store, TableName: c.Table, ColumnName: c.Column,
				Retained: c.Disposition == findings.Retained, Rows: c.Rows, PredicateDigest: c.PredicateDigest,
			}
			if _, err := tx.NewInsert().Model(&r).Exec(ctx); err != nil {
				return err
			}
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("recording a verified erasure: %w", err)
	}
	return nil
}

// countSubject counts as the counting role, which sees every row. Its digest is part of
// a certificate.
const countSubject = `SELECT count AS rows FROM door.count_subject(?) AS count`

// CountSubject counts the registered tenants that any of these keyed digests recognises.
func (s *Store) CountSubject(ctx context.Context, digests []keyring.Digest) (findings.Check, error) {
	var row struct{ Rows int64 }
	all := make([][]byte, len(digests))
	for i, d := range digests {
		all[i] = d
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(countSubject, pgdialect.Array(all)).Scan(ctx, &row))
	if err != nil {
		return findings.Check{}, fmt.Errorf("counting the tenants of a name: %w", err)
	}
	return findings.Check{
		Store: "database", Table: "trakr.tenants", Column: "subject_digest", Disposition: findings.Checked,
		Rows: row.Rows, PredicateDigest: findings.Digest(countSubject),
	}, nil
}

// VerifiedNothing records that no tenant exists under a name that a request gave.
func (s *Store) VerifiedNothing(ctx context.Context, a lifecycle.Access, request string, subject keyring.Digest) error {
	e := audit.New(ctx, s.now(), a, audit.ErasureVerify, audit.Success)
	e.CorrelationID, e.SubjectDigest, e.StatusDetail = request, subject.String(), "clean"
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}

// Evidence is what the deleting and the verifying step counted of one table.
type Evidence struct {
	Store, Table, Column string
	Retained             bool
	Before, Deleted      int64 // zero in a table of which the deleting step deletes nothing
	After                int64
	PredicateDigest      string
}

const selectEvidence = `SELECT v.store, v.table_name, v.column_name, v.retained, v.predicate_digest, v.rows AS after,
		coalesce(d.rows_before, 0) AS before, coalesce(d.rows, 0) AS deleted
	FROM trakr.erasure_counts AS v LEFT JOIN trakr.erasure_counts AS d ON d.erasure_id = v.erasure_id AND d.step = 'delete'
		AND d.store = v.store AND d.table_name = v.table_name AND d.column_name = v.column_name
	WHERE v.erasure_id = ? AND v.step = 'verify' ORDER BY v.store, v.table_name, v.column_name`

// Evidence returns the counts of an erasure, table by table.
func (s *Store) Evidence(ctx context.Context, id uuid.UUID) ([]Evidence, error) {
	var rows []struct {
		Store, TableName, ColumnName, PredicateDigest string
		Retained                                      bool
		Before, Deleted, After                        int64
	}
	if err := pg.Bun(s.db).NewRaw(selectEvidence, id.String()).Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("reading an erasure's counts: %w", pg.Map(err))
	}
	out := make([]Evidence, len(rows))
	for i, r := range rows {
		out[i] = Evidence{r.Store, r.TableName, r.ColumnName, r.Retained, r.Before, r.Deleted, r.After, r.PredicateDigest}
	}
	return out, nil
}

// Certificate is one that was issued: of an erasure, or of a request for which no tenant
// was found.
type Certificate struct {
	ID, ErasureID, RequestID string
	IssuedAt                 time.Time
	Document                 string
}

// certificateRow is a certificate as bun reads and writes it.
type certificateRow struct {
	bun.BaseModel `bun:"table:trakr.certificates,alias:c"`

	CertificateID string
	ErasureID     string `bun:",nullzero"`
	RequestID     string `bun:",nullzero"`
	IssuedAt      time.Time
	Document      string
}

// Issue stores a certificate with its audit event. There is one for each erasure and
// each request: when another process issued one before, that one is returned.
func (s *Store) Issue(ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, c Certificate) (Certificate, error) {
	e := audit.New(ctx, c.IssuedAt, a, audit.ErasureIssue, audit.Success)
	e.TenantID, e.CorrelationID, e.StatusDetail = tenant, c.ErasureID, c.ID
	if c.ErasureID == "" {
		e.CorrelationID = c.RequestID
	}
	issued := c
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		r := certificateRow{CertificateID: c.ID, ErasureID: c.ErasureID, RequestID: c.RequestID, IssuedAt: c.IssuedAt, Document: c.Document}
		res, err := tx.NewInsert().Model(&r).On("CONFLICT DO NOTHING").Returning("NULL").Exec(ctx)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == 1 {
			return audit.Append(ctx, tx, e)
		}
		var before certificateRow
		issued, err = before.scanned(tx.NewSelect().Model(&before).Where("erasure_id = NULLIF(?, '')::uuid", c.ErasureID).
			WhereOr("request_id = NULLIF(?, '')::uuid", c.RequestID).Limit(1).Scan(ctx))
		return err
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	return issued, nil
}

// CertificateOf returns the certificate of an erasure or of a request, or not-found.
func (s *Store) CertificateOf(ctx context.Context, id uuid.UUID) (Certificate, error) {
	var r certificateRow
	return r.scanned(pg.Bun(s.db).NewSelect().Model(&r).Where("erasure_id = ?", id.String()).WhereOr("request_id = ?", id.String()).
		WhereOr("erasure_id IN (SELECT x.erasure_id FROM trakr.erasures AS x WHERE x.request_id = ?)", id.String()).Limit(1).Scan(ctx))
}

// scanned returns the certificate after a query for one, whose error is err.
func (r *certificateRow) scanned(err error) (Certificate, error) {
	err = pg.Map(err)
	if errors.Is(err, pg.ErrNoRows) {
		return Certificate{}, lifecycle.Fail(lifecycle.NotFound, "There is no certificate yet; one is issued within minutes "+
			"after the erasure, once its events are in the log and the sweep has counted.")
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("reading a certificate: %w", err)
	}
	return Certificate{
		ID: r.CertificateID, ErasureID: r.ErasureID, RequestID: r.RequestID, IssuedAt: r.IssuedAt.UTC(), Document: r.Document,
	}, nil
}
