// Package erasure carries out one erasure from end to end, whatever its trigger: an
// uninstall, a request, a missed uninstall, a period that ended, a restored backup.
//
// It is a row of steps, told in order in Eraser.steps. Each step is durable when it
// returns and harmless when it is taken again, so that a crash between any two is
// made up by whoever comes next: the callback that is repeated, the sweep of
// erasures, or the next start. A comment at each says what a crash there means.
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
	// Begun is called when an erasure waits for what only the sweep does; nil where
	// nobody cares.
	Begun func()
	// After is called when a step is durable, for tests that kill the process there.
	After func(step string)
}

// Eraser erases tenants. It is safe for concurrent use.
type Eraser struct{ c Config }

// New returns an eraser.
func New(c Config) (*Eraser, error) {
	if c.Door == nil || c.Erasures == nil || c.Census == nil || c.Holds == nil || c.Log == nil || c.Keys == nil || c.Policy == nil || c.Ledger == nil || c.Now == nil || c.Slog == nil {
		return nil, errors.New("an eraser needs a door, a store, a log, keys, a policy, a ledger and a clock")
	}
	if c.After == nil {
		c.After = func(string) {}
	}
	if c.Begun == nil {
		c.Begun = func() {}
	}
	return &Eraser{c}, nil
}

// Order is why a tenant goes.
type Order = tenants.Erasure

// Outcome is how far an erasure came.
type Outcome struct {
	ErasureID string         // "" when the delivery changed nothing
	Result    tenants.Result // Applied, or why the delivery changed nothing
	Already   bool           // the tenant's erasure had begun before
	Deleted   bool           // nothing of the tenant is in the live stores
	// Delay is why the values are not gone yet although the erasure has begun: the
	// ledger or the database does not answer, or a legal hold stands (on-hold). The
	// tenant answers nothing meanwhile, and the sweep goes on with it.
	Delay error
}

// The steps' names.
const (
	Begin   = "begin"
	Note    = "note"
	Delete  = "delete"
	Verify  = "verify"
	Certify = "certify"
)

// Steps lists the steps in order.
func Steps() []string { return []string{Begin, Note, Delete, Verify, Certify} }

// Erase begins the erasure of a tenant and goes on until its values are gone. It is
// an error only when nothing was begun. A tenant whose erasure had begun before is a
// success.
func (e *Eraser) Erase(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, o Order) (Outcome, error) {
	// A crash before the commit of this step leaves a live tenant, and who ordered
	// the erasure has no answer: it is ordered again. After it the tenant answers
	// nothing, and the sweep knows its tombstone.
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
	x, err := e.goOn(ctx, a, begun, Delete, word{})
	out.Deleted, out.Delay = !x.DeletedAt.IsZero(), err
	e.c.Begun()
	if errors.Is(err, lifecycle.OnHold) && !out.Already {
		// The log says once that the law keeps the values. When it cannot, the hold
		// and the tombstone still stand in the database.
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

// Finish takes every step that an erasure lacks, up to its certificate. The run is the
// sweep on whose word the verifying step rests: it is over, and did not fail.
func (e *Eraser) Finish(ctx context.Context, a lifecycle.Access, id uuid.UUID, run string) error {
	_, err := e.goOn(ctx, a, id, Certify, word{run: run})
	return err
}

// Counted is an erasure of whose tenant nothing was found any more, which is not
// entered yet.
type Counted struct {
	ID     uuid.UUID
	counts []findings.Check
}

// Count takes the steps up to the deletion, and lets the role that counts look what is
// left. It enters nothing: the sweep that asks can still fail, and no certificate may
// rest on one that did. Certify goes on when its run is stored. An erasure that was
// verified before goes on to its certificate here, and nil is returned, unless it only
// waits for the place of an event in the log.
func (e *Eraser) Count(ctx context.Context, a lifecycle.Access, id uuid.UUID) (*Counted, error) {
	x, err := e.goOn(ctx, a, id, Delete, word{})
	if err != nil {
		return nil, err
	}
	if !x.VerifiedAt.IsZero() {
		_, err := e.goOn(ctx, a, id, Certify, word{})
		if errors.Is(err, lifecycle.NotFound) {
			return &Counted{ID: id}, nil
		}
		return nil, err
	}
	counts, err := e.count(ctx, x)
	if err != nil {
		return nil, &stuck{Verify, err}
	}
	return &Counted{id, counts}, nil
}

// Certify verifies and certifies an erasure by what a run counted that is over now. A
// crash before it loses the counts, and the next run counts again.
func (e *Eraser) Certify(ctx context.Context, a lifecycle.Access, c Counted, run string) error {
	_, err := e.goOn(ctx, a, c.ID, Certify, word{run, c.counts})
	return err
}

// word is what the verifying step rests on: a sweep's run, and what it counted where
// it has.
type word struct {
	run    string
	counts []findings.Check
}

// step is one step of an erasure.
type step struct {
	name string
	done func(erasures.Erasure) bool
	take func(ctx context.Context, a lifecycle.Access, x erasures.Erasure, w word) error
}

// steps is the whole erasure after its tombstone, in order.
func (e *Eraser) steps() []step {
	return []step{
		// The ledger comes before the first value goes, so that a backup which is
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
		// The certificate is stored once, and where the policy says so not before the end
		// service acknowledged: the sweep comes back to it. A crash before: another one is made, with
		// another id, and nobody has seen the first.
		{Certify, func(x erasures.Erasure) bool { return x.CertificateID != "" || x.Uncertified }, e.certify},
	}
}

// stuck is an erasure that waits at a step.
type stuck struct {
	step string
	err  error
}

// Error implements error.
func (s *stuck) Error() string { return "erasing, step " + s.step + ": " + s.err.Error() }

// Unwrap returns why.
func (s *stuck) Unwrap() error { return s.err }

// StepOf names the step at which an erasure waits, by the error of Finish.
func StepOf(err error) string {
	var s *stuck
	if errors.As(err, &s) {
		return s.step
	}
	return "unknown"
}

// goOn takes the steps that an erasure lacks up to the one named.
func (e *Eraser) goOn(ctx context.Context, a lifecycle.Access, id uuid.UUID, until string, w word) (erasures.Erasure, error) {
	x, err := e.c.Erasures.Get(ctx, id)
	if err != nil {
		return x, err
	}
	for _, s := range e.steps() {
		if !s.done(x) {
			if err := s.take(ctx, a, x, w); err != nil {
				return x, &stuck{s.name, err}
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

func (e *Eraser) note(ctx context.Context, _ lifecycle.Access, x erasures.Erasure, _ word) error {
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
		return out, errors.New("the ledger's hash is not one")
	}
	copy(out[:], b)
	return out, nil
}

func (e *Eraser) delete(ctx context.Context, a lifecycle.Access, x erasures.Erasure, _ word) error {
	return e.c.Door.Delete(ctx, a, x.ID)
}

// Remains is an erasure after which rows of the tenant were found, or could not be
// looked for.
type Remains struct{ Checks []findings.Check }

// Error implements error. It names tables and counts, never a value.
func (r *Remains) Error() string {
	s := "rows of an erased tenant are left, or cannot be told, in"
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

func (e *Eraser) verify(ctx context.Context, a lifecycle.Access, x erasures.Erasure, w word) (err error) {
	if w.counts == nil {
		if w.counts, err = e.count(ctx, x); err != nil {
			return err
		}
	}
	return e.c.Erasures.Verified(ctx, a, x, w.run, w.counts)
}

// count lets another role than the one that deletes count what names the tenant, in
// every table of the live catalog. The certificate waits until that is nothing but
// what the policy retains.
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
