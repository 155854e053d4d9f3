package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
)

// exportDescription is the form of the file, as auditfile makes it.
const exportDescription = `The answer is an attachment, and the export is audited.

The file has one event a line, each with its log_index, its leaf (RFC 6962: SHA-256(0x00 || record)) and the exact record: in ndjson the
members after "leaf" with "{" before them, in csv the last cell, in ocsf "raw_data".
After the events, one line for each run of positions that are not shown:
{"trakr_proof":{"from","to","hashes":[base64]}}, the roots of the fewest complete subtrees that cover them. The last line is
{"trakr_checkpoint":{"note","key","format","events","from","next","expired","waiting","unplaced","selection"}}: note is the signed tree
head (C2SP tlog-checkpoint), next the log_index to continue with (?from=), expired the position below which content may be deleted by
policy, waiting the number of older events that had no position yet, unplaced the rows that were never part of the log (a finding). In
csv these two are in the last cell of a row that begins with #proof or #checkpoint. An answer without a last line of this kind was
interrupted and proves nothing.

Check a file with: trakr verify FILE --key KEY, where KEY reached you by another way. recorded_at comes from the database's clock and is
not proven.`

// export streams. A failure before the first byte is a problem document; one after
// it cuts the connection, so that no client takes a part for the whole.
func (a *admin) export(w http.ResponseWriter, r *http.Request, who lifecycle.Access, what audit.Selection) {
	out := &lateHeader{w: w, contentType: what.Format.ContentType(), name: "audit." + string(what.Format)}
	if what.Gzip {
		out.contentType, out.name = "application/gzip", out.name+".gz"
	}
	done, err := a.Audit.Export(r.Context(), who, what, out)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the connection may be used again
	switch {
	case err == nil:
		if !done.Sound() {
			a.Log.ErrorContext(r.Context(), "an export met a changed log; run: trakr audit verify", "request_id", requestID(r.Context()))
		}
	case !out.started:
		writeProblem(w, r, err)
	default:
		a.Log.ErrorContext(r.Context(), "export was interrupted", "error", err, "request_id", requestID(r.Context()))
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
	}
}

// lateHeader sends the header with the first byte.
type lateHeader struct {
	w                 http.ResponseWriter
	contentType, name string
	started           bool
}

func (l *lateHeader) start() {
	if !l.started {
		l.started = true
		l.w.Header().Set("Content-Type", l.contentType)
		l.w.Header().Set("Content-Disposition", `attachment; filename="`+l.name+`"`)
		l.w.WriteHeader(http.StatusOK)
	}
}

// stalled is how long a client may take to accept the bytes of one Write (some
// hundred KiB). A client that stops reading would keep a transaction open without end.
const stalled = 2 * time.Minute

// Write implements io.Writer.
func (l *lateHeader) Write(b []byte) (int, error) {
	l.start()
	if err := http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return 0, fmt.Errorf("limiting the time of a write: %w", err)
	}
	return l.w.Write(b)
}
