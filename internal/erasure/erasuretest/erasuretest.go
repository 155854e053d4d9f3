// Package erasuretest gives a test an eraser on the test's database, with a ledger in the
// test's directory.
package erasuretest

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
)

// Rig is an eraser and the parts that a test may want to break.
type Rig struct {
	*erasure.Eraser
	Config erasure.Config
	Path   string // of the ledger

	findings *findings.Store
}

// New returns an eraser on e's database.
func New(t testing.TB, e *storetest.Env) *Rig {
	return At(t, e, filepath.Join(e.Dir, "ledger.ndjson"))
}

// At is New with a ledger at path. The ledger is made when it is missing and the database
// is bound to none, even if the database has tenants already.
func At(t testing.TB, e *storetest.Env, path string) *Rig {
	t.Helper()
	l, err := erasure.Open(t.Context(), erasures.New(e.DB, e.Clock.Now),
		func() (ledger.Ledger, error) { return opened(ledger.OpenFile(path)) },
		func() (ledger.Ledger, error) { return opened(ledger.CreateFile(path, e.Clock.Now())) }, &sweeper)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return With(t, e, l, path)
}

// With is New with the ledger that the test opened.
func With(t testing.TB, e *storetest.Env, l ledger.Ledger, path string) *Rig {
	t.Helper()
	seq, err := e.Log.NewSequencer()
	if err != nil {
		t.Fatal(err)
	}
	held, err := holds.New(e.DB, e.Log, e.Policy, erasure.Outside{Ledger: l, Keys: e.Keys})
	if err != nil {
		t.Fatal(err)
	}
	var one sync.Mutex
	r := &Rig{Path: path, findings: findings.New(e.DB), Config: erasure.Config{
		Door: e.Door, Erasures: erasures.New(e.DB, e.Clock.Now), Census: census.New(e.DB), Holds: held,
		Log: e.Log, Keys: e.Keys, Policy: e.Policy, Ledger: l,
		Version: "test", Now: e.Clock.Now, Slog: slog.New(slog.DiscardHandler),
		Sequence: func(ctx context.Context) error {
			one.Lock()
			defer one.Unlock()
			_, err := seq.Pass(ctx)
			return err
		},
	}}
	if r.Eraser, err = erasure.New(r.Config); err != nil {
		t.Fatal(err)
	}
	return r
}

var sweeper = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "req-test"}

// Run stores a clean sweep that has ended, by which an erasure can be verified, and returns
// its id.
func (r *Rig) Run(t testing.TB) string {
	t.Helper()
	run, err := r.findings.Begin(t.Context(), "erasures", "command", false, r.Config.Now())
	if err != nil {
		t.Fatal(err)
	}
	run.Result = findings.Clean
	if err := r.findings.Finish(t.Context(), sweeper, &run, r.Config.Now()); err != nil {
		t.Fatal(err)
	}
	return run.ID
}

// opened returns a nil interface, not an interface with a nil pointer, on an error.
func opened[L ledger.Ledger](l L, err error) (ledger.Ledger, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}
