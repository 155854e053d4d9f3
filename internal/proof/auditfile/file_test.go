package auditfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"trakr/internal/proof/merkle"
)

// ledger is a small log in memory, with its key.
type ledger struct {
	t       testing.TB
	records [][]byte
	leaves  []byte
	tiles   map[[2]int64][]byte
	tree    *merkle.Tree
	key     string
	note    []byte
}

func newLedger(t testing.TB, n int) *ledger {
	t.Helper()
	l := &ledger{t: t, tiles: map[[2]int64][]byte{}, tree: merkle.NewTree()}
	for i := range n {
		r := fmt.Appendf(nil, `{"action":"tenant.read","actor_id":"token:%d","actor_type":"service","dropped_names":["=a,\"b\"","c\nd"],"event_id":"01a20f9c-6611-7e73-bd7f-%012d",`+
			`"field_names":["username","avatar_url"],"occurred_at":"2026-11-24T12:00:00.000001Z","outcome":"success","reason_code":"service_operation","request_id":"-1","schema_version":1,"status_detail":"é€\u0001"}`, i%3, i)
		h := merkle.LeafHash(r)
		l.records, l.leaves = append(l.records, r), append(l.leaves, h[:]...)
		for _, tile := range l.tree.Append(h) {
			l.tiles[[2]int64{int64(tile.Level), tile.N}] = tile.Data
		}
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := merkle.NewSigner("log/test", private)
	if err != nil {
		t.Fatal(err)
	}
	if l.key, err = merkle.VerifierKey("log/test", private.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
	if l.note, err = merkle.Sign(merkle.Checkpoint{Origin: "log/test", Size: int64(n), Root: l.tree.Root()}, signer); err != nil {
		t.Fatal(err)
	}
	return l
}

// Tiles implements merkle.Reader.
func (l *ledger) Tiles(_ context.Context, level int, from, to int64) (out []byte, _ error) {
	for n := from; n < to; n++ {
		out = append(out, l.tiles[[2]int64{int64(level), n}]...)
	}
	return out, nil
}

// Leaves implements merkle.Reader.
func (l *ledger) Leaves(_ context.Context, from, to int64) ([]byte, error) {
	return l.leaves[32*from : 32*to], nil
}

// file exports what the selection shows; everything when it is nil.
func (l *ledger) file(f Format, shown func(i int64) bool) []byte {
	l.t.Helper()
	selection := `{"action":"tenant.read"}`
	if shown == nil {
		selection, shown = "{}", func(int64) bool { return true }
	}
	out := f.Header()
	var proofs []byte
	prover := merkle.NewProver(l.tree, l)
	size, covered, events := int64(len(l.records)), int64(0), int64(0)
	gap := func(to int64) {
		if covered == to {
			return
		}
		hashes, err := prover.Gap(l.t.Context(), covered, to)
		if err != nil {
			l.t.Fatal(err)
		}
		proofs = f.AppendProof(proofs, Proof{covered, to, hashes})
	}
	for i := range size {
		if !shown(i) {
			continue
		}
		gap(i)
		out = f.AppendEvent(out, Event{Index: i, RecordedAt: []byte("2026-11-24T12:00:00.000002Z"), Leaf: merkle.LeafHash(l.records[i]), Record: l.records[i]})
		covered = i + 1
		events++
	}
	gap(size)
	out, err := f.AppendEnd(append(out, proofs...), End{Note: string(l.note), Key: l.key, Format: f, Events: events, Next: size, Selection: json.RawMessage(selection)})
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func source(b []byte) Source {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (l *ledger) verify(b []byte) Report {
	l.t.Helper()
	r, err := Verify(l.t.Context(), source(b), l.key, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if r.Proven != (r.Finding == nil) {
		l.t.Errorf("proven %v with %+v", r.Proven, r.Finding)
	}
	return r
}

func TestASoundFileIsProvenWhateverItShows(t *testing.T) {
	for _, size := range []int{1, 2, 255, 256, 257, 1000} {
		l := newLedger(t, size)
		for name, shown := range map[string]func(int64) bool{
			"everything": nil, "nothing": func(int64) bool { return false }, "the first": func(i int64) bool { return i == 0 },
			"the last": func(i int64) bool { return i == int64(size)-1 }, "every other": func(i int64) bool { return i%2 == 1 },
			"some": func(i int64) bool { return rand.New(rand.NewPCG(1, uint64(i))).IntN(5) == 0 },
		} {
			for _, f := range Formats() {
				b := l.file(f, shown)
				var read int64
				r, err := Verify(t.Context(), source(b), l.key, func(n int64) { read += n })
				if err != nil || !r.Proven || r.Size != int64(size) || r.Format != f || r.Events+r.Hidden != int64(size) {
					t.Fatalf("%s, %s of %d: %+v %+v %v", f, name, size, r, r.Finding, err)
				}
				if read > 2*int64(len(b)) || read < int64(len(b)) {
					t.Errorf("%d of %d bytes reported", read, len(b))
				}
				if r := l.verify(pack(t, b)); !r.Proven {
					t.Errorf("%s, %s of %d, packed: %+v", f, name, size, r.Finding)
				}
				if f == CSV { // as a tool leaves it that knows only LF
					if r := l.verify(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))); !r.Proven {
						t.Errorf("with LF: %+v", r.Finding)
					}
				}
			}
		}
	}
}

// edit changes one line of a file.
func edit(b []byte, number int, change func(line string) string) []byte {
	lines := strings.SplitAfter(string(b), "\n")
	lines[number] = change(lines[number])
	return []byte(strings.Join(lines, ""))
}

func swap(b []byte, i, j int) []byte {
	lines := strings.SplitAfter(string(b), "\n")
	lines[i], lines[j] = lines[j], lines[i]
	return []byte(strings.Join(lines, ""))
}

// Everything that can be done to a file without the log's key is found and named.
func TestEveryTamperingIsNamed(t *testing.T) {
	l := newLedger(t, 300)
	other := newLedger(t, 300)
	replace := func(old, with string) func(string) string {
		return func(line string) string {
			if !strings.Contains(line, old) {
				t.Fatalf("%q is not in %s", old, line)
			}
			return strings.Replace(line, old, with, 1)
		}
	}
	gone := func(string) string { return "" }
	for _, f := range Formats() {
		h := 0 // lines before position 0
		if f == CSV {
			h = 1
		}
		full, odd := l.file(f, nil), l.file(f, func(i int64) bool { return i%2 == 1 }) // odd: line k shows 2k+1, 150 events
		last := len(strings.Split(string(full), "\n")) - 2
		// forged is position 17 with another record and the leaf that belongs to it.
		forged := func(string) string {
			r := bytes.Replace(l.records[17], []byte("success"), []byte("failure"), 1)
			return string(f.AppendEvent(nil, Event{Index: 17, RecordedAt: []byte("2026-11-24T12:00:00.000002Z"), Leaf: merkle.LeafHash(r), Record: r}))
		}
		column := map[Format]func(string) string{
			NDJSON: replace(`"recorded_at":"2026-11-24T12:00:00.000002Z"`, `"recorded_at":"2026-11-24T12:00:00.000002Z","actor_id":"nobody"`),
			CSV:    replace("token:2", "token:9"),
			OCSF:   replace(`"uid":"token:2"`, `"uid":"token:9"`),
		}[f]
		record := map[Format]func(string) string{
			NDJSON: replace("service_operation", "security_review"),
			CSV:    replace(`""reason_code"":""service_operation""`, `""reason_code"":""security_review""`),
			OCSF:   replace(`\"reason_code\":\"service_operation\"`, `\"reason_code\":\"security_review\"`),
		}[f]
		columnFault := Disagrees
		if f == NDJSON {
			columnFault = Changed // its columns are the record
		}
		for _, c := range []struct {
			name     string
			file     []byte
			fault    Fault
			position int64
		}{
			{"a record changed", edit(full, h+17, record), Changed, 17},
			{"a column changed", edit(full, h+17, column), columnFault, 17},
			{"a leaf changed", edit(full, h+17, replace(l.leaf(17), l.leaf(18))), Changed, 17},
			{"a record and its leaf changed", edit(full, h+17, forged), Changed, -1},
			{"a line that is none", edit(full, h+17, func(string) string { return "nonsense\n" }), Changed, 17},
			{"a time that is none", edit(full, h+17, replace("2026-11-24T12:00:00.000002Z", "=026-11-24T12:00:00.000002Z")), Changed, 17},
			{"a position that is no number", edit(full, h+17, replace("17", "1x")), Changed, 17},
			{"a line removed", edit(full, h+17, gone), Removed, 17},
			{"the first line removed", edit(full, h, gone), Removed, 0},
			{"the last line removed", edit(full, h+299, gone), Removed, 299},
			{"a line doubled", edit(full, h+17, func(l string) string { return l + l }), Inserted, 17},
			{"a line from elsewhere", edit(full, h+17, func(l string) string { return forged(l) + l }), Inserted, 17},
			{"a line beyond the end", edit(full, h+299, replace("299", "300")), Inserted, 300},
			{"two lines swapped", swap(full, h+17, h+18), Reordered, 17},
			{"two distant lines swapped", swap(full, h+17, h+117), Reordered, 17},
			{"two records swapped", swapRecords(f, l, full, h, 17, 18), Changed, 17},
			{"a selected line removed", edit(odd, h+8, gone), Removed, 17},
			{"two selected lines swapped", swap(odd, h+8, h+9), Reordered, 17},
			{"a line inserted into a gap", edit(odd, h+8, func(line string) string { return strings.Split(string(full), "\n")[h+16] + "\n" + line }), Inserted, 16},
			{"a proof line removed", edit(odd, h+150+8, gone), Removed, 16},
			{"two proof lines swapped", swap(odd, h+150+8, h+150+9), Removed, 16},
			{"a proof's hash changed", edit(odd, h+150+8, replace(l.leaf(16), l.leaf(17))), Changed, -1},
			{"a proof's end changed", edit(odd, h+150+8, replace("17", "18")), Inserted, 17},
			{"a proof that is none", edit(odd, h+150+8, replace("hashes", "x")), Changed, -1},
			{"a proof without its hash", edit(odd, h+150+8, replace(l.leaf(16), "")), Changed, -1},
			{"a proof too many", edit(full, h+299, func(line string) string { return line + strings.Split(string(odd), "\n")[h+150+8] + "\n" }), Inserted, 16},
			{"a proof beyond the end", edit(full, h+299, func(line string) string { return line + string(f.AppendProof(nil, Proof{300, 301, []merkle.Hash{{}}})) }), Inserted, 300},
			{"a second checkpoint", edit(full, last, func(line string) string { return line + line }), Inserted, -1},
			{"the file cut between lines", []byte(strings.Join(strings.SplitAfter(string(full), "\n")[:h+17], "")), Cut, 17},
			{"the file cut in a line", full[:bytes.Index(full, []byte("-000000000017"))], Cut, 17},
			{"the file cut before its checkpoint", edit(full, last, gone), Cut, 300},
			{"the file cut in its checkpoint", full[:len(full)-2], Cut, 300},
			{"packed and cut", pack(t, full)[:len(pack(t, full))/2], Cut, -2},
			{"packed and damaged", damage(pack(t, full)), Changed, -2},
			{"an event after the checkpoint", append(bytes.Clone(full), strings.SplitAfter(string(full), "\n")[h+17]...), Inserted, -1},
			{"an event among the proofs", edit(odd, h+150+8, func(line string) string { return line + strings.SplitAfter(string(odd), "\n")[h+8] }), Inserted, -1},
			{"the count changed", edit(full, last, replace("300,", "299,")), Miscounted, -1},
			{"the signature changed", edit(full, last, func(line string) string { return flipSignature(line, l.note) }), Changed, -1},
			{"another log's checkpoint", edit(full, last, func(string) string { return strings.SplitAfter(string(other.file(f, nil)), "\n")[last] }), WrongKey, -1},
			{"a smaller checkpoint's size", edit(full, last, replace(`log/test\n300`, `log/test\n299`)), Changed, -1},
			{"another format's name", edit(full, last, replace(string(f)+`"`, "x"+string(f)+`"`)), Changed, -1},
			{"a record that was gone at the export", edit(l.file(f, func(i int64) bool { return i != 17 }), last, func(line string) string {
				return strings.NewReplacer(`{"action":"tenant.read"}`, `{}`, `{""action"":""tenant.read""}`, `{}`).Replace(line)
			}), Removed, 17},
			{"rows that were never of the log", edit(full, last, func(line string) string {
				return strings.NewReplacer(`"unplaced":0`, `"unplaced":2`, `""unplaced"":0`, `""unplaced"":2`).Replace(line)
			}), Reported, -1},
		} {
			r := l.verify(c.file)
			if r.Finding == nil || r.Finding.Fault != c.fault || (r.Finding.Position != c.position && c.position != -2) {
				t.Errorf("%s: %s: %+v, want %s at %d", f, c.name, r.Finding, c.fault, c.position)
			}
		}
	}
}

func (l *ledger) leaf(i int) string { return merkle.LeafHash(l.records[i]).String() }

// swapRecords puts the records of two positions in each other's place.
func swapRecords(f Format, l *ledger, b []byte, h, i, j int) []byte {
	lines := strings.SplitAfter(string(b), "\n")
	at := []byte("2026-11-24T12:00:00.000002Z")
	lines[h+i] = string(f.AppendEvent(nil, Event{int64(i), at, merkle.LeafHash(l.records[i]), l.records[j]}))
	lines[h+j] = string(f.AppendEvent(nil, Event{int64(j), at, merkle.LeafHash(l.records[j]), l.records[i]}))
	return []byte(strings.Join(lines, ""))
}

func flipSignature(line string, note []byte) string {
	sig := strings.TrimSpace(string(note[bytes.LastIndexByte(note, ' ')+1:]))
	i := strings.Index(line, sig[10:30])
	c := byte('A')
	if line[i] == 'A' {
		c = 'B'
	}
	return line[:i] + string(c) + line[i+1:]
}

func damage(packed []byte) []byte {
	out := bytes.Clone(packed)
	out[len(out)-6] ^= 1 // the checksum
	return out
}

// Whatever single byte before the last line is flipped: it is found, unless it
// belongs to recorded_at, which is not promised.
func TestNoFlippedByteGoesUnseen(t *testing.T) {
	l := newLedger(t, 5)
	const when = "2026-11-24T12:00:00.000002Z"
	for _, f := range Formats() {
		b := l.file(f, func(i int64) bool { return i%2 == 1 })
		end := bytes.LastIndexByte(b[:len(b)-1], '\n')
		for i := range end {
			flipped := bytes.Clone(b)
			flipped[i] ^= []byte{1, 2, 4, 32}[i%4]
			r, err := Verify(t.Context(), source(flipped), l.key, nil)
			if err != nil && !errors.Is(err, ErrNotExport) {
				t.Fatal(err)
			}
			if err != nil || !r.Proven {
				continue
			}
			if from := max(0, i-len(when)+1); bytes.Contains(b[from:i+len(when)], []byte(when)) {
				continue // recorded_at
			}
			if b[i+1] == '=' {
				continue // bits of the last character of base64 that say nothing
			}
			t.Errorf("%s: byte %d (%q to %q) in …%s… goes unseen", f, i, b[i], flipped[i], b[max(0, i-20):min(len(b), i+20)])
		}
	}
}

func TestWithoutTheKeyNothingIsSaid(t *testing.T) {
	l := newLedger(t, 3)
	if _, err := Verify(t.Context(), source(l.file(NDJSON, nil)), "", nil); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	if _, err := Verify(t.Context(), source(l.file(NDJSON, nil)), "no key", nil); err == nil {
		t.Error("an unreadable key was taken")
	}
	for _, b := range []string{"", "\n", "a,b\n1,2\n", "{}\n"} {
		if _, err := Verify(t.Context(), source([]byte(b)), l.key, nil); !errors.Is(err, ErrNotExport) {
			t.Errorf("%q: %v", b, err)
		}
	}
	broken := func() (io.ReadCloser, error) { return nil, os.ErrPermission }
	if _, err := Verify(t.Context(), broken, l.key, nil); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, source(l.file(NDJSON, nil)), l.key, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What other programs read in the lines is what the records say.
func TestOtherReadersUnderstandTheForms(t *testing.T) {
	l := newLedger(t, 5)
	var want struct {
		ActorID string   `json:"actor_id"`
		Dropped []string `json:"dropped_names"`
		Index   int64    `json:"log_index"`
		Detail  string   `json:"status_detail"`
	}
	for _, line := range bytes.SplitAfter(l.file(NDJSON, nil), []byte("\n"))[:5] {
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
	}
	if want.Index != 4 || want.ActorID != "token:1" || want.Dropped[0] != `=a,"b"` || want.Detail != "é€\x01" {
		t.Errorf("%+v", want)
	}
	rows, err := csv.NewReader(bytes.NewReader(l.file(CSV, nil))).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for i, row := range rows[1:6] {
		if len(row) != len(csvHeader) || row[0] != fmt.Sprint(i) || row[13] != `'=a,"b" c d` || row[16] != "'-1" || row[9] != "é€\x01" || row[21] != string(l.records[i]) {
			t.Errorf("%q", row)
		}
	}
	if rows[6][0] != "#checkpoint" || !json.Valid([]byte(rows[6][21])) {
		t.Errorf("%q", rows[6])
	}
}

func TestCSVCellsAreNoFormulas(t *testing.T) {
	for in, want := range map[string]string{"=1": `,"'=1"`, "+1": `,"'+1"`, "-1": `,"'-1"`, "@x": `,"'@x"`, `\tx`: ",\"'\tx\"", "x": ",x", "": ",", " x": `," x"`, `x\ny`: ",x y", "x=1": ",x=1"} {
		if got := string(appendCell(nil, []byte(`"`+in+`"`))); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// The attributes OCSF 1.8 requires of the three classes, at the values we map.
func TestOCSFEventsHaveWhatTheSchemaRequires(t *testing.T) {
	for _, c := range []struct {
		action, detail, outcome   string
		class, activity, category float64
	}{
		{"tenant.read", "", "success", 6005, 1, 6}, {"tenant.lookup", "live", "success", 6005, 4, 6}, {"tenant.update", "", "denied", 6005, 2, 6},
		{"tenant.install", "", "success", 6002, 1, 6}, {"tenant.erase", "uninstall", "success", 6002, 2, 6}, {"tenant.erase", "request", "success", 6005, 7, 6},
		{"sweep.run", "", "failure", 6005, 4, 6}, {"audit.export", "csv", "success", 6005, 1, 6}, {"audit.expire", "", "success", 6005, 7, 6},
		{"token.create", "", "success", 3004, 1, 3}, {"token.revoke", "", "success", 3004, 9, 3}, {"token.use", "", "denied", 3004, 99, 3}, {"request.move", "received", "success", 3004, 1, 3}, {"request.move", "approved", "success", 3004, 3, 3},
		{"hold.place", "legal_claim", "success", 3004, 1, 3}, {"hold.release", "legal_claim", "success", 3004, 9, 3},
		{"some.thing", "", "success", 6005, 99, 6},
	} {
		r := fmt.Appendf(nil, `{"action":%q,"actor_id":"a","actor_type":"staff","correlation_id":"c","event_id":"e","occurred_at":"2026-11-24T12:00:00.123456Z","outcome":%q,"reason_code":"r","recipient":"h.example","request_id":"q","schema_version":1,"status_detail":%q,"tenant_id":"t","trace_id":"x"}`, c.action, c.outcome, c.detail)
		var e map[string]any
		if err := json.Unmarshal(OCSF.AppendEvent(nil, Event{Index: 7, RecordedAt: []byte("2026-11-24T12:00:00.123457Z"), Leaf: merkle.LeafHash(r), Record: r}), &e); err != nil {
			t.Fatalf("%s: %v", c.action, err)
		}
		at := func(path string) any {
			var v any = e
			for _, k := range strings.Split(path, ".") {
				m, _ := v.(map[string]any)
				v = m[k]
			}
			return v
		}
		status := 1.0
		if c.outcome != "success" {
			status = 2
		}
		want := map[string]any{"class_uid": c.class, "activity_id": c.activity, "category_uid": c.category, "type_uid": c.class*100 + c.activity, "status_id": status,
			"status_code": c.outcome, "time": 1795521600123.0, "metadata.version": "1.8.0", "metadata.product.vendor_name": "Trakr", "metadata.uid": "e", "metadata.sequence": 7.0,
			"metadata.tenant_uid": "t", "metadata.correlation_uid": "c", "metadata.event_code": c.action, "actor.user.uid": "a", "actor.user.type_id": 1.0,
			"raw_data": string(r), "unmapped.log_index": 7.0, "unmapped.recorded_at": "2026-11-24T12:00:00.123457Z", "unmapped.reason_code": "r", "unmapped.trace_id": "x"}
		switch c.class {
		case datastoreActivity:
			want["src_endpoint.name"], want["database.type_id"], want["dst_endpoint.hostname"], want["http_request.uid"] = "staff", 1.0, "h.example", "q"
		case applicationLifecycle:
			want["app.name"], want["unmapped.request_id"], want["src_endpoint"] = "Trakr", "q", nil
		case entityManagement:
			want["entity.uid"], want["src_endpoint.name"] = "c", "staff"
		}
		if c.activity == 99 {
			want["activity_name"] = c.action
		}
		for path, v := range want {
			if at(path) != v {
				t.Errorf("%s: %s is %v, want %v", c.action, path, at(path), v)
			}
		}
		if s, ok := at("severity_id").(float64); !ok || s < 1 {
			t.Errorf("%s: severity %v", c.action, s)
		}
	}
}

// A record that is not ours, from a table changed around us, breaks no line.
func TestStrangeRecordsStayOnTheirLine(t *testing.T) {
	for _, r := range []string{"", "{", "{}", "null", `{"a"`, `{"a":{"b":1}}`, `{"action":["x"}`, `{"action":"x\"}`, `{"action":"x",}`, `{"action":true}`, `{"action":[1]}`, "{\"action\":\"\xff\"}", `{"action":[]}`, `{"occurred_at":"x"}`} {
		for _, f := range Formats() {
			line := f.AppendEvent(nil, Event{Record: []byte(r)})
			if bytes.Count(line, []byte("\n")) != 1 {
				t.Errorf("%s of %q: %q", f, r, line)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add([]byte(`{"action":["a","b"],"actor_id":"\u0001\\\"","schema_version":1}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		for _, form := range Formats() {
			line := form.AppendEvent(nil, Event{Index: 1, RecordedAt: []byte("2026-11-24T12:00:00.000002Z"), Record: record})
			line = bytes.TrimRight(line, "\r\n")
			var scratch []byte
			if form == NDJSON && (len(record) == 0 || record[0] != '{') {
				continue // not an object, so not a record
			}
			e, ok := form.parseEvent(line, &scratch)
			if !ok || !bytes.Equal(e.Record, record) && !bytes.HasSuffix(record, []byte("\r")) && !bytes.HasSuffix(record, []byte("\n")) {
				t.Fatalf("%s: %q came back as %q", form, record, e.Record)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	l := newLedger(f, 5)
	for _, form := range Formats() {
		f.Add(l.file(form, nil))
		f.Add(l.file(form, func(i int64) bool { return i%2 == 1 }))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(t.Context(), source(b), l.key, nil)
		if err == nil && r.Proven == (r.Finding != nil) {
			t.Fatalf("%+v", r)
		}
	})
}
