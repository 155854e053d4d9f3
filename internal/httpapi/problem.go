// Package httpapi serves Bitbucket's callbacks on a public listener and the JSON
// API on a private one. It limits, verifies, decodes, calls one method of the
// domain, and answers once: every refusal is a problem document (RFC 9457) that
// never repeats a submitted value. It knows no SQL and decides no policy.
package httpapi

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"trakr/internal/lifecycle"
)

// Problem is a problem document. The type's last segment is the kind.
type Problem struct {
	Type      string              `json:"type" example:"/problems/tenant-unknown" doc:"stable; the last segment is the kind"`
	Title     string              `json:"title" doc:"the kind in words"`
	Status    int                 `json:"status" doc:"the HTTP status"`
	Detail    string              `json:"detail,omitempty" doc:"the cause and the way out; never a submitted value"`
	RequestID string              `json:"request_id,omitempty" doc:"the request's id in the log and the audit"`
	Errors    []lifecycle.Pointer `json:"errors,omitempty" doc:"places in the request, RFC 6901"`
	Existing  string              `json:"existing_request_id,omitempty" doc:"of a request-conflict: the open deletion request"`

	retryAfter int // seconds
}

// statuses maps each kind to its HTTP status and title.
var statuses = map[lifecycle.Kind]struct {
	status int
	title  string
}{
	lifecycle.AuditUnavailable: {http.StatusServiceUnavailable, "The audit cannot be written"},
	lifecycle.StoreUnavailable: {http.StatusServiceUnavailable, "The database does not answer"},
	lifecycle.ProofUnavailable: {http.StatusServiceUnavailable, "Bitbucket does not answer"},
	lifecycle.BitbucketRefused: {http.StatusConflict, "Bitbucket refuses the installation"},
	lifecycle.KeysOutdated:     {http.StatusServiceUnavailable, "The keys are not the newest"},
	lifecycle.Unauthenticated:  {http.StatusUnauthorized, "A valid token is needed"},
	lifecycle.SignatureInvalid: {http.StatusUnauthorized, "The callback is not proven"},
	lifecycle.Forbidden:        {http.StatusForbidden, "This role may not do this"},
	lifecycle.FieldNotAllowed:  {http.StatusUnprocessableEntity, "A field is not released"},
	lifecycle.TenantUnknown:    {http.StatusNotFound, "No such tenant"},
	lifecycle.TenantErased:     {http.StatusGone, "The tenant is erased"},
	lifecycle.NotFound:         {http.StatusNotFound, "No such resource"},
	lifecycle.MethodNotAllowed: {http.StatusMethodNotAllowed, "Method not allowed"},
	lifecycle.RequestConflict:  {http.StatusConflict, "The request conflicts with another"},
	lifecycle.ReasonRequired:   {http.StatusBadRequest, "A reason is needed"},
	lifecycle.RequestInvalid:   {http.StatusBadRequest, "The request cannot be read"},
	lifecycle.PayloadInvalid:   {http.StatusBadRequest, "The payload cannot be read"},
	lifecycle.PayloadTooLarge:  {http.StatusRequestEntityTooLarge, "The payload is too large"},
	lifecycle.SweepRunning:     {http.StatusConflict, "A sweep is running"},
	lifecycle.OnHold:           {http.StatusConflict, "A legal hold stands"},
	lifecycle.SamePerson:       {http.StatusForbidden, "An approval needs a second person"},
	lifecycle.RateLimited:      {http.StatusTooManyRequests, "Too many attempts"},
	lifecycle.Internal:         {http.StatusInternalServerError, "Internal error"},
}

// problemOf turns an error into its document. An unknown error is internal and
// shows nothing.
func problemOf(err error, requestID string) *Problem {
	f := lifecycle.AsFault(err)
	s, ok := statuses[f.Kind]
	if !ok || f.Kind == lifecycle.Internal {
		f, s = &lifecycle.Fault{Kind: lifecycle.Internal}, statuses[lifecycle.Internal]
	}
	return &Problem{Type: "/problems/" + string(f.Kind), Title: s.title, Status: s.status, Detail: f.Detail, RequestID: requestID,
		Errors: f.Pointers, Existing: f.Existing, retryAfter: int(math.Ceil(f.RetryAfter.Seconds()))}
}

// Error implements error (huma.StatusError).
func (p *Problem) Error() string { return p.Title }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.Status == http.StatusUnauthorized && p.Type == "/problems/"+string(lifecycle.Unauthenticated) {
		h.Set("WWW-Authenticate", `Bearer realm="trakr"`)
	}
	return h
}

// writeProblem answers with err's document.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err, requestID(r.Context()))
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(p) // the client disconnected
	}
}
