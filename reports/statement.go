package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Truth is what the security statement says of one of its sentences.
type Truth string

// The states of a sentence. One whose check did not run lately, or could not see, is
// not verified: never true.
const (
	True        Truth = "true"
	False       Truth = "false"
	NotVerified Truth = "not_verified"
)

// SecurityStatement is the vendor's statement with what is known of each sentence.
type SecurityStatement struct {
	SchemaVersion int        `json:"schema_version"`
	Kind          string     `json:"kind"`
	Title         string     `json:"title"`
	AsOf          string     `json:"as_of"`
	Issuer        string     `json:"issuer"`
	Contact       string     `json:"contact"`
	App           string     `json:"app"`
	ToolVersion   string     `json:"tool_version"`
	PolicyHash    string     `json:"policy_hash"`
	StatementHash string     `json:"statement_hash"`
	Sentences     []Sentence `json:"sentences"`
	PersonalData  string     `json:"personal_data_reporting"` // Atlassian's duty: whether it applies and how it is met
}

// Sentence is one sentence and how it is known to be true, or not.
type Sentence struct {
	ID         string   `json:"id"`
	Text       string   `json:"text"`
	State      Truth    `json:"state"`
	VerifiedAt string   `json:"verified_at"` // of the check that is longest ago; "" when one never ran
	Checks     []Bound  `json:"checks"`
	Evidence   []string `json:"evidence"` // runs, findings, hashes: what a reviewer can look up
}

// Bound is one check of a sentence.
type Bound struct {
	ID         string `json:"id"`
	Title      string `json:"title"`
	State      Truth  `json:"state"`
	Why        string `json:"why"`
	VerifiedAt string `json:"verified_at"`

	evidence []string
}

// check is one thing that can be true or false.
type check struct {
	id, title string
	judge     func(p *policy.Policy, f Facts) Bound
}

// checks are all there are, in the order of their listing. A sentence is bound to them
// by id in policy/statement.yaml.
var checks = []check{
	{"fields", "The table of values has the declared fields, and no value of one that is switched off", fieldsKept},
	{"catalog", "Every table and column in the database is declared", func(p *policy.Policy, f Facts) Bound { return f.now(declaredTables(p, f)) }},
	{"no-contact-field", "No declared field is of a forbidden category", noContactField},
	{"minimisation", "No value in the database looks like an e-mail address or a phone number", bySweep("minimisation")},
	{"erasures", "Every erasure was done within the deadline", erasuresInTime},
	{"orphans", "The newest sweep found no row of a tenant that is gone, and saw its canary", orphansGone},
	{"missed-uninstalls", "Bitbucket is asked which installations are gone, and knows all that are kept", uninstallsNoticed},
	{"sweeps-run", "Every scheduled check runs in time", everySweepRuns},
	{"one-place", "The stores that may hold values are declared in one place", func(p *policy.Policy, f Facts) Bound { return f.now(noUndeclaredPlace(p)) }},
	{"observed-place", "Nothing observed contradicts the declared place", func(_ *policy.Policy, f Facts) Bound { return f.now(observedAgrees(f)) }},
	{"egress", "Of the guarded values the policy lets only the client key and the UUID leave", egressDeclared},
	{"disclosures", "What the log shows as disclosed is what the policy releases", disclosuresAllowed},
	{"hosts", "Every host the service is told to talk to is declared", hostsDeclared},
	{"guards", "The database's own guards are in place", guardsInPlace},
	{"integrity", "The log was verified, and nothing was changed around the service", bySweep("integrity")},
	{"descriptor", "The descriptor asks for the declared scopes", descriptorScopes},
	{"scopes-needed", "Each scope has a call that needs it", scopesNeeded},
	{"requests", "No deletion request is overdue, and none was completed late", requestsKept},
}

// Checks lists the ids of the checks a sentence can be bound to.
func Checks() []string {
	out := make([]string, len(checks))
	for i, c := range checks {
		out[i] = c.id
	}
	return out
}

// SecurityStatementOf judges each sentence by its checks. The same policy, statement and facts
// give the same bytes.
func SecurityStatementOf(p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) SecurityStatement {
	_, duty := p.PersonalDataDuty()
	out := SecurityStatement{SchemaVersion: 1, Kind: "statement", Title: s.Title, AsOf: f.AsOf.UTC().Format(time.RFC3339Nano), Issuer: p.Vendor.Name, Contact: p.Vendor.Contact,
		App: p.App.Name + " (" + p.App.Key + ")", ToolVersion: version, PolicyHash: p.Hash(), StatementHash: s.Hash(), PersonalData: duty}
	for _, x := range s.Sentences {
		y := Sentence{ID: x.ID, Text: p.Say(x.Text), State: True, Evidence: []string{"policy sha256:" + p.Hash()}}
		for i, id := range x.Checks {
			b := judged(id, p, f)
			y.Checks = append(y.Checks, b)
			switch {
			case b.State == False:
				y.State = False
			case b.State == NotVerified && y.State == True:
				y.State = NotVerified
			}
			if i == 0 || b.VerifiedAt < y.VerifiedAt {
				y.VerifiedAt = b.VerifiedAt
			}
			for _, e := range b.evidence {
				if !slices.Contains(y.Evidence, e) {
					y.Evidence = append(y.Evidence, e)
				}
			}
		}
		out.Sentences = append(out.Sentences, y)
	}
	return out
}

func judged(id string, p *policy.Policy, f Facts) Bound {
	for _, c := range checks {
		if c.id == id {
			b := c.judge(p, f)
			b.ID, b.Title = c.id, c.title
			return b
		}
	}
	// The loader knows the list of checks; a sentence never gets here with another.
	return Bound{ID: id, State: NotVerified, Why: "there is no such check."}
}

// now turns what a report states into a check made at the report's moment.
func (f Facts) now(s Statement) Bound {
	state := map[State]Truth{Holds: True, Fails: False, CannotTell: NotVerified}[s.State]
	return Bound{State: state, Why: s.Why, VerifiedAt: stamp(&f.AsOf)}
}

func (f Facts) verdict(state Truth, format string, args ...any) Bound {
	return Bound{State: state, Why: fmt.Sprintf(format, args...), VerifiedAt: stamp(&f.AsOf)}
}

// newest is the newest pass of a kind, and why it tells nothing; "" when it does.
func (f Facts) newest(kind string) (x SweepFacts, why string) {
	i := slices.IndexFunc(f.Sweeps, func(x SweepFacts) bool { return x.Kind == kind })
	if i < 0 {
		return x, "the sweep " + kind + " is not scheduled."
	}
	switch x = f.Sweeps[i]; {
	case x.RunID == "":
		why = "the sweep " + kind + " never finished."
	case x.Result == "failed":
		why = "the newest pass of the sweep " + kind + " failed."
	case x.Overdue:
		why = "the newest pass of the sweep " + kind + " is older than twice its interval."
	case x.Result != "clean" && x.Result != "findings":
		why = "the newest pass of the sweep " + kind + " could not see everything."
	}
	return x, why
}

// bySweep is true when the newest pass of a kind is clean and not old, and nothing it
// found is open.
func bySweep(kind string) func(*policy.Policy, Facts) Bound {
	return func(_ *policy.Policy, f Facts) Bound {
		x, why := f.newest(kind)
		b := Bound{State: NotVerified, Why: why}
		if x.RunID == "" {
			return b
		}
		b.VerifiedAt, b.evidence = stamp(x.FinishedAt), []string{"sweep run " + x.RunID}
		switch {
		case why != "":
			return b
		case x.Result == "clean":
			b.State, b.Why = True, "the newest pass of the sweep "+kind+" found nothing."
		default:
			b.State, b.Why = False, "the newest pass of the sweep "+kind+" found something."
		}
		if open := f.findings(kind); len(open) > 0 {
			b.State, b.Why = False, plural(int64(len(open)), "finding", "findings")+" of the sweep "+kind+" open: "+subjects(open)+"."
			b.evidence = append(b.evidence, ids(open)...)
		}
		return b
	}
}

// uninstallsNoticed is not true while Bitbucket does not know an installation any more:
// it may be an outage, and it may be an uninstall that never reached us.
func uninstallsNoticed(p *policy.Policy, f Facts) Bound {
	b := bySweep("liveness")(p, f)
	if x, _ := f.newest("liveness"); b.State == True && x.Suspected > 0 {
		b.State, b.Why = NotVerified, "Bitbucket does not know "+plural(x.Suspected, "installation", "installations")+" any more; erased when it says so for days."
	}
	return b
}

func (f Facts) findings(kind string) (out []FindingFacts) {
	for _, x := range f.OpenFindings {
		if x.Kind == kind {
			out = append(out, x)
		}
	}
	return out
}

func subjects(list []FindingFacts) string {
	var out []string
	for _, x := range list {
		out = append(out, strings.TrimSuffix(x.Table+"."+x.Column, "."))
	}
	return strings.Join(out, ", ")
}

func ids(list []FindingFacts) (out []string) {
	for _, x := range list {
		out = append(out, "finding "+x.ID)
	}
	return out
}

func fieldsKept(p *policy.Policy, f Facts) Bound {
	const table = "trakr.tenant_fields"
	i := slices.IndexFunc(f.Tables, func(t TableFacts) bool { return t.Name == table })
	if i < 0 {
		return f.verdict(NotVerified, "the table of values could not be seen.")
	}
	if u := f.Tables[i].Undeclared; len(u) > 0 {
		return f.verdict(False, "the table of values has columns that nobody declared: %s.", strings.Join(u, ", "))
	}
	for _, x := range f.OpenFindings {
		if r, ok := p.Field(lifecycle.Field(x.Column)); x.Table == table && ok && r.Off {
			b := f.verdict(False, "the field %s is switched off, and values of it are stored.", x.Column)
			b.evidence = []string{"finding " + x.ID}
			return b
		}
	}
	b := f.verdict(True, "the table of values has the declared columns and no other.")
	if slices.ContainsFunc(p.Fields, func(r policy.FieldRule) bool { return r.Off }) {
		// Whether values of it are left is what that sweep counts.
		x, why := f.newest("drift")
		if b.VerifiedAt = ""; x.RunID != "" {
			b.VerifiedAt, b.evidence = stamp(x.FinishedAt), []string{"sweep run " + x.RunID}
		}
		if why != "" {
			b.State, b.Why = NotVerified, "a field is switched off, and whether values of it are stored is not known: "+why
		}
	}
	return b
}

func noContactField(p *policy.Policy, f Facts) Bound {
	for _, x := range p.Fields {
		for _, c := range append([]string{"user.contact"}, p.ForbiddenCategories...) {
			if !x.Off && (x.Category == c || strings.HasPrefix(x.Category, c+".")) {
				return f.verdict(False, "the field %s is of the category %s.", x.Name, x.Category)
			}
		}
	}
	return f.verdict(True, "of %d declared fields none is.", len(p.Fields))
}

func erasuresInTime(p *policy.Policy, f Facts) Bound {
	e := f.Erasures
	if e.LateLately > 0 {
		return f.verdict(False, "%s of the last %d days took longer than %s, or are not done and older than that.", plural(e.LateLately, "erasure", "erasures"), int(Lately/(24*time.Hour)), p.DeletionDeadline.Human())
	}
	return f.verdict(True, "%s on record, none of the last %d days late; a tenant under a legal hold is not counted.", plural(e.Total, "erasure", "erasures"), int(Lately/(24*time.Hour)))
}

func orphansGone(_ *policy.Policy, f Facts) Bound {
	b := f.now(nothingRemains(f))
	for _, x := range f.Sweeps {
		if x.Kind == "orphans" && x.RunID != "" {
			b.VerifiedAt, b.evidence = stamp(x.FinishedAt), []string{"sweep run " + x.RunID}
		} else if x.Kind == "orphans" {
			b.VerifiedAt = ""
		}
	}
	if canary := canarySeen(f); b.State == True && canary.State != Holds {
		b.State, b.Why = NotVerified, canary.Why
	}
	return b
}

// everySweepRuns is false, not merely unknown, when a check stands still: that it runs
// is what the sentence says.
func everySweepRuns(_ *policy.Policy, f Facts) Bound {
	var late []string
	for _, x := range f.Sweeps {
		if x.Overdue {
			late = append(late, "sweep "+x.Kind)
		}
	}
	jobs := 0
	for _, c := range f.Controls {
		job, ok := strings.CutPrefix(c.ID, JobControl)
		if !ok {
			continue
		}
		if jobs++; c.State == "fail" && !slices.Contains(late, job) {
			late = append(late, job)
		} else if c.State != "pass" && c.State != "fail" {
			return f.verdict(NotVerified, "no running service has scheduled %s.", job)
		}
	}
	switch {
	case late != nil:
		return f.verdict(False, "no success within twice the interval: %s.", strings.Join(late, ", "))
	case jobs == 0 || len(f.Sweeps) == 0:
		return f.verdict(NotVerified, "no running service has scheduled a check.")
	}
	return f.verdict(True, "%s, each within twice its interval.", plural(int64(jobs), "job", "jobs"))
}

// spoken are the fields that the statement admits to send anywhere.
var spoken = map[policy.Destination][]lifecycle.Field{
	policy.ToEndService: {lifecycle.ClientKey},
	policy.ToBitbucket:  {lifecycle.ClientKey, lifecycle.PrincipalUUID},
}

func egressDeclared(p *policy.Policy, f Facts) Bound {
	for _, x := range p.Fields {
		for _, to := range x.Egress {
			if !slices.Contains(spoken[to], x.Name) {
				return f.verdict(False, "the policy lets %s go to %s.", x.Name, to)
			}
		}
	}
	return f.verdict(True, "what the policy releases is named in the sentence.")
}

func disclosuresAllowed(p *policy.Policy, f Facts) Bound {
	if f.Disclosures == nil {
		return f.verdict(NotVerified, "the log could not be asked.")
	}
	var events int64
	for _, d := range f.Disclosures {
		events += d.Events
		to, ok := recipient(p, d.Recipient)
		if !ok {
			return f.verdict(False, "%s to %s, which the policy does not declare.", plural(d.Events, "disclosure", "disclosures"), d.Recipient)
		}
		// The secret itself never leaves: its use is recorded where it signs.
		signs := to == policy.ToBitbucket && d.Field == string(lifecycle.SharedSecret)
		if !signs && !p.Releases(lifecycle.Field(d.Field), to) {
			return f.verdict(False, "%s of %s to %s, which the policy does not release there.", plural(d.Events, "disclosure", "disclosures"), d.Field, d.Recipient)
		}
	}
	return f.verdict(True, "%s of a value in the last %d days, each as released.", plural(events, "disclosure", "disclosures"), int(Lately/(24*time.Hour)))
}

// recipient is the destination that a recipient in the log is. This machine stands for
// Bitbucket where a simulator answers, and for the end service.
func recipient(p *policy.Policy, name string) (policy.Destination, bool) {
	for _, e := range p.Egress {
		if name == string(e.To) || slices.Contains(e.Hosts, strings.Split(name, ":")[0]) {
			return e.To, true
		}
	}
	if host := strings.Split(name, ":")[0]; host == "localhost" || host == "127.0.0.1" {
		return policy.ToBitbucket, true
	}
	return "", false
}

func hostsDeclared(_ *policy.Policy, f Facts) Bound {
	if f.Hosts == nil {
		return f.verdict(NotVerified, "the service's settings were not at hand.")
	}
	var bad []string
	for _, h := range f.Hosts {
		if !h.Declared {
			bad = append(bad, h.Host+" ("+h.Setting+")")
		}
	}
	if bad != nil {
		return f.verdict(False, "not declared: %s.", strings.Join(bad, ", "))
	}
	return f.verdict(True, "%s, each declared or this machine itself.", plural(int64(len(f.Hosts)), "host", "hosts"))
}

// requestsKept looks at the open requests, and at those that were completed lately: one
// that was late is not in time because it is done.
func requestsKept(_ *policy.Policy, f Facts) Bound {
	b := f.now(requestsInTime(f))
	late := int64(0)
	for _, r := range f.Requests {
		if completed(r) && r.MovedAt.After(r.Due) && r.MovedAt.After(f.AsOf.Add(-Lately)) {
			late++
		}
	}
	if b.State != False && late > 0 {
		b.State, b.Why = False, plural(late, "request", "requests")+" of the last "+count(int64(Lately/(24*time.Hour)))+" days completed after the due time."
	}
	return b
}

func guardsInPlace(_ *policy.Policy, f Facts) Bound {
	n := 0
	b := f.verdict(NotVerified, "the database's guards could not be seen.")
	for _, c := range f.Controls {
		if !strings.HasPrefix(c.ID, "guard: ") {
			continue
		}
		n++
		switch {
		case c.State == "fail":
			return f.verdict(False, "%s: %s.", c.Title, c.Detail)
		case c.State != "pass":
			return f.verdict(NotVerified, "%s: could not be told.", c.Title)
		}
	}
	if n > 0 {
		b = f.verdict(True, "%s of the database's catalog pass.", plural(int64(n), "control", "controls"))
	}
	return b
}

func descriptorScopes(p *policy.Policy, f Facts) Bound {
	if f.Scopes == nil {
		return f.verdict(NotVerified, "the descriptor was not at hand.")
	}
	for _, s := range f.Scopes {
		if !slices.ContainsFunc(p.App.Scopes, func(x policy.Scope) bool { return x.Name == s.Name }) {
			return f.verdict(False, "the descriptor asks for %s, which the policy does not declare.", s.Name)
		}
	}
	return f.verdict(True, "%s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}

func scopesNeeded(_ *policy.Policy, f Facts) Bound {
	if f.Scopes == nil {
		return f.verdict(NotVerified, "the descriptor was not at hand.")
	}
	for _, s := range f.Scopes {
		if s.NeededBy == "" {
			return f.verdict(False, "no call needs the scope %s.", s.Name)
		}
	}
	return f.verdict(True, "each of %s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}

// Public is the statement for customers: sentences, states and times, and nothing of
// how they are known.
func (s SecurityStatement) Public() SecurityStatement {
	out := s
	out.ToolVersion, out.PersonalData = "", ""
	out.Sentences = make([]Sentence, len(s.Sentences))
	for i, x := range s.Sentences {
		out.Sentences[i] = Sentence{ID: x.ID, Text: x.Text, State: x.State, VerifiedAt: x.VerifiedAt}
	}
	return out
}

// Render implements Report.
func (s SecurityStatement) Render(f Format) ([]byte, error) {
	switch f {
	case JSON:
		return indented(s)
	case Markdown:
		return s.markdown(), nil
	case HTML:
		var b bytes.Buffer
		if err := sentences.Execute(&b, s); err != nil {
			return nil, fmt.Errorf("rendering the statement: %w", err)
		}
		return b.Bytes(), nil
	}
	return nil, fmt.Errorf("the statement comes as html, md or json")
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return b.Bytes(), nil
}

// Spoken is a state in words.
func (t Truth) Spoken() string { return strings.ReplaceAll(string(t), "_", " ") }

// plainMark keeps text from becoming markup of a Markdown page.
var plainMark = strings.NewReplacer("\\", "\\\\", "*", "\\*", "_", "\\_", "`", "\\`", "<", "&lt;", ">", "&gt;", "[", "\\[", "]", "\\]", "|", "\\|", "#", "\\#", "\n", " ")

func (s SecurityStatement) markdown() []byte {
	var b bytes.Buffer
	m := plainMark.Replace
	fmt.Fprintf(&b, "# %s: %s\n\n%s, as of %s. Contact: %s\n", m(s.Issuer), m(s.Title), m(s.App), s.AsOf, m(s.Contact))
	for _, x := range s.Sentences {
		at := x.VerifiedAt
		if at == "" {
			at = "never"
		}
		fmt.Fprintf(&b, "\n## %s\n\n**%s**, verified %s\n", m(x.Text), x.State.Spoken(), at)
		for i, c := range x.Checks {
			if i == 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "- %s: **%s**. %s\n", m(c.Title), c.State.Spoken(), m(c.Why))
		}
		if len(x.Evidence) > 0 {
			fmt.Fprintf(&b, "\nEvidence: %s\n", m(strings.Join(x.Evidence, "; ")))
		}
	}
	if s.PersonalData != "" {
		fmt.Fprintf(&b, "\n## Atlassian's reporting of personal data\n\n%s\n", m(s.PersonalData))
	}
	fmt.Fprintf(&b, "\nPolicy SHA-256 `%s`, statement SHA-256 `%s`", s.PolicyHash, s.StatementHash)
	if s.ToolVersion != "" {
		fmt.Fprintf(&b, ", made by Trakr %s", m(s.ToolVersion))
	}
	b.WriteString(".\n")
	return b.Bytes()
}

var sentences = template.Must(template.New("statement.html").ParseFS(templates, "templates/statement.html"))
