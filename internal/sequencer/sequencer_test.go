package sequencer_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/keyring"
	"trakr/internal/proof/merkle"
	"trakr/internal/sequencer"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// endpoint keeps what is posted to it, unless it is told to fail.
type endpoint struct {
	mu     sync.Mutex
	got    []string
	status atomic.Int64
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if s := e.status.Load(); s != 0 {
		w.WriteHeader(int(s))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, string(b))
}

func (e *endpoint) last() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.got) == 0 {
		return ""
	}
	return e.got[len(e.got)-1]
}

type rig struct {
	*storetest.Env
	file string
	far  *endpoint
	url  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Env: storetest.New(t), file: filepath.Join(t.TempDir(), "elsewhere", "checkpoint"), far: &endpoint{}}
	server := httptest.NewServer(r.far)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *rig) sequencer() *sequencer.Sequencer {
	r.T.Helper()
	file, err := sequencer.NewFile(r.file)
	if err != nil {
		r.T.Fatal(err)
	}
	s, err := sequencer.New(sequencer.Config{DB: r.DB, Log: r.Log, Sinks: []sequencer.Sink{file, sequencer.NewHTTP(r.url)},
		Meter: noop.NewMeterProvider(), Now: time.Now, Slog: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.T.Fatal(err)
	}
	return s
}

// record writes n events and lets s sequence them.
func (r *rig) record(s *sequencer.Sequencer, n int) error {
	r.T.Helper()
	for range n {
		if err := r.Log.Record(r.T.Context(), audit.New(r.T.Context(), time.Now(), storetest.Service(), audit.TenantLookup, audit.Success)); err != nil {
			r.T.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := s.Once(r.T.Context()); err != nil {
			return err
		}
		b, err := r.Log.Backlog(r.T.Context())
		if err != nil || b.Oldest.IsZero() || time.Now().After(deadline) {
			return err
		}
	}
}

func (r *rig) kept() merkle.Checkpoint {
	r.T.Helper()
	b, err := os.ReadFile(r.file)
	if err != nil {
		r.T.Fatal(err)
	}
	cp, err := merkle.Open(b, r.Log.Verifier())
	if err != nil {
		r.T.Fatal(err)
	}
	return cp
}

func TestCheckpointsReachBothPlacesAndOneFailureDoesNotStopTheOther(t *testing.T) {
	r := newRig(t)
	s := r.sequencer()
	if err := r.record(s, 3); err != nil {
		t.Fatal(err)
	}
	if cp := r.kept(); cp.Size != 3 {
		t.Errorf("the file keeps size %d", cp.Size)
	}
	if b, _ := os.ReadFile(r.file); r.far.last() != string(b) {
		t.Error("the endpoint got another checkpoint than the file")
	}
	r.far.status.Store(500)
	if err := r.record(s, 2); err == nil || !strings.Contains(err.Error(), "http") || strings.Contains(err.Error(), r.url) {
		t.Errorf("a refusing endpoint: %v", err)
	}
	if cp := r.kept(); cp.Size != 5 {
		t.Errorf("the file keeps size %d while the endpoint refuses", cp.Size)
	}
	// Without new work the endpoint gets what it lacks once it takes it.
	r.far.status.Store(0)
	if err := s.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(r.file); r.far.last() != string(b) {
		t.Error("the endpoint did not get what it had missed")
	}
	if err := s.Err(); err != nil {
		t.Errorf("a failed publication was taken for a fork: %v", err)
	}
}

func TestACrashBetweenCommitAndPublicationIsMadeUpAtTheNextStart(t *testing.T) {
	r := newRig(t)
	if err := r.record(r.sequencer(), 1); err != nil {
		t.Fatal(err)
	}
	// What a crash leaves: a committed pass that no sink has heard of.
	if err := r.Log.Record(t.Context(), audit.New(t.Context(), time.Now(), storetest.Service(), audit.TenantLookup, audit.Success)); err != nil {
		t.Fatal(err)
	}
	pass, err := r.Log.NewSequencer()
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n == 0; {
		if n, err = pass.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if cp := r.kept(); cp.Size != 1 {
		t.Fatalf("size %d was published by nobody", cp.Size)
	}
	if err := r.sequencer().Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cp := r.kept(); cp.Size != 2 {
		t.Errorf("the file still keeps size %d", cp.Size)
	}
}

func TestALogThatContradictsAPublishedCheckpointIsSignedNoFurther(t *testing.T) {
	for name, bend := range map[string]func(*rig){
		"its tail was cut": func(r *rig) {
			r.Exec(`ALTER TABLE trakr.audit_leaves DISABLE TRIGGER ALL; ALTER TABLE trakr.audit_checkpoints DISABLE TRIGGER ALL; ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL;
				DELETE FROM trakr.audit_events WHERE id IN (SELECT unnest(ids) FROM trakr.audit_leaves WHERE first_index >= 2);
				DELETE FROM trakr.audit_leaves WHERE first_index >= 2; DELETE FROM trakr.audit_checkpoints WHERE size > 2`)
		},
		"its database was replaced": func(r *rig) {
			r.Exec(`ALTER TABLE trakr.log_identity DISABLE TRIGGER ALL; UPDATE trakr.log_identity SET log_id = gen_random_uuid();
				ALTER TABLE trakr.audit_leaves DISABLE TRIGGER ALL; ALTER TABLE trakr.audit_checkpoints DISABLE TRIGGER ALL; DELETE FROM trakr.audit_leaves; DELETE FROM trakr.audit_checkpoints`)
			if err := r.Log.SignWith(r.T.Context(), r.Keys.Signing()); err != nil {
				r.T.Fatal(err)
			}
		},
		"its key was replaced": func(r *rig) {
			keys, err := keyring.New()
			if err != nil {
				r.T.Fatal(err)
			}
			if err := r.Log.SignWith(r.T.Context(), keys.Signing()); err != nil {
				r.T.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s := r.sequencer()
			for range 3 {
				if err := r.record(s, 2); err != nil {
					t.Fatal(err)
				}
			}
			before, _ := os.ReadFile(r.file)
			bend(r)
			s = r.sequencer()
			if err := r.record(s, 1); !errors.Is(err, audit.ErrFork) {
				t.Errorf("sequenced on: %v", err)
			}
			if !errors.Is(s.Err(), audit.ErrFork) {
				t.Error("it does not say so")
			}
			if after, _ := os.ReadFile(r.file); string(after) != string(before) {
				t.Error("the published checkpoint was replaced")
			}
		})
	}
}

func TestOneReplicaLeadsAndAnotherTakesOver(t *testing.T) {
	r := newRig(t)
	first, second := r.sequencer(), r.sequencer()
	ctx1, stop1 := context.WithCancel(t.Context())
	ctx2, stop2 := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { first.Run(ctx1) })
	wg.Go(func() { second.Run(ctx2) })
	defer func() { stop1(); stop2(); wg.Wait() }()
	grow := func(to int64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if cp, err := r.Log.Latest(t.Context()); err == nil && cp.Size >= to {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the log does not reach size %d", to)
			}
		}
	}
	write := func() {
		t.Helper()
		if err := r.Log.Record(t.Context(), audit.New(t.Context(), time.Now(), storetest.Service(), audit.TenantLookup, audit.Success)); err != nil {
			t.Fatal(err)
		}
	}
	write()
	grow(1)
	stop1() // whichever leads
	write()
	grow(2)
	if first.Err() != nil || second.Err() != nil {
		t.Errorf("%v, %v", first.Err(), second.Err())
	}
}

func TestADatabaseThatIsAwayIsNoFork(t *testing.T) {
	r := newRig(t)
	s := r.sequencer()
	if err := r.record(s, 2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Once(ctx); err == nil || errors.Is(err, audit.ErrFork) {
		t.Errorf("an interrupted pass: %v", err)
	}
	r.Exec(`ALTER TABLE trakr.audit_leaves RENAME TO away`)
	if err := s.Once(t.Context()); err == nil || errors.Is(err, audit.ErrFork) || s.Err() != nil {
		t.Errorf("a missing table: %v, %v", err, s.Err())
	}
	r.Exec(`ALTER TABLE trakr.away RENAME TO audit_leaves`)
	if err := r.record(s, 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
