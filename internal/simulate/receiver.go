package simulate

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"trakr/internal/egress/webhook"
)

// Receiver is a small end service, for reference: it takes the events that the service
// sends (CloudEvents, signed as Standard Webhooks) and answers what it holds. It keeps
// everything in memory.
//
//	POST /events  an event; 204 when taken, before or now, 401 when it is not proven
//	POST /holds   {"tenant_id": …} or {"client_key": …}; what is held of that tenant
type Receiver struct {
	key webhook.Key
	now func() time.Time

	mu    sync.Mutex
	seen  map[string]bool    // ids of events taken
	held  map[string]Holding // by tenant id
	last  map[string]string  // by tenant id: the newest event's sequence, also of erased tenants
	taken int                // events taken, repeats not counted
	again int                // repeats
}

// Holding is what the receiver holds of one tenant.
type Holding struct {
	TenantID  string `json:"tenant_id"`
	ClientKey string `json:"client_key"`
	AppKey    string `json:"app_key"`
	AppName   string `json:"app_name"`
	Sequence  string `json:"sequence"` // of the newest event about it
}

// NewReceiver returns a receiver of what is signed with the key.
func NewReceiver(key webhook.Key, now func() time.Time) *Receiver {
	return &Receiver{key: key, now: now, seen: map[string]bool{}, held: map[string]Holding{}, last: map[string]string{}}
}

// EventsPath is where events are sent.
const EventsPath = "/events"

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64<<10))
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case req.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case req.URL.Path == EventsPath:
		w.WriteHeader(r.take(req.Header, body))
	case req.URL.Path == "/holds":
		r.answer(w, body)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// take checks an event and acts on it once. A repeated one is acknowledged again: the
// answer to the first may have been lost.
func (r *Receiver) take(h http.Header, body []byte) int {
	id := h.Get("Webhook-Id")
	if !r.key.Verify(id, h.Get("Webhook-Timestamp"), h.Get("Webhook-Signature"), body, r.now()) {
		return http.StatusUnauthorized
	}
	var e struct {
		ID, Type, Sequence string
		Data               Holding
	}
	// The id is signed twice, in the header and in the event: they must be one.
	if json.Unmarshal(body, &e) != nil || e.ID != id || e.Data.TenantID == "" {
		return http.StatusBadRequest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		r.again++
		return http.StatusNoContent
	}
	kind, ok := strings.CutPrefix(e.Type, "com.trakr.tenant.")
	if !ok {
		return http.StatusBadRequest
	}
	r.seen[id] = true
	r.taken++
	tenant := e.Data.TenantID
	if e.Sequence <= r.last[tenant] { // older than what is known
		return http.StatusNoContent
	}
	r.last[tenant] = e.Sequence
	if kind == "erased" {
		delete(r.held, tenant)
		return http.StatusNoContent
	}
	e.Data.Sequence = e.Sequence
	r.held[tenant] = e.Data
	return http.StatusNoContent
}

// answer returns what the receiver has of a tenant.
func (r *Receiver) answer(w http.ResponseWriter, body []byte) {
	var q struct {
		TenantID  string `json:"tenant_id"`
		ClientKey string `json:"client_key"`
	}
	if json.Unmarshal(body, &q) != nil || (q.TenantID == "") == (q.ClientKey == "") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"holds": r.Holds(q.TenantID, q.ClientKey)})
}

// Holds lists what is held of the tenant with that id, or with that client key.
func (r *Receiver) Holds(tenantID, clientKey string) []Holding {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Holding{}
	for _, h := range r.held {
		if (tenantID != "" && h.TenantID == tenantID) || (clientKey != "" && h.ClientKey == clientKey) {
			out = append(out, h)
		}
	}
	return out
}

// Received counts what the receiver took so far.
type Received struct {
	Taken    int `json:"taken"`
	Repeated int `json:"repeated"`
	Held     int `json:"held"` // tenants
}

// Received returns the counts so far.
func (r *Receiver) Received() Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Received{r.taken, r.again, len(r.held)}
}

// DevEndSecret signs what `serve --dev` sends to the simulator. It is public, and no
// other receiver accepts it.
const DevEndSecret = "whsec_dHJha3ItZGV2ZWxvcG1lbnQtb25seS1ub3Qtc2VjcmV0"
