package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

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
	Statement     string     `json:"statement"` // whose its words are: policy.Shipped or policy.Own
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
	{"catalog", "Every table and column in the database is declared", func(p *policy.Policy, f Facts) Bound { return f.looked(declaredTables(p, f)) }},
	{"no-contact-field", "No declared field is of a forbidden category", noContactField},
	{"minimisation", "No value that lies in clear in the database looks like an e-mail address or a phone number, and what is sealed was judged before it was stored", nothingLikeContact},
	{"erasures", "Every erasure was done within the deadline", erasuresInTime},
	{"recipients", "Whoever was told of a tenant is told of its erasure within the deadline", recipientsTold},
	{"backups", "Backups are gone after their period", backupsGone},
	{"orphans", "The newest sweep found no row of a tenant that is gone, and saw its canary", orphansGone},
	{"missed-uninstalls", "Bitbucket is asked which installations are gone, and none is kept that it has not known for days", uninstallsNoticed},
	{"sweeps-run", "Every scheduled check runs in time", everySweepRuns},
	{"one-place", "The stores that may hold values are declared in one place", func(p *policy.Policy, f Facts) Bound { return f.looked(noUndeclaredPlace(p)) }},
	{"observed-place", "The database is observed at the declared place", func(p *policy.Policy, f Facts) Bound { return f.looked(observedAgrees(p, f)) }},
	{"egress", "Of the guarded values the policy lets only the client key and the UUID leave", egressDeclared},
	{"disclosures", "What the log shows as disclosed is what the policy releases", disclosuresAllowed},
	{"hosts", "Every host the running service is told to talk to is declared", hostsDeclared},
	{"policy", "The running service acts by this policy", actsByPolicy},
	{"guards", "The database's own guards are in place", guardsInPlace},
	{"integrity", "The log was verified, and nothing was changed around the service", bySweep("integrity", whatever)},
	{"descriptor", "The descriptor asks for the declared scopes", descriptorScopes},
	{"scopes-needed", "Each scope has a call that needs it", scopesNeeded},
	{"requests", "No deletion request is overdue, or was answered late", requestsAnswered},
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
		App: p.App.Name + " (" + p.App.Key + ")", ToolVersion: version, PolicyHash: p.Hash(), StatementHash: s.Hash(), Statement: s.Origin(), PersonalData: duty}
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

// verdict is a judgement of what is on record of the report's moment. Of one before
// anything was recorded, nothing is.
func (f Facts) verdict(state Truth, format string, args ...any) Bound {
	if state == True && f.Began != nil && f.AsOf.Before(*f.Began) {
		return Bound{State: NotVerified, Why: "nothing was recorded yet."}
	}
	b := Bound{State: state, Why: fmt.Sprintf(format, args...)}
	if state != NotVerified {
		b.VerifiedAt = stamp(&f.AsOf)
	}
	return b
}

// seen is a judgement of what can be looked at only while the report is made.
func (f Facts) seen(state Truth, format string, args ...any) Bound {
	if f.Past {
		return Bound{State: NotVerified, Why: "this can be looked at only now, which says nothing of an earlier time."}
	}
	return f.verdict(state, format, args...)
}

// truth is what a report's statement is as a judgement.
func (s State) truth() Truth {
	return map[State]Truth{Holds: True, Fails: False, CannotTell: NotVerified}[s]
}

// looked is seen for what a report states.
func (f Facts) looked(s Statement) Bound { return f.seen(s.State.truth(), "%s", s.Why) }

// Public is the statement for customers: sentences, states and times, and nothing of
// how they are known.
func (s SecurityStatement) Public() SecurityStatement {
	out := s
	out.ToolVersion, out.PersonalData = "", ""
	out.Sentences = make([]Sentence, len(s.Sentences))
	for i, x := range s.Sentences {
		out.Sentences[i] = Sentence{ID: x.ID, Text: x.Text, State: x.State, VerifiedAt: x.VerifiedAt, Checks: []Bound{}, Evidence: []string{}}
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
		at := "never checked"
		if x.VerifiedAt != "" {
			at = "checked " + x.VerifiedAt
		}
		fmt.Fprintf(&b, "\n## %s\n\n**%s**, %s\n", m(x.Text), x.State.Spoken(), at)
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
	fmt.Fprintf(&b, "\nPolicy SHA-256 `%s`, statement SHA-256 `%s` (%s)", s.PolicyHash, s.StatementHash, s.Statement)
	if s.ToolVersion != "" {
		fmt.Fprintf(&b, ", made by Trakr %s", m(s.ToolVersion))
	}
	b.WriteString(".\n")
	return b.Bytes()
}

var sentences = template.Must(template.New("statement.html").ParseFS(templates, "templates/statement.html"))
