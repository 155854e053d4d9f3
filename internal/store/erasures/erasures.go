// Package erasures keeps how far each erasure has come: its tombstone is set and its
// rows are deleted by the door (store/tenants); here are the ledger's line, the
// counts of the verifying step, and the certificate. Each is entered once, in one
// transaction with its audit event.
package erasures

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	DeletedAt     time.Time // gone from live stores
	VerifiedAt    time.Time
	VerifiedBy    string // sweep run
	CertificateID string
	CertifiedAt   time.Time
	Notice        *Notice // to the end service; nil when it was not to be told
	Uncertified   bool    // begun before its beginning was recorded: no certificate can rest on it
}

// Notice is how the end service was told of an erasure.
type Notice struct {
	Told           bool      // something was sent about the tenant before, so that there is something to delete
	AcknowledgedAt time.Time // zero: not yet
}

// Pending reports whether the end service has still to acknowledge that it deleted what
// it was told.
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

// Store keeps erasures in one database.
type Store struct {
	db  *store.DB
	now func() time.Time
}

// New returns the store of db.
func New(db *store.DB, now func() time.Time) *Store { return &Store{db, now} }

// row is an erasure as bun reads it.
type row struct {
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

const columns = `x.erasure_id, x.tenant_id, x.trigger, x.subject_digest, x.request_id, x.requested_at, x.begun_at, x.noted_at, x.erased_at,
	x.verified_at, x.verified_by, x.uncertified, c.certificate_id, c.issued_at, o.told, CASE o.state WHEN 'acknowledged' THEN o.closed_at END AS acknowledged_at
	FROM trakr.erasures AS x LEFT JOIN trakr.certificates AS c ON c.erasure_id = x.erasure_id LEFT JOIN trakr.outbox AS o ON o.erasure_id = x.erasure_id`

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
	return Erasure{ID: id, Notice: notice, Tenant: tenant, Trigger: lifecycle.Trigger(r.Trigger), SubjectDigest: r.SubjectDigest, RequestID: text(r.RequestID),
		RequestedAt: r.RequestedAt.UTC(), BegunAt: r.BegunAt.UTC(), NotedAt: at(r.NotedAt), DeletedAt: at(r.ErasedAt), VerifiedAt: at(r.VerifiedAt),
		VerifiedBy: text(r.VerifiedBy), CertificateID: text(r.CertificateID), CertifiedAt: at(r.IssuedAt), Uncertified: r.Uncertified}, nil
}

func (s *Store) one(ctx context.Context, which string, args ...any) (Erasure, error) {
	var r row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+which, args...).Scan(ctx, &r))
	if errors.Is(err, pg.ErrNoRows) {
		return Erasure{}, lifecycle.Fail(lifecycle.NotFound, "There is no such erasure.")
	}
	if err != nil {
		return Erasure{}, fmt.Errorf("reading an erasure: %w", err)
	}
	return r.erasure()
}

// Get returns one erasure, or not-found.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (Erasure, error) {
	return s.one(ctx, ` WHERE x.erasure_id = ?`, id.String())
}

// Of returns the erasure of a tenant, or not-found.
func (s *Store) Of(ctx context.Context, tenant lifecycle.TenantID) (Erasure, error) {
	return s.one(ctx, ` WHERE x.tenant_id = ?`, tenant.String())
}

// Unfinished lists erasures without a certificate whose values are gone, or are not,
// oldest first. One that was begun
// before its beginning was recorded gets none and is finished when it is verified.
func (s *Store) Unfinished(ctx context.Context, deleted bool, after Erasure, limit int) ([]Erasure, error) {
	return s.several(ctx, ` WHERE c.erasure_id IS NULL AND NOT (x.uncertified AND x.verified_at IS NOT NULL) AND (x.erased_at IS NOT NULL) = ? AND (x.begun_at, x.erasure_id) > (?, ?)
		ORDER BY x.begun_at, x.erasure_id LIMIT ?`, deleted, after.BegunAt, after.ID.String(), limit)
}

// List lists erasures, newest first.
func (s *Store) List(ctx context.Context, limit int) ([]Erasure, error) {
	return s.several(ctx, ` ORDER BY x.begun_at DESC, x.erasure_id DESC LIMIT ?`, limit)
}

func (s *Store) several(ctx context.Context, which string, args ...any) ([]Erasure, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+which, args...).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing erasures: %w", err)
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

// Note enters that the ledger has an erasure as its line seq. Done before is a
// success.
func (s *Store) Note(ctx context.Context, id uuid.UUID, seq int64, hash [32]byte) error {
	_, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.erasures SET noted_at = ?, ledger_seq = ?, ledger_hash = ? WHERE erasure_id = ? AND noted_at IS NULL`,
		s.now().UTC(), seq, hash[:], id.String()).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting an erasure: %w", pg.Map(err))
	}
	return nil
}

// Verified enters what the verifying step counted, with its audit event, by a sweep's
// run that is over and did not fail; the database refuses any other. Done before is a
// success and changes nothing.
func (s *Store) Verified(ctx context.Context, a lifecycle.Access, x Erasure, run string, counts []findings.Check) error {
	now := s.now().UTC()
	if now.Before(x.DeletedAt) { // replicas' clocks differ; the order of the steps does not
		now = x.DeletedAt
	}
	e := audit.New(ctx, now, a, audit.ErasureVerify, audit.Success)
	e.TenantID, e.CorrelationID, e.StatusDetail = x.Tenant, x.ID.String(), "clean"
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewRaw(`UPDATE trakr.erasures SET verified_at = ?, verified_by = ? WHERE erasure_id = ? AND verified_at IS NULL`, now, run, x.ID.String()).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		for _, c := range counts {
			_, err := tx.NewRaw(`INSERT INTO trakr.erasure_counts (erasure_id, step, store, table_name, column_name, retained, rows, predicate_digest)
				VALUES (?, 'verify', ?, ?, ?, ?, ?, ?)`, x.ID.String(), c.Store, c.Table, c.Column, c.Disposition == findings.Retained, c.Rows, c.PredicateDigest).Exec(ctx)
			if err != nil {
				return err
			}
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("entering a verified erasure: %w", err)
	}
	return nil
}

// CountSubject asks the counting role how many registered tenants are recognised by
// any of these keyed digests, and returns the digest of the SQL as well.
func (s *Store) CountSubject(ctx context.Context, digests []keyring.Digest) (findings.Check, error) {
	const sql = `SELECT count AS rows FROM door.count_subject(?) AS count`
	var row struct{ Rows int64 }
	all := make([][]byte, len(digests))
	for i, d := range digests {
		all[i] = d
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(sql, pgdialect.Array(all)).Scan(ctx, &row))
	if err != nil {
		return findings.Check{}, fmt.Errorf("counting what is held under a name: %w", err)
	}
	sum := sha256.Sum256([]byte(sql))
	return findings.Check{Store: "database", Table: "trakr.tenants", Column: "subject_digest", Disposition: findings.Checked, Rows: row.Rows, PredicateDigest: hex.EncodeToString(sum[:])}, nil
}

// VerifiedNothing records that nothing is held under a name that a request gave.
func (s *Store) VerifiedNothing(ctx context.Context, a lifecycle.Access, request string, subject keyring.Digest) error {
	e := audit.New(ctx, s.now(), a, audit.ErasureVerify, audit.Success)
	e.CorrelationID, e.SubjectDigest, e.StatusDetail = request, subject.String(), "clean"
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}

// Evidence is what the deleting and the verifying step counted of one table.
type Evidence struct {
	Store, Table, Column string
	Retained             bool
	Before, Deleted      int64 // zero where the deleting step has no business
	After                int64
	PredicateDigest      string
}

// Evidence returns the counts of an erasure, table by table.
func (s *Store) Evidence(ctx context.Context, id uuid.UUID) ([]Evidence, error) {
	var rows []struct {
		Store, TableName, ColumnName, PredicateDigest string
		Retained                                      bool
		Before, Deleted, After                        int64
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT v.store, v.table_name, v.column_name, v.retained, v.predicate_digest, v.rows AS after,
			coalesce(d.rows_before, 0) AS before, coalesce(d.rows, 0) AS deleted
		FROM trakr.erasure_counts AS v LEFT JOIN trakr.erasure_counts AS d ON d.erasure_id = v.erasure_id AND d.step = 'delete'
			AND d.store = v.store AND d.table_name = v.table_name AND d.column_name = v.column_name
		WHERE v.erasure_id = ? AND v.step = 'verify' ORDER BY v.store, v.table_name, v.column_name`, id.String()).Scan(ctx, &rows))
	if err != nil {
		return nil, fmt.Errorf("reading an erasure's counts: %w", err)
	}
	out := make([]Evidence, len(rows))
	for i, r := range rows {
		out[i] = Evidence{r.Store, r.TableName, r.ColumnName, r.Retained, r.Before, r.Deleted, r.After, r.PredicateDigest}
	}
	return out, nil
}

// Certificate is one that was issued: of an erasure, or of a request under which
// nothing was held.
type Certificate struct {
	ID, ErasureID, RequestID string
	IssuedAt                 time.Time
	Document                 string
}

// Issue stores a certificate with its audit event. There is one for each erasure and
// each request: when another process was quicker, its certificate is returned.
func (s *Store) Issue(ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, c Certificate) (Certificate, error) {
	e := audit.New(ctx, c.IssuedAt, a, audit.ErasureIssue, audit.Success)
	e.TenantID, e.CorrelationID, e.StatusDetail = tenant, c.ErasureID, c.ID
	if c.ErasureID == "" {
		e.CorrelationID = c.RequestID
	}
	issued := c
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewRaw(`INSERT INTO trakr.certificates (certificate_id, erasure_id, request_id, issued_at, document)
			VALUES (?, NULLIF(?, '')::uuid, NULLIF(?, '')::uuid, ?, ?) ON CONFLICT DO NOTHING`, c.ID, c.ErasureID, c.RequestID, c.IssuedAt, c.Document).Exec(ctx)
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
		issued, err = certificate(ctx, tx, `erasure_id = NULLIF(?, '')::uuid OR request_id = NULLIF(?, '')::uuid`, c.ErasureID, c.RequestID)
		return err
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	return issued, nil
}

// CertificateOf returns the certificate of an erasure or of a request, or not-found.
func (s *Store) CertificateOf(ctx context.Context, id uuid.UUID) (Certificate, error) {
	return certificate(ctx, pg.Bun(s.db), `erasure_id = ?0 OR request_id = ?0 OR erasure_id IN (SELECT x.erasure_id FROM trakr.erasures AS x WHERE x.request_id = ?0)`, id.String())
}

func certificate(ctx context.Context, db bun.IDB, which string, args ...any) (Certificate, error) {
	var r struct {
		CertificateID        string
		ErasureID, RequestID *string
		IssuedAt             time.Time
		Document             string
	}
	err := pg.Map(db.NewRaw(`SELECT certificate_id, erasure_id, request_id, issued_at, document FROM trakr.certificates WHERE `+which+` LIMIT 1`, args...).Scan(ctx, &r))
	if errors.Is(err, pg.ErrNoRows) {
		return Certificate{}, lifecycle.Fail(lifecycle.NotFound, "There is no certificate yet; one is issued within minutes after the erasure, once its events stand in the log and the sweep has counted.")
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("reading a certificate: %w", err)
	}
	c := Certificate{ID: r.CertificateID, IssuedAt: r.IssuedAt.UTC(), Document: r.Document}
	if r.ErasureID != nil {
		c.ErasureID = *r.ErasureID
	}
	if r.RequestID != nil {
		c.RequestID = *r.RequestID
	}
	return c, nil
}
