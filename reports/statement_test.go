package reports_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/check"
	"trakr/internal/lifecycle"
	"trakr/policy"
	"trakr/reports"
)

// sentences returns the built-in statement.
func sentences(t testing.TB) *policy.SecurityStatement {
	t.Helper()
	s, err := policy.LoadStatement("", reports.Checks())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sound are the facts of a service of which every sentence is true.
func sound(p *policy.Policy) reports.Facts {
	f := facts(p)
	f.Sweeps = nil
	for i, x := range p.Sweeps {
		f.Sweeps = append(f.Sweeps, reports.SweepFacts{Kind: x.Kind, RunID: fmt.Sprintf("01a20e98-a0d9-7be0-acd3-8cea525129%02x", i), FinishedAt: ago(43 * time.Minute), Result: "clean", Succeeded: ago(43 * time.Minute), Tables: 5, Interval: time.Hour})
	}
	f.Disclosures = []reports.DisclosureFacts{{To: lifecycle.ToBitbucket, Recipient: "api.bitbucket.org", Field: "client_key", Events: 40},
		{To: lifecycle.ToBitbucket, Recipient: "api.bitbucket.org", Field: "shared_secret", Events: 40},
		{To: lifecycle.ToEndService, Recipient: "api.trakr.example.com", Field: "client_key", Events: 41}}
	f.SwitchedOff, f.Notices, f.Suspected = []reports.SwitchedOffFacts{}, &reports.NoticeFacts{Open: 1}, &reports.SuspectedFacts{}
	f.Hosts = []reports.HostFacts{{Setting: "TRAKR_BITBUCKET_API_URL", Host: "api.bitbucket.org", Declared: true}, {Setting: "TRAKR_END_SERVICE_URL", Host: "api.trakr.example.com", Declared: true}}
	f.Scopes = []reports.ScopeFacts{{Name: "account", NeededBy: "callbacks"}, {Name: "webhook", NeededBy: "GET /2.0/workspaces/{workspace}/hooks"}}
	return f
}

// states are the sentences that are not true, with their states, but for the one that
// nobody can verify.
func states(s reports.SecurityStatement) map[string]check.State {
	out := map[string]check.State{}
	for _, x := range s.Sentences {
		if x.State != check.Pass && (x.ID != "backups" || x.State != check.Unknown) {
			out[x.ID] = x.State
		}
	}
	return out
}

func sweepOf(f *reports.Facts, kind string) *reports.SweepFacts {
	i := slices.IndexFunc(f.Sweeps, func(x reports.SweepFacts) bool { return x.Kind == kind })
	return &f.Sweeps[i]
}

func found(f *reports.Facts, kind, table, column string) {
	sweepOf(f, kind).Result = "findings"
	f.OpenFindings = append(f.OpenFindings, reports.FindingFacts{ID: "01a20e98-0000-7000-8000-000000000009", Kind: kind, Table: table, Column: column, OpenedAt: *ago(time.Hour)})
}

func with(t *testing.T, replace ...string) *policy.Policy {
	t.Helper()
	text := string(policy.DefaultYAML())
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("the policy has no %q", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	p, err := policy.Load("changed", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	no      = check.Fail
	unknown = check.Unknown
)

// Reality changes, and exactly the sentences that are bound to what changed are no
// longer true; the sheet says the other thing where it has a place for it.
func TestExactlyTheBoundSentencesTurnFalse(t *testing.T) {
	type m = map[string]check.State
	off := with(t, "    source: principal.username\n", "    source: principal.username\n    off: true\n")
	for name, c := range map[string]struct {
		policy *policy.Policy
		change func(*reports.Facts)
		want   m
		sheet  string // a place of the sheet that says another thing; "" for none
	}{
		"nothing":               {nil, func(*reports.Facts) {}, m{}, ""},
		"an e-mail column":      {nil, func(f *reports.Facts) { of(f, "trakr.tenants").Undeclared = []string{"owner_email"} }, m{"kept": no, "no-contact-data": no}, "dataAccessAndStorage.typesOfDataStored"},
		"a column for values":   {nil, func(f *reports.Facts) { of(f, "trakr.tenant_fields").Undeclared = []string{"phone"} }, m{"kept": no, "no-contact-data": no}, "dataAccessAndStorage.typesOfDataStored"},
		"an undeclared table":   {nil, func(f *reports.Facts) { f.Tables = append(f.Tables, reports.TableFacts{Name: "public.copies"}) }, m{"kept": no, "no-contact-data": no}, "dataAccessAndStorage.typesOfDataStored"},
		"a value like e-mail":   {nil, func(f *reports.Facts) { found(f, "minimisation", "trakr.legal_holds", "ground") }, m{"kept": no, "no-contact-data": no}, "logDetails.logEndUserData"},
		"minimisation overdue":  {nil, func(f *reports.Facts) { sweepOf(f, "minimisation").Overdue = true }, m{"kept": unknown, "no-contact-data": unknown, "checked": no}, "logDetails.logEndUserData"},
		"a stored switched-off": {off, func(f *reports.Facts) { f.SwitchedOff = []reports.SwitchedOffFacts{{Field: "username", Rows: 6}} }, m{"kept": no}, "dataAccessAndStorage.typesOfDataStored"},
		"none of it stored":     {off, func(f *reports.Facts) { f.SwitchedOff = []reports.SwitchedOffFacts{{Field: "username"}} }, m{}, ""},
		"nobody counted it":     {off, func(f *reports.Facts) { f.SwitchedOff = nil }, m{"kept": unknown}, ""},
		"a new payload member": {nil, func(f *reports.Facts) {
			found(f, "minimisation", "trakr.audit_events", "payload key x")
			f.OpenFindings[len(f.OpenFindings)-1].Topic = reports.TopicPayloads
		}, m{}, ""},
		"dead deliveries": {nil, func(f *reports.Facts) {
			found(f, "erasures", "trakr.outbox", "dead letters")
			f.OpenFindings[len(f.OpenFindings)-1].Topic = reports.TopicDeliveries
		}, m{}, ""},
		"stored by an older version": {nil, func(f *reports.Facts) { f.UncheckedTenants = 2 }, m{"kept": unknown, "no-contact-data": unknown}, "logDetails.logEndUserData"},
		"an erasure that failed":     {nil, func(f *reports.Facts) { found(f, "erasures", "trakr.erasures", "rows that remain") }, m{"deleted": no, "checked": no}, "dataRetention.isRetentionDurationIndefinite"},
		"a notice not taken":         {nil, func(f *reports.Facts) { f.Notices.Late = 1 }, m{"deleted": no}, ""},
		"notices not counted":        {nil, func(f *reports.Facts) { f.Notices = nil }, m{"deleted": unknown}, ""},
		"the sweep turned off":       {nil, func(f *reports.Facts) { sweepOf(f, "orphans").Overdue = true }, m{"deleted": unknown, "checked": no}, ""},
		"a row that remains": {nil, func(f *reports.Facts) {
			x := sweepOf(f, "orphans")
			x.Result, x.Rows, f.OrphanChecks[2].Rows = "findings", 3, 3
		}, m{"deleted": no, "checked": no}, "dataRetention.isRetentionDurationIndefinite"},
		"a blind sweep": {nil, func(f *reports.Facts) { sweepOf(f, "orphans").Result = "blind"; f.OrphanChecks[1].Rows = 0 }, m{"deleted": unknown, "checked": unknown}, ""},
		"a late erasure": {nil, func(f *reports.Facts) {
			f.Erasures.LateLately, f.Erasures.Late, f.Erasures.LongestLag = 1, 1, 50*time.Hour
		}, m{"deleted": no}, "dataRetention.retentionDurationInDays.max"},
		"an old late erasure":  {nil, func(f *reports.Facts) { f.Erasures.Late = 1 }, m{}, ""},
		"Bitbucket not asked":  {nil, func(f *reports.Facts) { sweepOf(f, "liveness").Result = "failed" }, m{"deleted": unknown}, ""},
		"a suspected tenant":   {nil, func(f *reports.Facts) { f.Suspected.Total = 1 }, m{}, ""},
		"suspected too long":   {nil, func(f *reports.Facts) { f.Suspected = &reports.SuspectedFacts{Total: 2, Late: 1} }, m{"deleted": no}, ""},
		"nobody counted them":  {nil, func(f *reports.Facts) { f.Suspected = nil }, m{"deleted": unknown}, ""},
		"the scheduler stands": {nil, func(f *reports.Facts) { f.Jobs[0].State = check.Fail }, m{"checked": no}, ""},
		"nothing scheduled":    {nil, func(f *reports.Facts) { f.Jobs = nil }, m{"checked": unknown}, ""},
		"another region":       {nil, func(f *reports.Facts) { f.Observations[0].Conflict = true }, m{"location": no}, "dataResidency.countriesWhereEndUserDataStored"},
		"one more field sent":  {nil, func(f *reports.Facts) { f.Disclosures[2].Field = "username" }, m{"use": no}, "thirdPartyInformation.thirdPartyDetails"},
		"the secret sent":      {nil, func(f *reports.Facts) { f.Disclosures[2].Field = "shared_secret" }, m{"use": no}, "thirdPartyInformation.thirdPartyDetails"},
		"sent to a stranger":   {nil, func(f *reports.Facts) { f.Disclosures[2].Recipient = "tracker.example.net" }, m{"use": no}, "thirdPartyInformation.thirdPartyDetails"},
		"an undeclared host": {nil, func(f *reports.Facts) {
			f.Hosts[1] = reports.HostFacts{Setting: "TRAKR_WEBHOOK_URL", Host: "hooks.example.net"}
		}, m{"use": no}, "thirdPartyInformation.thirdPartyDetails"},
		"the UUID sent to a program beside us": {nil, func(f *reports.Facts) {
			f.Disclosures[2].Recipient, f.Disclosures[2].Field = "127.0.0.1:8091", "principal_uuid"
		}, m{"use": no}, "thirdPartyInformation.thirdPartyDetails"},
		"our end service beside us": {nil, func(f *reports.Facts) { f.Disclosures[2].Recipient = "127.0.0.1:8091" }, m{}, ""},
		"nothing said of hosts":     {nil, func(f *reports.Facts) { f.Hosts = nil }, m{"use": unknown}, ""},
		"a guard taken off":         {nil, func(f *reports.Facts) { f.Guards[0].State = check.Fail }, m{"access": no}, ""},
		"a changed event":           {nil, func(f *reports.Facts) { found(f, "integrity", "trakr.audit_events", "log") }, m{"access": no}, ""},
		"an undeclared scope":       {nil, func(f *reports.Facts) { f.Scopes = append(f.Scopes, reports.ScopeFacts{Name: "repository"}) }, m{"scopes": no}, "security.permissionsJustification"},
		"a scope for nothing":       {nil, func(f *reports.Facts) { f.Scopes[1].NeededBy = "" }, m{"scopes": no}, "security.permissionsJustification"},
		"an overdue request":        {nil, func(f *reports.Facts) { f.Requests[0].Overdue, f.Requests[0].Late = true, true }, m{"requests": no}, ""},
		"a late answer":             {nil, func(f *reports.Facts) { f.Requests[1].Late = true }, m{"requests": no}, ""},
		"an earlier moment":         {nil, func(f *reports.Facts) { f.Past = true }, m{"kept": unknown, "no-contact-data": unknown, "deleted": unknown, "checked": unknown, "location": unknown, "use": unknown, "access": unknown, "scopes": unknown, "requests": unknown}, ""},
		"before the log began": {nil, func(f *reports.Facts) { at := f.AsOf.Add(time.Second); f.Began = &at }, m{"kept": unknown, "no-contact-data": unknown, "deleted": unknown, "checked": unknown,
			"location": unknown, "use": unknown, "access": unknown, "scopes": unknown, "requests": unknown}, ""},
		"nothing was gathered": {nil, func(f *reports.Facts) { *f = reports.Facts{AsOf: f.AsOf} },
			m{"kept": unknown, "no-contact-data": unknown, "deleted": unknown, "checked": unknown, "location": unknown, "use": unknown, "access": unknown, "scopes": unknown, "requests": unknown}, "logDetails.logEndUserData"},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.policy
			if p == nil {
				p = load(t)
			}
			f := sound(p)
			before := sheet(t, p, f)
			c.change(&f)
			s := reports.SecurityStatementOf(p, sentences(t), f, "v0.1.0")
			if got := states(s); !maps.Equal(got, c.want) {
				t.Errorf("not true: %v, want %v", got, c.want)
				for _, x := range s.Sentences {
					for _, b := range x.Checks {
						if b.State != check.Pass {
							t.Logf("%s: %s: %s", x.ID, b.ID, b.Evidence)
						}
					}
				}
			}
			diff, err := reports.CompareSheets(before, sheet(t, p, f))
			if err != nil {
				t.Fatal(err)
			}
			at := slices.ContainsFunc(diff, func(d reports.Difference) bool { return d.Path == c.sheet })
			if at != (c.sheet != "") || (c.sheet == "" && len(diff) > 0) {
				t.Errorf("the sheet changes at %v, want %q", diff, c.sheet)
			}
		})
	}
}

func sheet(t *testing.T, p *policy.Policy, f reports.Facts) []byte {
	t.Helper()
	b, err := reports.SheetOf(p, f).Render(reports.JSON)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryCheckIsBoundToASentence(t *testing.T) {
	var bound []string
	for _, x := range sentences(t).Sentences {
		bound = append(bound, x.Checks...)
	}
	for _, c := range reports.Checks() {
		if !slices.Contains(bound, c) {
			t.Errorf("no sentence needs %s", c)
		}
	}
}

func TestTheStatementFollowsWhatIsSwitchedOff(t *testing.T) {
	p := with(t, "    source: principal.username\n", "    source: principal.username\n    off: true\n", "    source: principal.links.avatar.href\n", "    source: principal.links.avatar.href\n    off: true\n")
	s := reports.SecurityStatementOf(p, sentences(t), sound(p), "v0.1.0")
	if text := s.Sentences[0].Text; strings.Contains(text, "username") || strings.Contains(text, "avatar") {
		t.Errorf("still said to be kept: %s", text)
	}
	if !strings.HasPrefix(s.PersonalData, "Not applicable") {
		t.Errorf("the duty: %s", s.PersonalData)
	}
	if b := sheet(t, p, sound(p)); bytes.Contains(b, []byte("Avatar")) || bytes.Contains(b, []byte("username")) {
		t.Error("the sheet still lists what is switched off")
	}
	if s = reports.SecurityStatementOf(load(t), sentences(t), sound(load(t)), "v0.1.0"); !strings.HasPrefix(s.PersonalData, "Applies while") {
		t.Errorf("the duty: %s", s.PersonalData)
	}
}

// A table of the operator's own is in the sentence and in the sheet by what it holds.
func TestATableOfOnesOwnIsSaidToBeKept(t *testing.T) {
	p := with(t, "      - name: trakr.legal_holds\n", "      - name: trakr.nicknames\n        holds: \"Names.\"\n        columns: [tenant_id, nick_name, set_at]\n        time_column: set_at\n"+
		"        categories: {tenant_id: system.operations, nick_name: user.account.username, set_at: system}\n        class: tenant-fields\n        has_tenant: true\n      - name: trakr.legal_holds\n")
	if text := reports.SecurityStatementOf(p, sentences(t), sound(p), "v0.1.0").Sentences[0].Text; !strings.Contains(text, "nick name (user.account.username)") {
		t.Error(text)
	}
	if b := sheet(t, p, sound(p)); !bytes.Contains(b, []byte("nick name (user.account.username)")) {
		t.Error("the sheet does not list it")
	}
}

// What a customer is shown has states and times, and nothing that helps an attacker.
func TestThePublicStatementShowsStatesAndTimes(t *testing.T) {
	p := load(t)
	f := sound(p)
	found(&f, "minimisation", "trakr.legal_holds", "ground")
	for _, format := range reports.FormatsOf("statement") {
		b, err := reports.SecurityStatementOf(p, sentences(t), f, "v0.1.0").Public().Render(format)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"legal_holds", "finding", "v0.1.0", "sweep run", "null"} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s: shows %q", format, bad)
			}
		}
		for _, need := range []string{"false", "We store no e-mail addresses", "2026-11-24T11:17:00Z"} {
			if !bytes.Contains(b, []byte(need)) {
				t.Errorf("%s: does not show %q", format, need)
			}
		}
	}
}

func TestTheStatementsForms(t *testing.T) {
	p := load(t)
	f := sound(p)
	found(&f, "minimisation", "trakr.legal_holds", "ground")
	sweepOf(&f, "liveness").Overdue = true
	s := reports.SecurityStatementOf(p, sentences(t), f, "v0.1.0")
	s.PolicyHash, s.StatementHash = strings.Repeat("0", 64), strings.Repeat("1", 64)
	for i := range s.Sentences {
		s.Sentences[i].Evidence[0] = "policy sha256:" + s.PolicyHash
	}
	forms := map[string][]byte{}
	for _, format := range reports.FormatsOf("statement") {
		got, err := s.Render(format)
		again, err2 := s.Render(format)
		if err != nil || err2 != nil || !bytes.Equal(got, again) {
			t.Fatalf("%s: not the same bytes twice: %v %v", format, err, err2)
		}
		forms["statement.golden."+string(format)] = got
	}
	forms["marketplace.golden.json"] = sheet(t, p, sound(p))
	for name, got := range forms {
		file := filepath.Join("testdata", name)
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
	if !json.Valid(forms["statement.golden.json"]) {
		t.Error("not JSON")
	}
	h := forms["statement.golden.html"]
	for _, bad := range []string{"<script", "http://", "src=", "url(", "@import"} {
		if bytes.Contains(h, []byte(bad)) {
			t.Errorf("the page refers to something outside itself: %s", bad)
		}
	}
	for _, need := range []string{`lang="en"`, `<main`, `class="skip"`} {
		if !bytes.Contains(h, []byte(need)) {
			t.Errorf("the page lacks %s", need)
		}
	}
}

func TestAPublishedSheetIsComparedPlaceByPlace(t *testing.T) {
	p := load(t)
	ours := sheet(t, p, sound(p))
	var bare map[string]any
	if err := json.Unmarshal(ours, &bare); err != nil {
		t.Fatal(err)
	}
	inner := bare["appTrustInformation"].(map[string]any)
	inner["properties"] = map[string]any{"formStatus": "APPROVED"}
	inner["privacy"].(map[string]any)["dataProcessingAgreement"] = map[string]any{"isDPASupported": "false"}
	data := inner["dataAccessAndStorage"].(map[string]any)
	slices.Reverse(data["typesOfDataStored"].([]any))
	live, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := reports.CompareSheets(live, ours); err != nil || len(d) > 0 {
		t.Errorf("the same, as GET answers it: %v %v", d, err)
	}
	data["typesOfDataStored"] = data["typesOfDataStored"].([]any)[1:]
	delete(inner["security"].(map[string]any), "securityContact")
	live, err = json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reports.CompareSheets(live, ours)
	if err != nil || len(d) != 2 || d[0].Path != "dataAccessAndStorage.typesOfDataStored" || d[1].Path != "security.securityContact" || d[1].Published != "" {
		t.Errorf("%+v %v", d, err)
	}
	// What only one of the two says is told, whichever it is; what is left out is not what
	// is empty, and says no more than it.
	sheetWith := func(place string) []byte { return []byte(`{"dataAccessAndStorage": {}, "path": {` + place + `}}`) }
	for name, c := range map[string]struct{ published, derived, want string }{
		"the same":                        {`"days": {"min": 0, "max": 7}`, `"days": {"max": 7, "min": 0}`, ``},
		"a period that is not derived":    {`"days": {"min": 0, "max": 7}`, ``, `path.days={"max":7,"min":0}|`},
		"a period that is not published":  {``, `"days": {"min": 0, "max": 7}`, `path.days=|{"max":7,"min":0}`},
		"parties that are not derived":    {`"parties": [{"name": "A"}]`, ``, `path.parties=[{"name":"A"}]|`},
		"a text that is not derived":      {`"text": "x"`, `"other": ""`, `path.text="x"|`},
		"an empty list and none":          {`"parties": []`, ``, ``},
		"an empty text and none":          {``, `"text": ""`, ``},
		"a box that is not ticked":        {``, `"box": false`, ``},
		"a box that only they ticked":     {`"box": true`, ``, `path.box=true|`},
		"an answer that is not given":     {``, `"answer": "FALSE"`, `path.answer=|"FALSE"`},
		"an answer in another case":       {`"answer": "TRUE"`, `"answer": true`, ``},
		"an empty list for a full one":    {`"parties": []`, `"parties": ["A"]`, `path.parties=[]|["A"]`},
		"no for an empty list":            {`"parties": false`, `"parties": []`, `path.parties=false|[]`},
		"the order of a list":             {`"list": ["A", {"n": "B", "x": null}]`, `"list": [{"n": "B"}, "A"]`, ``},
		"an entry twice":                  {`"list": ["A", "A"]`, `"list": ["A"]`, `path.list=["A","A"]|["A"]`},
		"two entries in the place of one": {`"list": ["A\nB"]`, `"list": ["A", "B"]`, `path.list=["A\nB"]|["A","B"]`},
		"an entry that says more":         {`"list": [{"n": "A", "more": "x"}]`, `"list": [{"n": "A"}]`, `path.list=[{"more":"x","n":"A"}]|[{"n":"A"}]`},
		"a list in the place of a group":  {`"days": [7]`, `"days": {"max": 7}`, `path.days=[7]|{"max":7}`},
	} {
		d, err := reports.CompareSheets(sheetWith(c.published), sheetWith(c.derived))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range d {
			got = append(got, x.Path+"="+x.Published+"|"+x.Derived)
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for _, bad := range []string{"", "[]", "{}", "<html>"} {
		if _, err := reports.CompareSheets([]byte(bad), ours); err == nil {
			t.Errorf("%q was taken for a sheet", bad)
		}
	}
}
