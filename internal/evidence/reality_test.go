package evidence_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/egress"
	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/evidence"
	"trakr/internal/lifecycle"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/schedule"
	"trakr/internal/store/audit"
	"trakr/internal/store/facts"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/holds"
	"trakr/internal/store/instances"
	"trakr/internal/store/liveness"
	"trakr/internal/store/outbox"
	"trakr/internal/store/requests"
	"trakr/internal/store/storetest"
	"trakr/internal/store/sweeps"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// reality is a whole service on a database of its own, as cmd/trakr puts it together,
// with every sweep there is. Bitbucket alone is played.
type reality struct {
	*storetest.Env
	t         *testing.T
	reporter  *evidence.Reporter
	rig       *erasuretest.Rig
	sweeps    *sweeps.Store
	beats     *heartbeats.Store
	outbox    *outbox.Store
	deletions *deletionrequests.Service
	seq       *audit.Sequencer

	instance  uuid.UUID               // of the running service
	parties   []instances.Destination // whom its settings name
	actsBy    string                  // the hash of its policy
	away      bool                    // no service runs
	served    *policy.Policy          // what the descriptor is made of
	still     []string                // jobs that do not run any more
	sinkFails error                   // the checkpoints kept elsewhere cannot be read
	bitbucket *played                 // who is asked about each installation
	alive     []lifecycle.TenantID    // the first is never touched
	left      lifecycle.TenantID      // was erased
	values    map[lifecycle.TenantID]lifecycle.Values
}

// played is Bitbucket's protected resource: 200 but for the workspaces it answers
// otherwise.
type played struct {
	mu  sync.Mutex
	say map[string]int
	all int // 0: each as say says
}

func (b *played) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status := b.say[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/2.0/workspaces/{"), "}/hooks")]
	if b.all != 0 {
		status = b.all
	}
	w.WriteHeader(max(status, http.StatusOK))
}

// gone has Bitbucket answer that it does not know some installations.
func (w *reality) gone(ids ...lifecycle.TenantID) {
	w.bitbucket.mu.Lock()
	defer w.bitbucket.mu.Unlock()
	w.bitbucket.say = map[string]int{}
	for _, id := range ids {
		w.bitbucket.say[w.values[id][lifecycle.PrincipalUUID].Reveal()] = http.StatusNotFound
	}
}

// answers has Bitbucket answer everybody the same; 0 as before.
func (w *reality) answers(status int) {
	w.bitbucket.mu.Lock()
	defer w.bitbucket.mu.Unlock()
	w.bitbucket.all = status
}

const (
	publicURL  = "https://data.trakr.example.com"
	endService = "api.trakr.example.com"
)

// newReality is a service on which everything runs and is as it should be.
func newReality(t *testing.T) *reality {
	t.Helper()
	must := storetest.Must(t)
	e := storetest.New(t)
	w := &reality{Env: e, t: t, bitbucket: &played{}, values: map[lifecycle.TenantID]lifecycle.Values{}}
	w.declare()
	w.served = w.policy()
	w.instance, w.parties = uuid.New(), []instances.Destination{{Setting: "TRAKR_BITBUCKET_API_URL", Name: string(policy.ToBitbucket), Host: "api.bitbucket.org"},
		{Setting: "TRAKR_END_SERVICE_URL", Name: string(policy.ToEndService), Host: endService}, database("nyc3")}
	srv := httptest.NewServer(w.bitbucket)
	t.Cleanup(srv.Close)
	client := must(bitbucket.New(bitbucket.Config{Origin: srv.URL, AppKey: e.Policy.App.Key, Resource: e.Policy.App.Proof.Resource, Now: time.Now, Tracer: noop.NewTracerProvider()})).(*bitbucket.Client)
	w.rig, w.sweeps, w.beats = erasuretest.New(t, e), sweeps.New(e.DB), heartbeats.New(e.DB)
	w.outbox = must(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)
	w.seq = must(e.Log.NewSequencer()).(*audit.Sequencer)
	runner := must(sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler),
		sweep.NewOrphans(w.sweeps, e.Policy), sweep.NewErasures(w.rig.Eraser, e.Policy, w.outbox),
		sweep.NewLiveness(liveness.New(e.DB), e.Policy, e.Door, client, w), sweep.NewRetention(w.sweeps, e.Policy, e.Door),
		flushing{sweep.NewIntegrity(e.DB, e.Log, w.sweeps, w.kept), t}, sweep.NewMinimisation(w.sweeps, e.Policy),
