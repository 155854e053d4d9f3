package reports_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/check"
	"trakr/policy"
	"trakr/reports"
)

var update = flag.Bool("update", false, "write the golden files")

var asOf = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time { t := asOf.Add(-d); return &t }

// facts are those of a service in good order.
func facts(p *policy.Policy) reports.Facts {
	f := reports.Facts{AsOf: asOf, Began: ago(400 * 24 * time.Hour), LiveTenants: 41, ErasedTenants: 7,
		Erasures: reports.ErasureFacts{Total: 7, Oldest: ago(90 * 24 * time.Hour), Newest: ago(26 * time.Hour), LongestLag: 312 * time.Millisecond},
		Sweeps: []reports.SweepFacts{{Kind: "orphans", RunID: "01a20e98-a0d9-7be0-acd3-8cea525129a5", FinishedAt: ago(43 * time.Minute), Result: "clean", Succeeded: ago(43 * time.Minute), Tables: 5, Interval: time.Hour},
			{Kind: "retention", RunID: "01a20e98-b0d9-7be0-acd3-8cea525129a5", FinishedAt: ago(10 * time.Hour), Result: "clean", Succeeded: ago(10 * time.Hour), Tables: 27, Interval: 24 * time.Hour}},
		Observations: []reports.Observation{{Store: "database", What: "connection", Value: "TCP to 10.10.0.5", How: "asked of the database (inet_server_addr)"}},
		Instances:    1,
		Databases:    []reports.HostFacts{{Setting: "TRAKR_DATABASE_URL", Host: "private-db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com", Declared: true, Database: true}},
		Controls: []check.Result{{ID: "control.proof-of-possession", Title: "A first install is accepted only after Bitbucket confirms the offered secret",
			State: check.Pass, Evidence: "TRAKR_DEV_SKIP_PROOF must be off"}},
		Guards: []check.Result{{ID: "guard.triggers", Title: "the audit only grows, and an erasure only advances", State: check.Pass}},
	}
	for _, job := range []string{"sweep orphans", "sweep erasures", "canary", "deletion requests"} {
		f.Jobs = append(f.Jobs, reports.JobFacts{Name: job, Result: check.Result{ID: "job." + job, Title: "The scheduled job “" + job + "” runs in time",
			State: check.Pass, Evidence: "succeeded within twice its interval"}})
	}
	digest := strings.Repeat("ab", 32)
	f.OrphanChecks = []reports.ColumnFacts{{Table: "trakr.erasures", Column: "tenant_id", Disposition: "retained", Ground: "Accountability.", Rows: 7, Predicate: digest, CheckedAt: *ago(43 * time.Minute)},
		{Table: "trakr.sweep_canaries", Column: "tenant_id", Disposition: "retained", Ground: "The canary.", Rows: 1, Predicate: digest, CheckedAt: *ago(43 * time.Minute)},
		{Table: "trakr.tenant_fields", Column: "tenant_id", Disposition: "checked", Predicate: digest, CheckedAt: *ago(43 * time.Minute)}}
	f.Requests = []reports.RequestFacts{
		{ID: "01a20e98-0000-7000-8000-000000000102", Ticket: "SUP-9", TenantID: "5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11", State: "awaiting_approval", Open: true, MovedAt: *ago(time.Hour), Submitted: *ago(2 * time.Hour), Received: *ago(time.Hour), Due: asOf.Add(718 * time.Hour)},
		{ID: "01a20e98-0000-7000-8000-000000000101", Ticket: "SUP-7", TenantID: "5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a10", State: "completed", MovedAt: *ago(26 * time.Hour), Submitted: *ago(30 * time.Hour), Received: *ago(28 * time.Hour), Due: asOf.Add(690 * time.Hour),
			DeletedAt: ago(26 * time.Hour), BackupsClear: func() *time.Time { t := asOf.Add(142 * time.Hour); return &t }(), CertificateID: "01a20e98-0000-7000-8000-000000000201"},
		{ID: "01a20e98-0000-7000-8000-000000000100", Ticket: "SUP-5", State: "completed_nothing_held", MovedAt: *ago(50 * time.Hour), Submitted: *ago(51 * time.Hour), Received: *ago(50 * time.Hour), Due: asOf.Add(669 * time.Hour), CertificateID: "01a20e98-0000-7000-8000-000000000200"}}
	f.Holds = []reports.HoldFacts{{ID: "01a20e98-0000-7000-8000-000000000301", TenantID: "5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a12", Ground: "legal_claim", Ticket: "LEG-7", PlacedAt: *ago(240 * time.Hour), Until: asOf.Add(2400 * time.Hour)}}
	for i, t := range p.Stores[0].Tables {
		x := reports.TableFacts{Name: t.Name, Declared: true, Rows: int64(10 + i*10), Oldest: ago(40 * time.Minute), Newest: ago(time.Minute)}
		if t.TimeCol == "" {
			x.Oldest, x.Newest, x.Undated = nil, nil, x.Rows
		}
		if x.Due, x.Unaged = x.Oldest, x.Undated; t.AgeCol != "" {
			x.Due, x.Unaged = nil, 0
		}
		f.Tables = append(f.Tables, x)
	}
	return f
}

// of returns the facts of one table, to be changed.
func of(f *reports.Facts, table string) *reports.TableFacts {
	i := slices.IndexFunc(f.Tables, func(t reports.TableFacts) bool { return t.Name == table })
	return &f.Tables[i]
}

func number(n int64) *int64 { return &n }

// builtIn is judged once; no test changes it.
var builtIn = sync.OnceValues(policy.Default)

func load(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := builtIn()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func build(t testing.TB, kind string, f reports.Facts) reports.Document {
	t.Helper()
	d, err := reports.Build(kind, load(t), nil, f, "v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	return d.(reports.Document)
}

// cases change the facts of a service in good order, and say what each report
// must then conclude.
var cases = map[string]struct {
	change              func(*reports.Facts)
	location, retention check.State
}{
	"clean": {func(*reports.Facts) {}, check.Pass, check.Pass},
	"findings": {func(f *reports.Facts) {
		f.Sweeps[0].Result, f.Sweeps[0].Rows = "findings", 3
		f.OpenFindings = []reports.FindingFacts{{ID: "01a20e98-0000-7000-8000-000000000001", Kind: "orphans", Table: "public.cache", Column: "tenant_id", Count: number(3), OpenedAt: *ago(43 * time.Minute)}}
	}, check.Fail, check.Fail},
	"never swept": {func(f *reports.Facts) {
		f.Sweeps[0] = reports.SweepFacts{Kind: "orphans", Interval: time.Hour, Overdue: true}
	}, check.Unknown, check.Unknown},
	"overdue":       {func(f *reports.Facts) { f.Sweeps[0].Overdue = true; f.Sweeps[0].FinishedAt = ago(3 * time.Hour) }, check.Unknown, check.Unknown},
	"blind":         {func(f *reports.Facts) { f.Sweeps[0].Result = "blind" }, check.Unknown, check.Unknown},
	"not scheduled": {func(f *reports.Facts) { f.Sweeps = nil }, check.Unknown, check.Unknown},
	"undeclared table": {func(f *reports.Facts) {
		f.Tables = append(f.Tables, reports.TableFacts{Name: "public.cache", Rows: 12})
	}, check.Fail, check.Fail},
	"nothing seen":       {func(f *reports.Facts) { f.Tables = nil }, check.Unknown, check.Unknown},
	"location conflict":  {func(f *reports.Facts) { f.Observations[0].Conflict = true; f.Observations[0].Value = "unix socket" }, check.Fail, check.Pass},
	"proof switched off": {func(f *reports.Facts) { f.Controls[0].State = check.Fail }, check.Fail, check.Pass},
	"control unknown":    {func(f *reports.Facts) { f.Controls[0].State = check.Unknown }, check.Unknown, check.Pass},
	"late erasure":       {func(f *reports.Facts) { f.Erasures.Late = 1; f.Erasures.LongestLag = 2 * time.Hour }, check.Pass, check.Fail},
	"missing tombstone":  {func(f *reports.Facts) { f.Erasures.Total = 6 }, check.Pass, check.Fail},
	"undeclared column":  {func(f *reports.Facts) { of(f, "trakr.tenants").Undeclared = []string{"owner_email"} }, check.Fail, check.Pass},
	"undeclared and not to be judged": {func(f *reports.Facts) {
		f.Sweeps[0].Result, f.Sweeps[0].Unchecked = "findings", 1
		f.OpenFindings = []reports.FindingFacts{{ID: "01a20e98-0000-7000-8000-000000000002", Acknowledged: true, Kind: "orphans", Table: "trakr.tenants", Column: "owner_email",
			Ground: "the policy does not declare this column", Count: number(2), OpenedAt: *ago(43 * time.Minute)}}
		of(f, "trakr.tenants").Undeclared = []string{"owner_email"}
	}, check.Fail, check.Unknown},
	"declared table missing":         {func(f *reports.Facts) { f.Tables = f.Tables[1:] }, check.Unknown, check.Pass},
	"newest pass failed":             {func(f *reports.Facts) { f.Sweeps[0].Result, f.Sweeps[0].Tables = "failed", 0 }, check.Unknown, check.Unknown},
	"guard off":                      {func(f *reports.Facts) { f.Guards[0].State, f.Guards[0].Evidence = check.Fail, "missing: a trigger" }, check.Fail, check.Pass},
	"not counted":                    {func(f *reports.Facts) { of(f, "trakr.api_tokens").Uncounted = "SQLSTATE 55000" }, check.Pass, check.Unknown},
	"replay guard at its period":     {func(f *reports.Facts) { of(f, "trakr.replay_guard").Due = ago(2 * time.Hour) }, check.Pass, check.Pass},
	"replay guard beyond its period": {func(f *reports.Facts) { of(f, "trakr.replay_guard").Due = ago(2*time.Hour + time.Minute) }, check.Pass, check.Fail},
	"age not known": {func(f *reports.Facts) {
		f.Began, of(f, "trakr.audit_events").Due, of(f, "trakr.audit_events").Unaged = nil, nil, 1
	}, check.Pass, check.Unknown},
	"age not known, in an old log": {func(f *reports.Facts) {
		f.Began, of(f, "trakr.audit_events").Due, of(f, "trakr.audit_events").Unaged = ago(3651*24*time.Hour), nil, 1
	}, check.Pass, check.Unknown},
	"a row without a time":            {func(f *reports.Facts) { of(f, "trakr.replay_guard").Unaged = 1 }, check.Pass, check.Unknown},
	"audit beyond period":             {func(f *reports.Facts) { of(f, "trakr.audit_events").Due = ago(3651 * 24 * time.Hour) }, check.Pass, check.Fail},
	"evidence due at the next pass":   {func(f *reports.Facts) { of(f, "trakr.sweep_runs").Due = ago(3651 * 24 * time.Hour) }, check.Pass, check.Pass},
	"evidence that nobody removed":    {func(f *reports.Facts) { of(f, "trakr.sweep_runs").Due = ago(3653 * 24 * time.Hour) }, check.Pass, check.Fail},
	"a tombstone that nobody removed": {func(f *reports.Facts) { of(f, "trakr.tenants").Due = ago(3653 * 24 * time.Hour) }, check.Pass, check.Fail},
	"retention never ran": {func(f *reports.Facts) {
		f.Sweeps[1] = reports.SweepFacts{Kind: "retention", Interval: 24 * time.Hour, Overdue: true}
	}, check.Pass, check.Unknown},
	"audit at its period": {func(f *reports.Facts) { of(f, "trakr.audit_events").Due = ago(3650 * 24 * time.Hour) }, check.Pass, check.Pass},
}

func TestEachVerdictFollowsItsFact(t *testing.T) {
	for name, c := range cases {
		f := facts(load(t))
		c.change(&f)
		for kind, want := range map[string]check.State{"location": c.location, "retention": c.retention} {
			d := build(t, kind, f)
			if d.Verdict != want || (want == check.Pass) != (len(d.Reasons) == 0) {
				t.Errorf("%s, %s: %q because %q, want %q", name, kind, d.Verdict, d.Reasons, want)
			}
			if b, err := d.Render(reports.HTML); err != nil || (want != check.Pass && bytes.Contains(b, []byte("Every statement below is true"))) {
				t.Errorf("%s, %s: the page claims more than the report: %v", name, kind, err)
			}
		}
	}
}

// lifecycleCases are of the reports about requests and about the sweep of orphans.
var lifecycleCases = map[string]struct {
	change                func(*reports.Facts)
	requests, attestation check.State
}{
	"clean":                 {func(*reports.Facts) {}, check.Pass, check.Pass},
	"no request yet":        {func(f *reports.Facts) { f.Requests, f.Holds = nil, nil }, check.Pass, check.Pass},
	"an overdue request":    {func(f *reports.Facts) { f.Requests[0].Overdue, f.Requests[0].Due = true, *ago(time.Minute) }, check.Fail, check.Pass},
	"no certificate":        {func(f *reports.Facts) { f.Requests[1].CertificateID = "" }, check.Fail, check.Pass},
	"more than is listed":   {func(f *reports.Facts) { f.RequestsLeftOut = true }, check.Unknown, check.Pass},
	"blind":                 {func(f *reports.Facts) { blind(f, "the canary was not seen: none is there") }, check.Pass, check.Unknown},
	"no canary in the pass": {func(f *reports.Facts) { f.OrphanChecks = f.OrphanChecks[2:] }, check.Pass, check.Unknown},
	"an empty canary":       {func(f *reports.Facts) { f.OrphanChecks[1].Rows = 0 }, check.Pass, check.Unknown},
	"rows remain": {func(f *reports.Facts) {
		f.Sweeps[0].Result, f.Sweeps[0].Rows, f.OrphanChecks[2].Rows = "findings", 3, 3
	}, check.Pass, check.Fail},
	"overdue":            {func(f *reports.Facts) { f.Sweeps[0].Overdue = true }, check.Pass, check.Unknown},
	"newest pass failed": {func(f *reports.Facts) { f.Sweeps[0].Result, f.OrphanChecks = "failed", nil }, check.Pass, check.Unknown},
	"never swept": {func(f *reports.Facts) {
		f.Sweeps[0], f.OrphanChecks = reports.SweepFacts{Kind: "orphans", Overdue: true}, nil
	}, check.Pass, check.Unknown},
	"the canary's job stopped": {func(f *reports.Facts) { f.Jobs[2].State = check.Fail }, check.Pass, check.Unknown},
	"the scheduler stopped": {func(f *reports.Facts) {
		for i := range f.Jobs {
			f.Jobs[i].State = check.Fail
		}
	}, check.Unknown, check.Unknown},
	"no scheduler": {func(f *reports.Facts) { f.Jobs = nil }, check.Unknown, check.Unknown},
}

func blind(f *reports.Facts, why string) {
	f.Sweeps[0].Result, f.Sweeps[0].Unchecked = "blind", 1
	f.OrphanChecks[1].Disposition, f.OrphanChecks[1].Ground, f.OrphanChecks[1].Rows = "unjudged", why, 0
}

func TestTheRegisterAndTheAttestationFollowTheirFacts(t *testing.T) {
	for name, c := range lifecycleCases {
		f := facts(load(t))
		c.change(&f)
		for kind, want := range map[string]check.State{"requests": c.requests, "attestation": c.attestation} {
			if d := build(t, kind, f); d.Verdict != want || (want == check.Pass) != (len(d.Reasons) == 0) {
				t.Errorf("%s, %s: %q because %q, want %q", name, kind, d.Verdict, d.Reasons, want)
			}
		}
	}
	f := facts(load(t))
	blind(&f, "none is there")
	if d := build(t, "attestation", f); !strings.Contains(strings.Join(d.Reasons, " "), "blind: none is there") {
		t.Errorf("the word is not said: %q", d.Reasons)
	}
}

// whole is the scenario of each kind that is kept in every format; of the others JSON is.
var whole = map[string]string{
	"location": "undeclared table", "retention": "findings", "requests": "an overdue request", "attestation": "blind",
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"clean", "an overdue request", "blind", "the scheduler stopped"} {
		f := facts(load(t))
		lifecycleCases[name].change(&f)
		golden(t, name, f, "requests", "attestation")
	}
	for _, name := range []string{"clean", "findings", "never swept", "undeclared table", "location conflict", "undeclared and not to be judged", "newest pass failed"} {
		f := facts(load(t))
		cases[name].change(&f)
		golden(t, name, f, "location", "retention")
	}
}

// golden compares reports with their files, in JSON or in every format.
func golden(t *testing.T, name string, f reports.Facts, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		d := build(t, kind, f)
		d.PolicyHash = strings.Repeat("0", 64) // the policy's wording is its own test
		formats := []reports.Format{reports.JSON}
		if whole[kind] == name {
			formats = reports.FormatsOf(kind)
		}
		for _, format := range formats {
			got, err := d.Render(format)
			if err != nil {
				t.Fatal(err)
			}
			again, err := d.Render(format)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("%s %s: the same facts give other bytes", kind, format)
			}
			file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+"."+kind+".golden."+string(format))
			if *update {
				if err := os.WriteFile(file, got, 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (go test ./reports -update, then look at the difference):\n%s", file, d)
			}
		}
	}
}

func TestFormsAreWellFormed(t *testing.T) {
	for _, kind := range []string{"location", "retention", "requests", "attestation"} {
		d := build(t, kind, facts(load(t)))
		j, err := d.Render(reports.JSON)
		if err != nil || !json.Valid(j) || !bytes.HasSuffix(j, []byte("}\n")) {
			t.Errorf("%s: JSON: %v", kind, err)
		}
		c, err := d.Render(reports.CSV)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader(c)).ReadAll()
		if err != nil || len(rows) < 50 || len(rows[0]) != 4 {
			t.Errorf("%s: CSV: %d rows, %v", kind, len(rows), err)
		}
		h, err := d.Render(reports.HTML)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"<script", "http://", "https://", "src=", "url(", "@import"} {
			if bytes.Contains(h, []byte(bad)) {
				t.Errorf("%s: the page refers to something outside itself: %s", kind, bad)
			}
		}
		for _, need := range []string{`lang="en"`, `<caption>`, `scope="col"`, `<main`, `class="skip"`} {
			if !bytes.Contains(h, []byte(need)) {
				t.Errorf("%s: the page lacks %s", kind, need)
			}
		}
	}
}

func TestHostileTextIsHarmless(t *testing.T) {
	f := facts(load(t))
	f.Tables = append(f.Tables, reports.TableFacts{Name: `public.<script>alert(1)</script>`}, reports.TableFacts{Name: `=cmd|'/c calc'!A0`})
	d := build(t, "location", f)
	h, err := d.Render(reports.HTML)
	if err != nil || bytes.Contains(h, []byte("<script>")) {
		t.Errorf("a table's name became markup: %v", err)
	}
	c, err := d.Render(reports.CSV)
	if err != nil || !bytes.Contains(c, []byte(`,'=cmd`)) {
		t.Errorf("a table's name became a formula: %v", err)
	}
}

// What --as-of takes is what the report prints, to the microsecond.
func TestTheMomentIsPrintedExactly(t *testing.T) {
	f := facts(load(t))
	f.AsOf = asOf.Add(123456 * time.Microsecond)
	d := build(t, "location", f)
	if got, err := time.Parse(time.RFC3339, d.AsOf); err != nil || !got.Equal(f.AsOf) {
		t.Errorf("%q: %v", d.AsOf, err)
	}
}

func TestARetentionReportSpeaksOnlyOfUninstallsThatReachedIt(t *testing.T) {
	d := build(t, "retention", facts(load(t)))
	for _, s := range d.Statements {
		if strings.Contains(s.Title, "uninstall") && !strings.Contains(s.Title, "accepted uninstall") {
			t.Errorf("claims more than it knows: %s", s.Title)
		}
	}
}

func TestUnknownKindsAndFormatsAreRefused(t *testing.T) {
	if _, err := reports.Build("ropa", load(t), nil, reports.Facts{}, ""); err == nil {
		t.Error("an unknown kind was built")
	}
	if _, err := reports.ParseFormat("pdf"); err == nil {
		t.Error("an unknown format was taken")
	}
}
