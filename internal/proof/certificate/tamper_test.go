package certificate_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
)

// tree reads a certificate's JSON so that it can be changed.
func tree(t testing.TB, file []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(file)))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func write(t testing.TB, v any) []byte { return must[[]byte](t)(json.Marshal(v)) }

// pointers lists every leaf and, with inner, every object and array too.
func pointers(v any, at string, inner bool) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, pointers(v[k], at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(k), inner)...)
		}
		if !inner {
			return out
		}
	case []any:
		for i, x := range v {
			out = append(out, pointers(x, at+"/"+strconv.Itoa(i), inner)...)
		}
		if !inner {
			return out
		}
	}
	if at == "" {
		return out
	}
	return append(out, at)
}

// edit replaces what stands at a pointer; with nil f it is taken out.
func edit(v any, pointer string, f func(any) any) any {
	segment, rest, more := strings.Cut(pointer[1:], "/")
	segment = strings.NewReplacer("~1", "/", "~0", "~").Replace(segment)
	switch v := v.(type) {
	case map[string]any:
		switch {
		case more:
			v[segment] = edit(v[segment], "/"+rest, f)
		case f == nil:
			delete(v, segment)
		default:
			v[segment] = f(v[segment])
		}
	case []any:
		i, _ := strconv.Atoi(segment)
		switch {
		case more:
			v[i] = edit(v[i], "/"+rest, f)
		case f == nil:
			return slices.Delete(v, i, i+1)
		default:
			v[i] = f(v[i])
		}
	}
	return v
}

// changes are what is done to each leaf in turn.
var changes = map[string]func(any) any{
	"one character": func(v any) any {
		switch v := v.(type) {
		case string:
			if v == "" {
				return "x"
			}
			i := len(v) / 2
			return v[:i] + string(rune(v[i]^1)) + v[i+1:]
		case json.Number:
			n, _ := v.Int64()
			return n + 1
		}
		return "x"
	},
	"emptied": func(v any) any {
		if _, ok := v.(json.Number); ok {
			return -1
		}
		return ""
	},
	"longer": func(v any) any {
		if s, ok := v.(string); ok {
			return s + " "
		}
		return json.Number("10000000000000000000000")
	},
	"null":         func(any) any { return nil },
	"another type": func(v any) any { return []any{v} },
	"an object":    func(v any) any { return map[string]any{"x": v} },
	"true":         func(any) any { return true },
	"removed":      nil,
}

// Every value in turn, those of the manifest, the key and the signature included.
func TestEveryChangedValueIsRejectedAndNamed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	for state, c := range map[string]certificate.Certificate{"erased": l.erased(t, 1), "nothing held": l.nothing(t, 9)} {
		file := l.issue(t, c)
		all := pointers(tree(t, file), "", false)
		if len(all) < 60 {
			t.Fatalf("%s: only %d leaves: %q", state, len(all), all)
		}
		for _, p := range all {
			for what, f := range changes {
				v := tree(t, file)
				edit(v, p, f)
				r := l.verify(t, write(t, v))
				if r.Proven || r.Certificate != nil {
					t.Fatalf("%s: %s %s: proven", state, p, what)
				}
				// Where a value became a list or an object, what stands in it is named.
				inside := slices.ContainsFunc(r.Findings, func(f certificate.Finding) bool { return strings.HasPrefix(f.Pointer, p+"/") })
				if !names(r, p) && !inside {
					t.Errorf("%s: %s %s: %+v", state, p, what, r.Findings)
				}
				if len(r.Findings) > 8 && !strings.Contains(p, "/inclusion/") {
					t.Errorf("%s: %s %s: %d findings for one change: %+v", state, p, what, len(r.Findings), r.Findings)
				}
			}
		}
	}
}

// Whole members, elements and lists, taken out, added, or renamed.
func TestEveryRemovedOrAddedMemberIsNamed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	under := func(r certificate.Report, p string) bool {
		return !r.Proven && slices.ContainsFunc(r.Findings, func(f certificate.Finding) bool { return f.Pointer == p || strings.HasPrefix(f.Pointer, p+"/") })
	}
	for _, p := range pointers(tree(t, file), "", true) {
		v := tree(t, file)
		edit(v, p, nil)
		if r := l.verify(t, write(t, v)); !under(r, p) {
			t.Errorf("%s removed: %+v", p, r.Findings)
		}
		v = tree(t, file)
		at := ""
		edit(v, p, func(x any) any {
			switch x := x.(type) {
			case map[string]any:
				x["more"], at = "x", p+"/more"
			case []any:
				at = p + "/" + strconv.Itoa(len(x))
				return append(x, x[0])
			}
			return x
		})
		if r := l.verify(t, write(t, v)); at != "" && !under(r, at) {
			t.Errorf("%s added: %+v", at, r.Findings)
		}
	}
	for name, other := range map[string]string{"tenant_id": "Tenant_ID", "trigger": "TRIGGER", "audit": "Audit"} {
		r := l.verify(t, []byte(strings.Replace(string(file), `"`+name+`":`, `"`+other+`":`, 1)))
		if !under(r, "/"+other) {
			t.Errorf("%s: %+v", other, r.Findings)
		}
	}
	r := l.verify(t, []byte(strings.Replace(string(file), "{", `{"comment":"x",`, 1)))
	if !names(r, "/comment") {
		t.Errorf("%+v", r.Findings)
	}
}

func TestARemovedRecordIsNamed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	for i := range 3 {
		v := tree(t, file)
		edit(v, fmt.Sprintf("/audit/events/%d", i), nil)
		r := l.verify(t, write(t, v))
		if at := fmt.Sprintf("/audit/events/%d", i); !names(r, at, certificate.Removed) || len(r.Findings) != 1 {
			t.Errorf("%s: %+v", at, r.Findings)
		}
		edit(v, fmt.Sprintf("/audit/log_indexes/%d", i), nil) // and its traces with it
		if r = l.verify(t, write(t, v)); len(r.Findings) != 2 || !names(r, fmt.Sprintf("/audit/log_indexes/%d", i), certificate.Removed) {
			t.Errorf("%d: %+v", i, r.Findings)
		}
	}
	v := tree(t, file)
	edit(v, "/audit/events", func(x any) any {
		all := x.([]any)
		all[0], all[1] = all[1], all[0]
		return all
	})
	if r := l.verify(t, write(t, v)); !names(r, "/audit/events/0", certificate.Moved) || !names(r, "/audit/events/1", certificate.Moved) || len(r.Findings) != 2 {
		t.Errorf("swapped: %+v", r.Findings)
	}
	edit(v, "/stores", func(any) any { return []any{} })
	if r := l.verify(t, write(t, v)); !names(r, "/stores/0", certificate.Removed) || !names(r, "/stores/1", certificate.Removed) {
		t.Errorf("no stores: %+v", r.Findings)
	}
}

// White space and the order of members are no part of what is signed.
func TestAnotherLayoutOfTheSameJSONVerifies(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	if r := l.verify(t, write(t, tree(t, file))); !r.Proven {
		t.Errorf("%+v", r.Findings)
	}
}

func TestWhatIsNotCleanJSONIsRefused(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := string(l.issue(t, l.erased(t, 1)))
	for name, c := range map[string]struct{ file, pointer string }{
		"a member twice":       {strings.Replace(file, `"issuer":`, `"issuer": "Another", "issuer":`, 1), "/issuer"},
		"an inner one twice":   {strings.Replace(file, `"rows_after": 0`, `"rows_after": 7, "rows_after": 0`, 1), "/stores/0/rows_after"},
		"something after it":   {file + "{}", ""},
		"cut":                  {file[:len(file)/2], ""},
		"not UTF-8":            {strings.Replace(file, "Trakr Ltd", "Trakr \xff", 1), ""},
		"1 MiB":                {file + strings.Repeat(" ", 1<<20), ""},
		"nested":               {strings.Replace(file, `"issuer": "Trakr Ltd"`, `"issuer": `+strings.Repeat("[", 100000)+strings.Repeat("]", 100000), 1), "/issuer/0/0/0/0/0/0/0/0"},
		"a comma too much":     {strings.Replace(file, `"row_delete",`, `"row_delete",,`, 1), ""},
		"a number as fraction": {strings.Replace(file, `"rows_before": 1,`, `"rows_before": 1.0,`, 1), "/stores/0/rows_before"},
		"a number with exp":    {strings.Replace(file, `"rows_before": 1,`, `"rows_before": 1e0,`, 1), "/stores/0/rows_before"},
	} {
		r := l.verify(t, []byte(c.file))
		if r.Proven || len(r.Findings) == 0 || c.pointer != "" && !names(r, c.pointer) {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
	for _, other := range []string{"", " ", "{}", "[]", "null", "%PDF-1.4", "<!doctype html><title>Data Location Statement</title>", `{"log_index":0,"subject_digest":"x"}`, "log_index,event_id"} {
		if _, err := certificate.Verify([]byte(other), l.key, version); err != certificate.ErrNotCertificate {
			t.Errorf("%q: %v", other, err)
		}
		if _, ok := certificate.Recognise([]byte(other)); ok {
			t.Errorf("%q is taken for a certificate", other)
		}
	}
}

// What no certificate has is refused even when the right key signed it.
func TestASignedMemberThatIsNoneOfOursIsNamed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	if r := l.verify(t, l.signedTree(t, tree(t, file))); !r.Proven {
		t.Fatalf("%+v", r.Findings)
	}
	for pointer, change := range map[string]func(map[string]any){
		"/media_sanitised":      func(v map[string]any) { v["media_sanitised"] = true },
		"/Tenant_ID":            func(v map[string]any) { v["Tenant_ID"] = v["tenant_id"]; delete(v, "tenant_id") },
		"/issuer":               func(v map[string]any) { v["issuer"] = []any{v["issuer"]} },
		"/retained":             func(v map[string]any) { v["retained"] = nil },
		"/issued_at":            func(v map[string]any) { v["issued_at"] = "2026-11-24T12:01:04Z" },
		"/hold":                 func(v map[string]any) { v["hold"] = nil },
		"/stores/0/rows_before": func(v map[string]any) { edit(v, "/stores/0/rows_before", func(any) any { return json.Number("1.0") }) },
	} {
		v := tree(t, file)
		change(v)
		if r := l.verify(t, l.signedTree(t, v)); !names(r, pointer, certificate.Form) {
			t.Errorf("%s: %+v", pointer, r.Findings)
		}
	}
}

// Signed with the right key, and still not true: Issue refuses it, and so does
// Verify when somebody with the key signs it by other means.
func TestACertificateThatContradictsItsEvidenceFails(t *testing.T) {
	later := func(x certificate.Time, d time.Duration) certificate.Time { return certificate.At(x.Add(d)) }
	type mistake struct {
		pointer string
		change  func(*certificate.Certificate)
	}
	for name, m := range map[string]mistake{
		"another trigger":                  {"/trigger", func(c *certificate.Certificate) { c.Trigger = lifecycle.TriggerProbe }},
		"an unknown trigger":               {"/trigger", func(c *certificate.Certificate) { c.Trigger = "whim" }},
		"began at another time":            {"/started_at", func(c *certificate.Certificate) { c.StartedAt = later(c.StartedAt, -time.Microsecond) }},
		"deleted at another time":          {"/deleted_live_at", func(c *certificate.Certificate) { c.DeletedLiveAt = later(c.DeletedLiveAt, time.Microsecond) }},
		"deleted at no time":               {"/deleted_live_at", func(c *certificate.Certificate) { c.DeletedLiveAt = certificate.Time{} }},
		"verified at another time":         {"/verification/verified_at", func(c *certificate.Certificate) { c.Verification.VerifiedAt = c.StartedAt }},
		"another tenant":                   {"/tenant_id", func(c *certificate.Certificate) { c.TenantID = id(77) }},
		"no tenant":                        {"/tenant_id", func(c *certificate.Certificate) { c.TenantID = "" }},
		"another erasure":                  {"/erasure_id", func(c *certificate.Certificate) { c.ErasureID = id(77) }},
		"no request":                       {"/request_id", func(c *certificate.Certificate) { c.RequestID = "" }},
		"another subject":                  {"/subject_digest", func(c *certificate.Certificate) { c.SubjectDigest = digest[:70] + "00" }},
		"a client key for a digest":        {"/subject_digest", func(c *certificate.Certificate) { c.SubjectDigest = "connection:1" }},
		"findings":                         {"/verification/result", func(c *certificate.Certificate) { c.Verification.Result = "findings" }},
		"rows left":                        {"/stores/1/rows_after", func(c *certificate.Certificate) { c.Stores[1].RowsAfter = 1 }},
		"rows not deleted":                 {"/stores/1/rows_deleted", func(c *certificate.Certificate) { c.Stores[1].RowsDeleted = 2 }},
		"rows below zero":                  {"/stores/1/rows_before", func(c *certificate.Certificate) { c.Stores[1].RowsBefore, c.Stores[1].RowsDeleted = -1, -1 }},
		"a table twice":                    {"/stores/1", func(c *certificate.Certificate) { c.Stores[1].Table = c.Stores[0].Table }},
		"no tables":                        {"/stores", func(c *certificate.Certificate) { c.Stores = nil }},
		"no method":                        {"/method", func(c *certificate.Certificate) { c.Method = nil }},
		"an unknown method":                {"/method/0", func(c *certificate.Certificate) { c.Method[0] = "degauss" }},
		"other positions":                  {"/audit/log_indexes", func(c *certificate.Certificate) { c.Audit.LogIndexes[1]++ }},
		"backups clear before deletion":    {"/backups_clear_after", func(c *certificate.Certificate) { c.BackupsClearAfter = c.StartedAt }},
		"issued before it was verified":    {"/issued_at", func(c *certificate.Certificate) { c.IssuedAt = c.StartedAt }},
		"a hold that stands":               {"/hold/state", func(c *certificate.Certificate) { c.Hold.State = "active" }},
		"a record at another position":     {"/audit/events/1/inclusion", func(c *certificate.Certificate) { c.Audit.Events[1].LogIndex++; c.Audit.LogIndexes[1]++ }},
		"a position beyond the checkpoint": {"/audit/events/2/log_index", func(c *certificate.Certificate) { c.Audit.Events[2].LogIndex = 1e6; c.Audit.LogIndexes[2] = 1e6 }},
		"a record that the log never held": {"/audit/events/1/inclusion", func(c *certificate.Certificate) {
			c.Audit.Events[1].Record = strings.Replace(c.Audit.Events[1].Record, `"scheduler"`, `"service"`, 1)
		}},
		"a proof cut short":  {"/audit/events/1/inclusion", func(c *certificate.Certificate) { c.Audit.Events[1].Inclusion = c.Audit.Events[1].Inclusion[1:] }},
		"no proof":           {"/audit/events/0/inclusion", func(c *certificate.Certificate) { c.Audit.Events[0].Inclusion = nil }},
		"another event's id": {"/audit/events/0/event_id", func(c *certificate.Certificate) { c.Audit.Events[0].EventID = id(77) }},
		"no record of the begin": {"/audit/events", func(c *certificate.Certificate) {
			c.Audit.Events = c.Audit.Events[1:]
			c.Audit.LogIndexes = c.Audit.LogIndexes[1:]
		}},
		"no record of the verify": {"/audit/events", func(c *certificate.Certificate) {
			c.Audit.Events = c.Audit.Events[:2]
			c.Audit.LogIndexes = c.Audit.LogIndexes[:2]
		}},
		"no evidence":            {"/audit/events", func(c *certificate.Certificate) { c.Audit.Events, c.Audit.LogIndexes = nil, nil }},
		"nothing held after all": {"/tenant_id", func(c *certificate.Certificate) { c.State = certificate.NothingHeld }},
		"no state":               {"/state", func(c *certificate.Certificate) { c.State = "done" }},
		"no checkpoint":          {"/audit/checkpoint", func(c *certificate.Certificate) { c.Audit.Checkpoint = "" }},
		"an empty name":          {"/recipients_notified/1/name", func(c *certificate.Certificate) { c.Recipients[1].Name = "" }},
		"a text without end":     {"/retained/0/ground", func(c *certificate.Certificate) { c.Retained[0].Ground = strings.Repeat("x", 1001) }},
	} {
		l := newLog(t, "trakr-audit/test", 1)
		c := l.erased(t, 1)
		m.change(&c)
		if _, err := certificate.Issue(c, l.signer, l.verifier); err == nil || !strings.Contains(err.Error(), m.pointer+":") {
			t.Errorf("%s: issued, or refused for another reason: %v", name, err)
		}
		if r := l.verify(t, l.signed(t, c)); !names(r, m.pointer) || names(r, "/signature") {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
}

// The records themselves may tell another story than the certificate.
func TestRecordsThatDoNotMakeAnErasureAreFound(t *testing.T) {
	type fault struct {
		pointer string
		steps   []string // action, detail
		change  func(record string) string
	}
	same := func(r string) string { return r }
	for name, f := range map[string]fault{
		"deleted before it began":  {"/audit/events", []string{"tenant.erase", "request", "erasure.begin", "request", "erasure.verify", "clean"}, same},
		"verified before deletion": {"/audit/events", []string{"erasure.begin", "request", "erasure.verify", "clean", "tenant.erase", "request"}, same},
		"never verified":           {"/audit/events", []string{"erasure.begin", "request", "tenant.erase", "request"}, same},
		"the verification failed": {"/audit/events", []string{"erasure.begin", "request", "tenant.erase", "request", "erasure.verify", "clean"}, func(r string) string {
			if strings.Contains(r, "erasure.verify") {
				r = strings.Replace(r, `"success"`, `"failure"`, 1)
			}
			return r
		}},
		"the verification found rows": {"/verification/result", []string{"erasure.begin", "request", "tenant.erase", "request", "erasure.verify", "findings"}, same},
		"a record of another tenant beside it": {"/audit/events/0", []string{"tenant.install", "", "erasure.begin", "request", "tenant.erase", "request", "erasure.verify", "clean"}, func(r string) string {
			if strings.Contains(r, "tenant.install") {
				i := strings.Index(r, `"tenant_id":"`) + len(`"tenant_id":"`)
				r = r[:i] + id(77) + r[i+36:]
			}
			return r
		}},
		"a record that is none": {"/audit/events/2/record", []string{"erasure.begin", "request", "tenant.erase", "request", "erasure.verify", "clean"}, func(r string) string {
			if strings.Contains(r, "erasure.verify") {
				r += "}"
			}
			return r
		}},
	} {
		l := newLog(t, "trakr-audit/test", 1)
		c := l.erased(t, 1)
		c.Audit.Events = nil
		times := map[string]time.Time{"erasure.begin": c.StartedAt.Time, "tenant.erase": c.DeletedLiveAt.Time, "erasure.verify": c.Verification.VerifiedAt.Time}
		for i := 0; i < len(f.steps); i += 2 {
			eventID, r := event(c, 2000+i, f.steps[i], f.steps[i+1], times[f.steps[i]])
			r = f.change(r)
			c.Audit.Events = append(c.Audit.Events, certificate.Event{EventID: eventID, LogIndex: l.add(r), Record: r})
		}
		l.prove(t, &c)
		if r := l.verify(t, l.signed(t, c)); !names(r, f.pointer) || names(r, "/signature") {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
}

// A second verification, a hold and the request's own records may stand beside what
// is needed.
func TestMoreRecordsOfTheSameErasureAreAllowed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	verified := c.Audit.Events[2]
	c.Audit.Events = c.Audit.Events[:2]
	l.append(&c, "erasure.verify", "findings", c.DeletedLiveAt.Time)
	l.append(&c, "hold.release", "", c.DeletedLiveAt.Time)
	verified.LogIndex = l.add(verified.Record)
	c.Audit.Events = append(c.Audit.Events, verified)
	l.prove(t, &c)
	if r := l.verify(t, l.issue(t, c)); !r.Proven {
		t.Errorf("%+v", r.Findings)
	}
}

func TestACheckpointOfAnotherLogIsNamed(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	for name, other := range map[string]*log{"another name": newLog(t, "trakr-audit/other", 1), "another key": newLog(t, "trakr-audit/test", 2)} {
		o := other.erased(t, 1)
		x := c
		x.Audit.Checkpoint = o.Audit.Checkpoint
		if r := l.verify(t, l.signed(t, x)); !names(r, "/audit/checkpoint", certificate.Checkpoint) {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
	// The same key's checkpoint of another tree: no record stands in it.
	o := newLog(t, "trakr-audit/test", 1)
	for range 20 {
		o.add("{}")
	}
	x, y := c, c
	y.Audit.Events = slices.Clone(c.Audit.Events)
	o.prove(t, &y)
	x.Audit.Checkpoint = y.Audit.Checkpoint
	if r := l.verify(t, l.signed(t, x)); !names(r, "/audit/events/0/inclusion", certificate.Inclusion) || !names(r, "/audit/events/2/inclusion", certificate.Inclusion) {
		t.Errorf("%+v", r.Findings)
	}
}

// Any number of values changed at once is rejected, and at least one is named.
func TestAnyChangesAreFound(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	kinds := slices.Sorted(maps.Keys(changes))
	r := rand.New(rand.NewPCG(9, 8785)) // the same in each run, so that a failure can be repeated
	for n := range 150 {
		v := tree(t, file)
		for range 1 + r.IntN(6) {
			all := pointers(v, "", false)
			edit(v, all[r.IntN(len(all))], changes[kinds[r.IntN(len(kinds))]])
		}
		b := write(t, v)
		if string(b) == string(write(t, tree(t, file))) {
			continue // one undid the other
		}
		got, err := certificate.Verify(b, l.key, version)
		if err != nil && err != certificate.ErrNotCertificate || got.Proven || err == nil && len(got.Findings) == 0 {
			t.Fatalf("%d: %v %+v\n%s", n, err, got, b)
		}
	}
}

// Flipping a bit of the file itself never proves anything else than the file did.
func FuzzVerify(f *testing.F) {
	l := newLog(f, "trakr-audit/test", 1)
	c := must[certificate.Certificate](f)(certificate.Parse(l.issue(f, l.erased(f, 1))))
	want := string(must[[]byte](f)(c.JSON()))
	for _, format := range certificate.Formats() {
		f.Add(must[[]byte](f)(c.Render(format)))
	}
	f.Add(l.issue(f, l.nothing(f, 8)))
	f.Add([]byte(`{"certificate_id":1,"audit":{"events":[{"record":"{}"}]},"manifest":{"":"","/x/1":"y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := certificate.Verify(b, l.key, version)
		switch {
		case err != nil:
		case r.Proven != (r.Certificate != nil && r.Unjudged == ""), !r.Proven && r.Unjudged == "" && len(r.Findings) == 0:
			t.Fatalf("%+v", r)
		case r.Certificate != nil && r.State == certificate.Erased && string(must[[]byte](t)(r.Certificate.JSON())) != want:
			t.Fatal("another certificate is proven")
		}
	})
}
