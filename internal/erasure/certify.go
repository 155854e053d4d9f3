package erasure

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/policy"
)

// countingRole is the database role that counts (door.count_tenant belongs to it).
const countingRole = "trakr_sweep"

// certify issues the certificate of a verified erasure.
func (e *Eraser) certify(ctx context.Context, a lifecycle.Access, x erasures.Erasure, _ basis) error {
	if e.Awaits(x) {
		return ErrAwaitsRecipient
	}
	events, err := e.evidence(ctx, x.Tenant, x.ID.String(), x.BegunAt,
		audit.ErasureBegin, audit.TenantErase, audit.ErasureVerify, audit.DeliveryAcknowledge)
	if err != nil {
		return err
	}
	counts, err := e.c.Erasures.Evidence(ctx, x.ID)
	if err != nil {
		return err
	}
	c := e.blank(certificate.Erased, events)
	c.TenantID, c.ErasureID, c.RequestID = x.Tenant.String(), x.ID.String(), x.RequestID
	c.SubjectDigest, c.Trigger = hex.EncodeToString(x.SubjectDigest), x.Trigger
	c.RequestedAt, c.StartedAt, c.DeletedLiveAt = certificate.At(x.RequestedAt), certificate.At(x.BegunAt), certificate.At(x.DeletedAt)
	c.BackupsClearAfter = certificate.At(x.DeletedAt.Add(e.c.Policy.BackupWindow().Duration()))
	c.Method = []string{certificate.RowDelete, certificate.BackupExpiry}
	c.Stores, c.Verification.PredicateDigest = e.stores(counts)
	c.Recipients, c.RecipientsNote = e.recipients(x)
	c.Retained = e.retained(x)
	if c.Hold, err = e.hold(ctx, x); err != nil {
		return err
	}
	c.Verification.SweepRunID, c.Verification.VerifiedAt = x.VerifiedBy, certificate.At(x.VerifiedAt)
	_, err = e.issue(ctx, a, x.Tenant, c)
	return err
}

// ErrAwaitsRecipient means that an erasure is done and verified, and that its
// certificate waits for the acknowledgement of a recipient of the tenant's data.
var ErrAwaitsRecipient = errors.New("the end service has not acknowledged that it deleted the data it received")

// Awaits reports whether the certificate waits. Each erasure has one certificate, and
// where the policy makes the acknowledgement a part of the erasure it contains its time.
// Until then the values are deleted and verified.
func (e *Eraser) Awaits(x erasures.Erasure) bool {
	d, ok := e.c.Policy.Destination(lifecycle.ToEndService)
	return ok && d.Required && x.Notice.Pending()
}

// recipients returns the recipients of the tenant's data, or why there is none.
func (e *Eraser) recipients(x erasures.Erasure) ([]certificate.Recipient, string) {
	switch {
	case x.Notice == nil:
		return nil, "This service was not set up to tell another party of this tenant."
	case !x.Notice.Told && x.Notice.AcknowledgedAt.IsZero():
		return nil, "The end service had been told nothing of this tenant. It is told of the erasure all the same."
	}
	name := "end service"
	if d, ok := e.c.Policy.Destination(lifecycle.ToEndService); ok {
		name = d.Party
	}
	return []certificate.Recipient{{Name: name, AcknowledgedAt: certificate.At(x.Notice.AcknowledgedAt)}}, ""
}

// Nothing is a request about a name under which no data is stored, or no longer.
type Nothing struct {
	RequestID   string
	Digests     []keyring.Digest // of the name the customer gave, newest key first
	RequestedAt time.Time
	SweepRun    string // the newest clean sweep for rows of tenants that are not registered
}

// ErrHeld means that a tenant is stored under the name after all.
var ErrHeld = errors.New("a tenant is stored under this name")

// CertifyNothing lets the counting role look for the name that a request gave, and
// issues a certificate that no data is stored under it. There is one for each request.
func (e *Eraser) CertifyNothing(ctx context.Context, a lifecycle.Access, n Nothing) (erasures.Certificate, error) {
	request, err := uuid.Parse(n.RequestID)
	if err != nil || len(n.Digests) == 0 {
		return erasures.Certificate{}, errors.New("certifying that no data is stored needs a request and the digests of a name")
	}
	done, err := e.c.Erasures.CertificateOf(ctx, request)
	if !errors.Is(err, lifecycle.NotFound) {
		return done, err
	}
	count, err := e.c.Erasures.CountSubject(ctx, n.Digests)
	if err != nil {
		return erasures.Certificate{}, err
	}
	if count.Rows > 0 {
		return erasures.Certificate{}, ErrHeld
	}
	events, err := e.evidence(ctx, lifecycle.TenantID{}, n.RequestID, n.RequestedAt, audit.ErasureVerify)
	if err != nil && !errors.Is(err, audit.ErrNoCheckpoint) { // an empty log has no such event
		return erasures.Certificate{}, err
	}
	if len(events) == 0 { // no earlier attempt recorded it before a crash
		if err := e.c.Erasures.VerifiedNothing(ctx, a, n.RequestID, n.Digests[0]); err != nil {
			return erasures.Certificate{}, err
		}
		e.AwaitSequencing(ctx)
		if events, err = e.evidence(ctx, lifecycle.TenantID{}, n.RequestID, n.RequestedAt, audit.ErasureVerify); err != nil {
			return erasures.Certificate{}, err
		}
	}
	c := e.blank(certificate.NothingHeld, events)
	c.RequestID, c.Trigger = n.RequestID, lifecycle.TriggerRequest
	c.SubjectDigest, c.RequestedAt = n.Digests[0].String(), certificate.At(n.RequestedAt)
	c.Stores = []certificate.Store{{Name: count.Store, Location: e.where(count.Store), Table: count.Table}}
	c.Verification.PredicateDigest, c.Verification.SweepRunID = count.PredicateDigest, n.SweepRun
	if len(events) > 0 {
		if c.Verification.VerifiedAt, err = occurredAt(events[len(events)-1].Record); err != nil {
			return erasures.Certificate{}, err
		}
	}
	return e.issue(ctx, a, lifecycle.TenantID{}, c)
}

// RenderCertificate returns the certificate of an erasure, or of a request, in a format
// (certificate.JSON, HTML or PDF), and records in the audit that it was issued to the
// caller.
func (e *Eraser) RenderCertificate(ctx context.Context, a lifecycle.Access, id uuid.UUID, f certificate.Format) ([]byte, error) {
	if err := a.CheckReason(); err != nil {
		return nil, err
	}
	stored, err := e.c.Erasures.CertificateOf(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := certificate.Parse([]byte(stored.Document))
	if err != nil {
		return nil, err
	}
	out, err := c.Render(f)
	if err != nil {
		return nil, err
	}
	a.CorrelationID = stored.ID
	ev := audit.New(ctx, e.c.Now(), a, audit.ReportIssue, audit.Success)
	ev.StatusDetail = "certificate " + string(f)
	if c.TenantID != "" {
		if ev.TenantID, err = lifecycle.ParseTenantID(c.TenantID); err != nil {
			return nil, err
		}
	}
	return out, e.c.Log.Record(ctx, ev)
}

// AwaitSequencing gives the events that were just recorded their positions in the log, or
// waits for the process that does: a few passes of the sequencer at most.
func (e *Eraser) AwaitSequencing(ctx context.Context) {
	for range 16 {
		if e.c.Sequence != nil {
			if err := e.c.Sequence(ctx); err != nil {
				e.c.Slog.WarnContext(ctx, "the log could not be sequenced", "error", err)
				return
			}
		}
		if b, err := e.c.Log.Backlog(ctx); err != nil || b.Oldest.IsZero() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// evidence returns the inclusion proofs of the events of an erasure or a request. An event
// without a position in the log is not-found.
func (e *Eraser) evidence(
	ctx context.Context, tenant lifecycle.TenantID, correlation string, since time.Time, actions ...audit.Action,
) ([]audit.Proof, error) {
	// recorded_at is the database's clock: a day is more than any two clocks differ.
	return e.c.Log.Evidence(ctx, tenant, correlation, since.Add(-24*time.Hour), actions...)
}

// blank returns what every certificate contains.
func (e *Eraser) blank(s certificate.State, events []audit.Proof) certificate.Certificate {
	c := certificate.Certificate{
		State: s, Issuer: e.c.Policy.Vendor.Name, ToolVersion: e.c.Version, PolicyHash: e.c.Policy.Hash(),
		Verification: certificate.Verification{Result: certificate.Clean, Role: countingRole},
	}
	for _, p := range events {
		c.Audit.Events = append(c.Audit.Events, certificate.Event{
			EventID: p.EventID, LogIndex: p.LogIndex, Record: p.Record, Inclusion: p.Inclusion,
		})
		c.Audit.LogIndexes = append(c.Audit.LogIndexes, p.LogIndex)
		c.Audit.Checkpoint = p.Checkpoint
	}
	return c
}

// issue signs and stores a certificate.
func (e *Eraser) issue(
	ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, c certificate.Certificate,
) (erasures.Certificate, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return erasures.Certificate{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	now := e.c.Now().UTC()
	if now.Before(c.Verification.VerifiedAt.Time) { // replicas' clocks differ; the order of the steps does not
		now = c.Verification.VerifiedAt.Time
	}
	c.CertificateID, c.IssuedAt = id.String(), certificate.At(now)
	document, err := certificate.Issue(c, e.c.Log.Signer(), e.c.Log.Verifier())
	if err != nil {
		return erasures.Certificate{}, err
	}
	return e.c.Erasures.Issue(ctx, a, tenant, erasures.Certificate{
		ID: c.CertificateID, ErasureID: c.ErasureID, RequestID: requestOnly(c), IssuedAt: now, Document: string(document),
	})
}

// requestOnly returns the request that a certificate is stored under: empty when it has an
// erasure, because the certificate is then found by the erasure.
func requestOnly(c certificate.Certificate) string {
	if c.ErasureID != "" {
		return ""
	}
	return c.RequestID
}

// stores sums the counts of each table, without the rows that the policy retains, and
// returns the digest over every predicate that the database counted by.
func (e *Eraser) stores(counts []erasures.Evidence) ([]certificate.Store, string) {
	var out []certificate.Store
	asked := sha256.New()
	for _, c := range counts {
		fmt.Fprintf(asked, "%s %s %s\n", c.Table, c.Column, c.PredicateDigest)
		if c.Retained {
			continue
		}
		if n := len(out); n == 0 || out[n-1].Name != c.Store || out[n-1].Table != c.Table {
			out = append(out, certificate.Store{Name: c.Store, Location: e.where(c.Store), Table: c.Table})
		}
		s := &out[len(out)-1]
		s.RowsBefore, s.RowsDeleted, s.RowsAfter = s.RowsBefore+c.Before, s.RowsDeleted+c.Deleted, s.RowsAfter+c.After
	}
	return out, hex.EncodeToString(asked.Sum(nil))
}

// where returns a store's location as the policy declares it.
func (e *Eraser) where(store string) string {
	for _, s := range e.c.Policy.Stores {
		if s.Name == store {
			return fmt.Sprintf("%s (%s), %s; %s, %s", s.City, s.Region, s.Country, s.Provider, s.Product)
		}
	}
	return "not declared"
}

// hold returns the last legal hold that delayed the deletion of an erasure, or nil.
func (e *Eraser) hold(ctx context.Context, x erasures.Erasure) (*certificate.Hold, error) {
	all, err := e.c.Holds.List(ctx, x.Tenant, time.Time{})
	if err != nil {
		return nil, err
	}
	var out *certificate.Hold
	var last time.Time
	for _, h := range all {
		end, state := h.Until, certificate.HoldExpired
		if h.ReleasedAt != nil && h.ReleasedAt.Before(end) {
			end, state = *h.ReleasedAt, certificate.HoldReleased
		}
		if h.PlacedAt.Before(x.DeletedAt) && end.After(x.BegunAt) && end.After(last) {
			out, last = &certificate.Hold{Ground: string(h.Ground), Until: certificate.At(h.Until), State: state}, end
		}
	}
	return out, nil
}

// retained lists what outlives the erasure, and until when.
func (e *Eraser) retained(x erasures.Erasure) []certificate.Retained {
	var out []certificate.Retained
	for _, k := range e.c.Policy.Outlives() {
		until := "no period is declared"
		switch r, ok := e.c.Policy.Period(k.Class); {
		case ok && r.ExecutedBy == policy.ByServiceEnd:
			until = "the service ends"
		case ok: // the youngest retained row is of this erasure
			until = x.DeletedAt.Add(r.Period.Duration()).UTC().Format(time.DateOnly)
		}
		out = append(out, certificate.Retained{What: k.Where + ": " + k.What, Ground: k.Ground, Until: until})
	}
	return out
}

// occurredAt reads the time of a record.
func occurredAt(record string) (certificate.Time, error) {
	var r struct {
		OccurredAt time.Time `json:"occurred_at"`
	}
	if err := json.Unmarshal([]byte(record), &r); err != nil {
		return certificate.Time{}, errors.New("a record of the log cannot be read")
	}
	return certificate.At(r.OccurredAt), nil
}
