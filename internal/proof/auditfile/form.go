package auditfile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"trakr/internal/proof/merkle"
)

// Format is a form of export.
type Format string

// The formats: newline-delimited JSON, RFC 4180 CSV, and newline-delimited events
// of the Open Cybersecurity Schema Framework 1.8.
const (
	NDJSON Format = "ndjson"
	CSV    Format = "csv"
	OCSF   Format = "ocsf"
)

// Formats lists the formats.
func Formats() []Format { return []Format{NDJSON, CSV, OCSF} }

// ContentType is the media type of a format.
func (f Format) ContentType() string {
	if f == CSV {
		return "text/csv; charset=utf-8"
	}
	return "application/x-ndjson"
}

// Event is the content of a line.
type Event struct {
	Index      int64  // position in the log
	RecordedAt []byte // the database's clock, UTC, six decimals; not part of the record
	Leaf       merkle.Hash
	Record     []byte // the exact bytes that are hashed
}

// Proof covers the positions [From, To), which the file does not show.
type Proof struct {
	From   int64         `json:"from"`
	To     int64         `json:"to"`
	Hashes []merkle.Hash `json:"hashes"` // base64, roots of the fewest complete subtrees, left to right
}

// End is the last line: the checkpoint, and what the exporter reports to have done.
// Only the note is signed; Verify compares the rest with it where it can.
type End struct {
	Note      string          `json:"note"`      // signed tree head, C2SP tlog-checkpoint
	Key       string          `json:"key"`       // the log's public key; proves nothing by itself
	Format    Format          `json:"format"`    //
	Events    int64           `json:"events"`    // lines of events in this file
	From      int64           `json:"from"`      // first position considered
	Next      int64           `json:"next"`      // position to continue with: the next part's from
	Expired   int64           `json:"expired"`   // below it, content may have been removed by policy
	Waiting   int64           `json:"waiting"`   // older events that had no position yet
	Unplaced  int64           `json:"unplaced"`  // rows in the table that the log never held: a finding
	Selection json.RawMessage `json:"selection"` // the filter as it was given; {} is everything
}

// The two members, and in CSV the first cells, by which the lines of the end are
// known.
const (
	proofMember, proofMark           = "trakr_proof", "#proof"
	checkpointMember, checkpointMark = "trakr_checkpoint", "#checkpoint"
)

var csvHeader = []string{"log_index", "event_id", "occurred_at", "recorded_at", "tenant_id", "actor_type", "actor_id", "action", "outcome",
	"status_detail", "reason_code", "reason_ref", "field_names", "dropped_names", "subject_digest", "recipient",
	"request_id", "trace_id", "correlation_id", "schema_version", "leaf", "record"}

// Header returns what precedes the first event.
func (f Format) Header() []byte {
	if f == CSV {
		return []byte(strings.Join(csvHeader, ",") + "\r\n")
	}
	return nil
}

// AppendEvent appends an event's line.
func (f Format) AppendEvent(dst []byte, e Event) []byte {
	switch f {
	case CSV:
		return append(appendCSV(dst, e), '\r', '\n')
	case OCSF:
		return append(appendOCSF(dst, e), '\n')
	}
	dst = appendHead(dst, e)
	if len(e.Record) > 0 {
		dst = append(append(dst, ','), e.Record[1:]...) // the record is a JSON object
	}
	return append(dst, '\n')
}

// appendHead opens the JSON object of an event with what is not in its record.
func appendHead(dst []byte, e Event) []byte {
	dst = strconv.AppendInt(append(dst, `{"log_index":`...), e.Index, 10)
	dst = append(append(dst, `,"recorded_at":"`...), e.RecordedAt...)
	dst = base64.StdEncoding.AppendEncode(append(dst, `","leaf":"`...), e.Leaf[:])
	return append(dst, '"')
}

func appendCSV(dst []byte, e Event) []byte {
	r := parse(e.Record)
	dst = strconv.AppendInt(dst, e.Index, 10)
	for _, m := range [...]member{eventID, occurredAt} {
		dst = appendCell(dst, r[m])
	}
	dst = append(append(dst, ','), e.RecordedAt...)
	for _, m := range [...]member{tenantID, actorType, actorID, action, outcome, statusDetail, reasonCode, reasonRef,
		fieldNames, droppedNames, subjectDigest, recipient, requestID, traceID, correlationID, schemaVersion} {
		dst = appendCell(dst, r[m])
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, ','), e.Leaf[:])
	return appendCSVQuoted(append(dst, ','), e.Record)
}

// appendCell appends a comma and the text of a member, on one line and harmless.
func appendCell(dst, v []byte) []byte {
	start := len(dst) + 1
	dst = appendText(append(dst, ','), v)
	cell := dst[start:]
	var seen uint8
	for _, c := range cell {
		seen |= special[c]
	}
	if seen&breaksLine != 0 {
		for i, c := range cell {
			if special[c] == breaksLine {
				cell[i] = ' ' // a row is a line; the record holds the character
			}
		}
	}
	danger := harmful(cell)
	if !danger && seen&needsQuotes == 0 && (len(cell) == 0 || cell[0] != ' ') {
		return dst
	}
	cell = bytes.Clone(cell)
	if danger {
		cell = append([]byte{'\''}, cell...)
	}
	return appendCSVQuoted(dst[:start], cell)
}

// special marks the bytes that a plain cell cannot hold.
var special = [256]uint8{',': needsQuotes, '"': needsQuotes, '\n': breaksLine, '\r': breaksLine}

const (
	needsQuotes = 1
	breaksLine  = 2
)

// harmful reports whether a spreadsheet would take a cell for a formula.
func harmful(cell []byte) bool {
	return len(cell) > 0 && strings.IndexByte("=+-@\t", cell[0]) >= 0
}

// AppendProof appends a proof's line. There may be as many as events, so it does
// without encoding/json.
func (f Format) AppendProof(dst []byte, p Proof) []byte {
	quoted := func(s string) []byte {
		if f == CSV {
			s = strings.ReplaceAll(s, `"`, `""`)
		}
		return append(dst, s...)
	}
	dst = f.openEnd(dst, proofMark)
	dst = strconv.AppendInt(quoted(`{"`+proofMember+`":{"from":`), p.From, 10)
	dst = strconv.AppendInt(quoted(`,"to":`), p.To, 10)
	dst = quoted(`,"hashes":[`)
	for i, h := range p.Hashes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = quoted(`"`)
		dst = base64.StdEncoding.AppendEncode(dst, h[:])
		dst = quoted(`"`)
	}
	return f.closeEnd(append(dst, `]}}`...))
}

// AppendEnd appends the last line.
func (f Format) AppendEnd(dst []byte, e End) ([]byte, error) {
	b, err := json.Marshal(map[string]End{checkpointMember: e})
	if err != nil {
		return dst, fmt.Errorf("formatting the end of an export: %w", err)
	}
	dst = f.openEnd(dst, checkpointMark)
	if f == CSV {
		b = bytes.ReplaceAll(b, []byte(`"`), []byte(`""`))
	}
	return f.closeEnd(append(dst, b...)), nil
}

// openEnd and closeEnd enclose the JSON of a line of the end.
func (f Format) openEnd(dst []byte, mark string) []byte {
	if f != CSV {
		return dst
	}
	return append(append(dst, mark...), strings.Repeat(",", len(csvHeader)-1)+`"`...)
}

func (f Format) closeEnd(dst []byte) []byte {
	if f != CSV {
		return append(dst, '\n')
	}
	return append(dst, '"', '\r', '\n')
}
