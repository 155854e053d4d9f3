// Package erasure carries out one erasure from end to end, whatever its trigger: an
// uninstall, a request, a missed uninstall, a period that ended, a restored backup.
//
// It is a sequence of steps, listed in Eraser.steps. Each step is durable when it
// returns and harmless when it is repeated, so that after a crash between any two the
// next caller continues: the repeated callback, the sweep of erasures, or the next start.
// A comment at each step explains what a crash there means.
package erasure

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"trakr/internal/drift"
	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

// Config is what an eraser works with.
type Config struct {
	Door     *tenants.Door
	Erasures *erasures.Store
	Census   *census.Store
	Holds    *holds.Store
	Log      *audit.Log // with its key: certificates are signed with it
	Keys     *keyring.Keyring
	Policy   *policy.Policy
	Ledger   ledger.Ledger
	Version  string // of this program, for certificates
	Now      func() time.Time
	Slog     *slog.Logger

	// Sequence gives waiting events their positions where no service runs that does
	// it every second; nil where one does.
	Sequence func(context.Context) error
	// Begun, if given, is called when an erasure waits for a step that only the sweep takes.
	Begun func()
	// After, if given, is called when a step is durable, for tests that kill the process
	// there.
	After func(step string)
}

// Eraser erases tenants. It is safe for concurrent use.
type Eraser struct{ c Config }

// New returns an eraser.
func New(c Config) (*Eraser, error) {
	if c.Door == nil || c.Erasures == nil || c.Census == nil || c.Holds == nil || c.Log == nil || c.Keys == nil ||
		c.Policy == nil || c.Ledger == nil || c.Now == nil || c.Slog == nil {
		return nil, errors.New("an eraser needs a door, stores, a log, keys, a policy, a ledger and a clock")
	}
	if c.After == nil {
		c.After = func(string) {}
	}
	if c.Begun == nil {
		c.Begun = func() {}
	}
	return &Eraser{c}, nil
}

// Order is why a tenant is erased.
type Order = tenants.Erasure

// Outcome is the progress of an erasure when Erase returns.
type Outcome struct {
	ErasureID string         // "" when the delivery changed nothing
	Result    tenants.Result // Applied, or why the delivery changed nothing
	Already   bool           // the tenant's erasure had begun before
	Deleted   bool           // the live stores contain no data of the tenant
	// Delay is why the values are not deleted yet although the erasure has begun: the
	// ledger or the database does not answer, or a legal hold is in force (on-hold). Until
	// then the tenant answers nothing, and the sweep continues the erasure.
	Delay error
}

// The names of the steps.
const (
	Begin   = "begin"
	Note    = "note"
	Delete  = "delete"
	Verify  = "verify"
	Certify = "certify"
)

// Steps lists the steps in order.
func Steps() []string { return []string{Begin, Note, Delete, Verify, Certify} }

// Erase begins the erasure of a tenant and continues until its values are deleted. It
// returns an error only when no erasure was begun. A tenant whose erasure had begun before
// is a success.
func (e *Eraser) Erase(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, o Order) (Outcome, error) {
	// A crash before the commit of this step leaves a live tenant, and the caller without
	// an answer: it orders the erasure again. After it the tenant answers nothing, and the
	// sweep knows its tombstone.
	begun, result, err := e.c.Door.BeginErasure(ctx, a, id, o)
	out := Outcome{Result: result}
	switch {
	case errors.Is(err, lifecycle.TenantErased):
		x, err := e.c.Erasures.Of(ctx, id)
		if err != nil {
			return Outcome{}, err
		}
		begun, out.Result, out.Already = x.ID, tenants.Applied, true
	case err != nil:
		return Outcome{}, err
	case result != tenants.Applied:
		return out, nil
	default:
		e.c.After(Begin)
	}
	out.ErasureID = begun.String()
	x, err := e.advance(ctx, a, begun, Delete, basis{})
	out.Deleted, out.Delay = !x.DeletedAt.IsZero(), err
	e.c.Begun()
	if errors.Is(err, lifecycle.OnHold) && !out.Already {
		// The log records once that a legal hold keeps the values. When it cannot, the hold
		// and the tombstone are still in the database.
		out.Delay = errors.Join(err, e.heldBack(ctx, a, id, begun))
	}
	if err != nil {
		e.c.Slog.WarnContext(ctx, "an erasure has begun and waits", "erasure_id", out.ErasureID, "error", err)
	}
	return out, nil
}

// heldBack records that a legal hold keeps a tenant's values.
func (e *Eraser) heldBack(ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, id uuid.UUID) error {
	ev := audit.New(ctx, e.c.Now(), a, audit.TenantErase, audit.Denied)
	ev.TenantID, ev.CorrelationID, ev.StatusDetail = tenant, id.String(), string(lifecycle.OnHold)
	return e.c.Log.Record(ctx, ev)
}

// Finish takes every missing step of an erasure, up to its certificate. The verifying step
// refers to run, a sweep that has ended and did not fail.
func (e *Eraser) Finish(ctx context.Context, a lifecycle.Access, id uuid.UUID, run string) error {
	_, err := e.advance(ctx, a, id, Certify, basis{run: run})
	return err
}

// Counted is an erasure whose tenant has no rows left, before its counts are stored.
type Counted struct {
	ID     uuid.UUID
	counts []findings.Check
}

// Count takes the steps up to the deletion, and lets the counting role count the rows that
// are left. It does not store the counts: the calling sweep can still fail, and no
// certificate may refer to a failed sweep. Certify continues once the sweep's run is stored.
// An erasure that was verified before is certified here, and nil is returned, unless an
// event of it has no position in the log yet.
func (e *Eraser) Count(ctx context.Context, a lifecycle.Access, id uuid.UUID) (*Counted, error) {
	x, err := e.advance(ctx, a, id, Delete, basis{})
	if err != nil {
		return nil, err
	}
	if !x.VerifiedAt.IsZero() {
		_, err := e.advance(ctx, a, id, Certify, basis{})
		if errors.Is(err, lifecycle.NotFound) {
			return &Counted{ID: id}, nil
		}
		return nil, err
	}
	counts, err := e.count(ctx, x)
	if err != nil {
		return nil, &pending{Verify, err}
	}
	return &Counted{id, counts}, nil
}

// Certify verifies and certifies an erasure by the counts of a run that is stored now. A
// crash before it loses the counts, and the next run counts again.
func (e *Eraser) Certify(ctx context.Context, a lifecycle.Access, c Counted, run string) error {
	_, err := e.advance(ctx, a, c.ID, Certify, basis{run, c.counts})
	return err
}

// basis is the sweep's run that the verifying step refers to, and its counts if it has
// counted already.
type basis struct {
	run    string
	counts []findings.Check
}

// step is one step of an erasure.
type step struct {
	name string
	done func(erasures.Erasure) bool
	take func(ctx context.Context, a lifecycle.Access, x erasures.Erasure, b basis) error
}

// steps is the whole erasure after its tombstone, in order.
func (e *Eraser) steps() []step {
	return []step{
		// The ledger comes before the first value is deleted, so that a backup which is
		// restored at any later moment is known to be too old. A crash between the
		// line and its mark in the database: the line is found by the erasure's id
		// and marked, not written twice.
		{Note, func(x erasures.Erasure) bool { return !x.NotedAt.IsZero() }, e.note},
		// Values, rows, registry, event and counts go in one transaction. A crash
		// before its commit leaves everything, after it nothing.
		{Delete, func(x erasures.Erasure) bool { return !x.DeletedAt.IsZero() }, e.delete},
		// Another role counts, in every table of the catalog, for a run that is over
		// before the counts are entered. A crash before that: they are counted again.
		{Verify, func(x erasures.Erasure) bool { return !x.VerifiedAt.IsZero() }, e.verify},
		// The certificate is stored once, and where the policy requires it not before the end
		// service acknowledged: later sweeps retry it. After a crash before the commit another
		// certificate is made, with another id; the first was never given to anyone.
		{Certify, func(x erasures.Erasure) bool { return x.CertificateID != "" || x.Uncertified }, e.certify},
	}
}

// pending is the error of an erasure that waits at a step.
type pending struct {
	step string
	err  error
}

// Error implements error.
func (s *pending) Error() string { return "erasing, step " + s.step + ": " + s.err.Error() }

// Unwrap returns the reason.
func (s *pending) Unwrap() error { return s.err }

// StepOf names the step at which an erasure waits, by the error of Finish.
func StepOf(err error) string {
	var s *pending
	if errors.As(err, &s) {
		return s.step
	}
	return "unknown"
}

// advance takes the missing steps of an erasure up to the one named.
func (e *Eraser) advance(ctx context.Context, a lifecycle.Access, id uuid.UUID, until string, b basis) (erasures.Erasure, error) {
	x, err := e.c.Erasures.Get(ctx, id)
	if err != nil {
		return x, err
	}
	for _, s := range e.steps() {
		if !s.done(x) {
			if err := s.take(ctx, a, x, b); err != nil {
				return x, &pending{s.name, err}
			}
			e.c.After(s.name)
			if x, err = e.c.Erasures.Get(ctx, id); err != nil {
				return x, err
			}
		}
		if s.name == until {
			return x, nil
		}
	}
	return x, nil
}

func (e *Eraser) note(ctx context.Context, _ lifecycle.Access, x erasures.Erasure, _ basis) error {
	digest, err := e.c.Keys.Digest(keyring.Tenant, lifecycle.NewSecret(x.Tenant.String()))
	if err != nil {
		return err
	}
	at, err := e.c.Ledger.Append(ctx, ledger.Entry{ErasureID: x.ID.String(), TenantDigest: digest.String(),
		SubjectDigest: hex.EncodeToString(x.SubjectDigest), Trigger: string(x.Trigger), At: x.BegunAt})
	if err != nil {
		return err
	}
	hash, err := hash32(at.Hash)
	if err != nil {
		return err
	}
	return e.c.Erasures.Note(ctx, x.ID, at.Seq, hash)
}

func hash32(s string) (out [32]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(out) {
		return out, errors.New("the ledger returned a hash that is not a SHA-256")
	}
	copy(out[:], b)
	return out, nil
}

func (e *Eraser) delete(ctx context.Context, a lifecycle.Access, x erasures.Erasure, _ basis) error {
	return e.c.Door.Delete(ctx, a, x.ID)
}

// Remains is the error of an erasure after which rows of the tenant were found, or could
// not be counted.
type Remains struct{ Checks []findings.Check }

// Error implements error. It names tables and counts, never a value.
func (r *Remains) Error() string {
	s := "rows of an erased tenant are left, or cannot be counted, in"
	for i, c := range r.Checks {
		if i > 0 {
			s += ","
		}
		s += " " + c.Table + "." + c.Column
		if c.Disposition == findings.Unjudged {
			s += " (" + c.Ground + ")"
		} else {
			s += fmt.Sprintf(" (%d rows)", c.Rows)
		}
	}
	return s
}

func (e *Eraser) verify(ctx context.Context, a lifecycle.Access, x erasures.Erasure, b basis) (err error) {
	if b.counts == nil {
		if b.counts, err = e.count(ctx, x); err != nil {
			return err
		}
	}
	return e.c.Erasures.Verified(ctx, a, x, b.run, b.counts)
}

// count lets another role than the one that deletes count the rows of the tenant, in
// every table of the live catalog. The certificate waits until there are none but those
// that the policy retains.
func (e *Eraser) count(ctx context.Context, x erasures.Erasure) ([]findings.Check, error) {
	checks, _, err := e.c.Census.Tenant(ctx, x.Tenant, drift.Declared(e.c.Policy))
	if err != nil {
		return nil, err
	}
	var left []findings.Check
	for _, c := range checks {
		if c.Disposition == findings.Unjudged || c.Disposition == findings.Checked && c.Rows > 0 {
			left = append(left, c)
		}
	}
	if left != nil {
		return nil, &Remains{left}
	}
	return checks, nil
}
