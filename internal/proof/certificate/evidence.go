package certificate

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
)

// Actions of the records on which a certificate rests, as the log writes them.
const (
	actionBegin  = "erasure.begin"
	actionErase  = "tenant.erase"
	actionVerify = "erasure.verify"
	success      = "success"

	actionAcknowledge = "delivery.acknowledge"
)

// maxText bounds a text that people read.
const maxText = 1000

// evidence checks a certificate against itself: every field has its form, and agrees
// with the records.
func evidence(c Certificate, v note.Verifier) []Finding {
	e := examination{Certificate: c}
	if c.KeyID != keyID(v) {
		e.find(WrongKey, "/key_id", "the certificate names another key than the one given")
	}
	e.identities()
	e.texts()
	e.state()
	e.counts()
	e.log(v)
	e.course()
	return e.faults
}

type examination struct {
	Certificate
	records []record
	faults  []Finding
}

func (e *examination) find(f Fault, pointer, format string, args ...any) {
	e.faults = append(e.faults, Finding{f, pointer, fmt.Sprintf(format, args...)})
}

// require finds a fault of form when ok is false.
func (e *examination) require(ok bool, pointer, format string, args ...any) {
	if !ok {
		e.find(Form, pointer, format, args...)
	}
}

// agree finds a contradiction when ok is false.
func (e *examination) agree(ok bool, pointer, format string, args ...any) {
	if !ok {
		e.find(Contradicts, pointer, format, args...)
	}
}

func isUUID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func isHex(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) >= 16 && hex.EncodeToString(b) == s
}

func (e *examination) identities() {
	id := func(s, pointer string, needed bool) {
		e.require(isUUID(s) || s == "" && !needed, pointer, "it is not a UUID")
	}
	id(e.CertificateID, "/certificate_id", true)
	id(e.TenantID, "/tenant_id", false)
	id(e.ErasureID, "/erasure_id", false)
	id(e.RequestID, "/request_id", false)
	id(e.Verification.SweepRunID, "/verification/sweep_run_id", true)
	e.require(isHex(e.SubjectDigest), "/subject_digest", "it is not a digest in hex")
	e.require(isHex(e.Verification.PredicateDigest), "/verification/predicate_digest", "it is not a digest in hex")
	e.require(isHex(e.PolicyHash), "/policy_hash", "it is not a digest in hex")
}

func (e *examination) texts() {
	text := func(s, format string, args ...any) {
		ok := s != "" && utf8.RuneCountInString(s) <= maxText
		e.require(ok, fmt.Sprintf(format, args...), "it is empty, or longer than %d characters", maxText)
	}
	text(e.Statement, "/statement")
	text(e.Issuer, "/issuer")
	text(e.ToolVersion, "/tool_version")
	text(e.Verification.Role, "/verification/role")
	for i, s := range e.Stores {
		text(s.Name, "/stores/%d/name", i)
		text(s.Location, "/stores/%d/location", i)
		text(s.Table, "/stores/%d/table", i)
	}
	for i, r := range e.Recipients {
		text(r.Name, "/recipients_notified/%d/name", i)
	}
	e.require(utf8.RuneCountInString(e.RecipientsNote) <= maxText, "/recipients_note", "it is longer than %d characters", maxText)
	for i, r := range e.Retained {
		text(r.What, "/retained/%d/what", i)
		text(r.Ground, "/retained/%d/ground", i)
		text(r.Until, "/retained/%d/until", i)
	}
	if e.Hold != nil {
		text(e.Hold.Ground, "/hold/ground")
		e.require(e.Hold.State == HoldReleased || e.Hold.State == HoldExpired, "/hold/state",
			"a hold ends by release or expiry; while it is active nothing is erased")
	}
}

// state checks that what belongs to a state is there, and nothing else.
func (e *examination) state() {
	e.require(slices.Contains(lifecycle.Triggers(), e.Trigger), "/trigger", "it is none of the triggers of an erasure")
	for i, m := range e.Method {
		e.require(m == RowDelete || m == KeyDestroy || m == BackupExpiry, fmt.Sprintf("/method/%d", i), "it is none of the methods")
		e.agree(!slices.Contains(e.Method[:i], m), fmt.Sprintf("/method/%d", i), "the method stands there twice")
	}
	e.require(!e.IssuedAt.IsZero(), "/issued_at", "it is missing")
	e.require(!e.RequestedAt.IsZero(), "/requested_at", "it is missing")
	held := e.State == Erased
	e.require(held || e.State == NothingHeld, "/state", "it is neither erased nor nothing_held")
	for _, x := range []struct {
		pointer string
		there   bool
	}{
		{"/tenant_id", e.TenantID != ""}, {"/erasure_id", e.ErasureID != ""}, {"/started_at", !e.StartedAt.IsZero()},
		{"/deleted_live_at", !e.DeletedLiveAt.IsZero()}, {"/backups_clear_after", !e.BackupsClearAfter.IsZero()},
		{"/method", len(e.Method) > 0}, {"/stores", len(e.Stores) > 0},
	} {
		switch {
		case held && !x.there:
			e.find(Incomplete, x.pointer, "a certificate of an erasure must say it")
		case !held && x.there && x.pointer != "/stores":
			e.find(Contradicts, x.pointer, "where nothing was held, nothing was erased")
		}
	}
	if !held {
		e.agree(e.Hold == nil, "/hold", "where nothing was held, no hold delayed it")
		e.agree(e.Trigger == lifecycle.TriggerRequest, "/trigger", "only a customer's request ends with nothing held")
		if e.RequestID == "" {
			e.find(Incomplete, "/request_id", "a certificate that nothing was held must name the request that asked")
		}
	}
	e.agree(e.Trigger != lifecycle.TriggerRequest || e.RequestID != "", "/request_id", "an erasure by request must name the request")
}

// counts checks that every table has no row of the tenant.
func (e *examination) counts() {
	seen := map[[2]string]bool{}
	for i, s := range e.Stores {
		at := fmt.Sprintf("/stores/%d", i)
		e.agree(!seen[[2]string{s.Name, s.Table}], at, "the table stands there twice")
		seen[[2]string{s.Name, s.Table}] = true
		e.require(s.RowsBefore >= 0 && s.RowsBefore <= maxInteger, at+"/rows_before", "it is not a count")
		e.agree(s.RowsAfter == 0, at+"/rows_after", "rows are left, which no clean verification leaves")
		e.agree(s.RowsDeleted == s.RowsBefore, at+"/rows_deleted", "it is another number than the rows before, although none are left")
		e.agree(e.State == Erased || s.RowsBefore == 0, at+"/rows_before", "where nothing was held, there were no rows")
	}
}

// record is a log's record: its members as canonical JSON, by pointer.
type record map[string]string

func (r record) text(member string) string {
	var s string
	if json.Unmarshal([]byte(r["/"+member]), &s) != nil {
		return ""
	}
	return s
}

// log checks that every record is in the log of the checkpoint.
func (e *examination) log(v note.Verifier) {
	cp, err := merkle.Open([]byte(e.Audit.Checkpoint), v)
	if err != nil {
		e.find(Checkpoint, "/audit/checkpoint", "the checkpoint is not signed by the key given, or is of another log")
	}
	last := int64(-1)
	for i, x := range e.Audit.Events {
		at := fmt.Sprintf("/audit/events/%d", i)
		r, fault := flatten([]byte(x.Record))
		if fault != nil {
			e.find(Form, at+"/record", "it is not a record of the log: %s", fault.Detail)
			r = nil
		}
		e.records = append(e.records, r)
		e.agree(record(r).text("event_id") == x.EventID, at+"/event_id", "the record is of another event")
		e.agree(x.LogIndex > last && x.LogIndex <= maxInteger, at+"/log_index", "the records do not stand in the order of the log")
		last = x.LogIndex
		switch {
		case err != nil:
		case x.LogIndex >= cp.Size:
			e.find(Inclusion, at+"/log_index", "the position lies beyond the checkpoint, which covers %d events", cp.Size)
		case !included(x, cp):
			e.find(Inclusion, at+"/inclusion", "the proof does not show that this record stands at position %d of the log", x.LogIndex)
		}
	}
	indexes := make([]int64, len(e.Audit.Events))
	for i, x := range e.Audit.Events {
		indexes[i] = x.LogIndex
	}
	e.agree(slices.Equal(indexes, e.Audit.LogIndexes), "/audit/log_indexes", "they are not the positions of the records")
}

func included(x Event, cp merkle.Checkpoint) bool {
	proof := make([]merkle.Hash, len(x.Inclusion))
	for i, s := range x.Inclusion {
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(b) != len(proof[i]) || base64.StdEncoding.EncodeToString(b) != s {
			return false
		}
		proof[i] = merkle.Hash(b)
	}
	return merkle.VerifyInclusion(proof, cp.Size, cp.Root, x.LogIndex, merkle.LeafHash([]byte(x.Record))) == nil
}

// latest returns the last successful record of an action, and its number.
func (e *examination) latest(action string) (record, int) {
	for i, r := range slices.Backward(e.records) {
		if r.text("action") == action && r.text("outcome") == success {
			return r, i
		}
	}
	e.find(Incomplete, "/audit/events", "no successful %s record is among them", action)
	return nil, -1
}

// course compares the fields with the records they rest on.
func (e *examination) course() {
	correlation := e.ErasureID
	verify, verifiedBy := e.latest(actionVerify)
	rests := map[int]record{verifiedBy: verify}
	if e.State == Erased {
		begin, begunBy := e.latest(actionBegin)
		erase, erasedBy := e.latest(actionErase)
		rests[begunBy], rests[erasedBy] = begin, erase
		if begin != nil {
			e.agree(string(e.Trigger) == begin.text("status_detail"), "/trigger", "the erasure.begin record has another")
			e.agree(e.StartedAt.String() == begin.text("occurred_at"), "/started_at", "the erasure.begin record is of another time")
		}
		if erase != nil {
			e.agree(e.DeletedLiveAt.String() == erase.text("occurred_at"), "/deleted_live_at", "the tenant.erase record is of another time")
		}
		inOrder := begunBy < 0 || erasedBy < 0 || verifiedBy < 0 || begunBy < erasedBy && erasedBy < verifiedBy
		e.agree(inOrder, "/audit/events", "the erasure did not begin, delete and verify in this order")
		e.agree(!e.DeletedLiveAt.Before(e.StartedAt.Time), "/deleted_live_at", "it is before the erasure began")
		e.agree(!e.BackupsClearAfter.Before(e.DeletedLiveAt.Time), "/backups_clear_after",
			"it is before the rows were deleted from the live database")
	} else {
		correlation = e.RequestID
	}
	e.agree(e.Verification.Result == Clean, "/verification/result", "only a clean verification makes a certificate")
	if verify != nil {
		e.agree(e.Verification.Result == verify.text("status_detail"), "/verification/result", "the erasure.verify record has another")
		e.agree(e.Verification.VerifiedAt.String() == verify.text("occurred_at"), "/verification/verified_at",
			"the erasure.verify record is of another time")
		e.agree(e.State == Erased || verify.text("subject_digest") != "", "/subject_digest",
			"the erasure.verify record does not name the subject for which nothing was found")
	}
	e.agree(!e.Verification.VerifiedAt.Before(e.DeletedLiveAt.Time), "/verification/verified_at", "it is before the deletion it verifies")
	e.agree(!e.IssuedAt.Before(e.Verification.VerifiedAt.Time), "/issued_at", "it is before the verification it rests on")
	e.acknowledged()
	for i, r := range e.records {
		e.about(i, r, rests[i] != nil, correlation)
	}
}

// acknowledged checks that a recipient's acknowledgement is the one in the log, where
// the certificate has its record.
func (e *examination) acknowledged() {
	for i, r := range e.records {
		if r.text("action") != actionAcknowledge || r.text("outcome") != success {
			continue
		}
		same := func(x Recipient) bool { return x.AcknowledgedAt.String() == r.text("occurred_at") }
		e.agree(slices.ContainsFunc(e.Recipients, same), "/recipients_notified",
			"the record at /audit/events/%d shows an acknowledgement at another time", i)
	}
}

// about checks that a record is about this erasure, and of this tenant.
func (e *examination) about(i int, r record, rests bool, correlation string) {
	at := "/audit/events/" + strconv.Itoa(i)
	tenant, related := r.text("tenant_id"), r.text("correlation_id")
	if rests {
		e.agree(tenant == e.TenantID, "/tenant_id", "the record at %s names another tenant", at)
		pointer := "/erasure_id"
		if e.State != Erased {
			pointer = "/request_id"
		}
		e.agree(related == correlation, pointer, "the record at %s belongs to another erasure or request", at)
	} else {
		same := tenant != "" && tenant == e.TenantID || related != "" && (related == e.ErasureID || related == e.RequestID)
		e.agree(same && (tenant == "" || tenant == e.TenantID), at, "the record is about something else")
	}
	if d := r.text("subject_digest"); d != "" {
		e.agree(d == e.SubjectDigest, "/subject_digest", "the record at %s names another subject", at)
	}
}
