package reports

import (
	"bytes"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"trakr/internal/check"
	"trakr/policy"
)

// SecurityStatement is the vendor's security statement with the state of each sentence.
type SecurityStatement struct {
	Title         string
	AsOf          string
	Issuer        string
	Contact       string
	App           string
	ToolVersion   string
	PolicyHash    string
	StatementHash string
	Origin        string // of its text: policy.Shipped or policy.Own
	Sentences     []Sentence
	PersonalData  string // whether Atlassian's duty to report accounts applies, and how it is met
}

// Sentence is one sentence of the statement. Its state is the worst of its checks'.
type Sentence struct {
	ID         string
	Text       string
	State      check.State
	VerifiedAt string // the time of its oldest check; "" when one never ran
	Checks     []SentenceCheck
	Evidence   []string // runs, findings, hashes: what a reviewer can look up
}

// SentenceCheck is one check that a sentence needs.
type SentenceCheck struct {
	check.Result
	VerifiedAt string   // "" when the check never ran
	References []string // the sweep runs and findings it rests on
}

// sentenceWords are the states of sentences and of their checks, as every format of the
// statement writes them. They are part of its JSON form. A check that did not run lately,
// or could not see, is not verified: never true.
var sentenceWords = map[check.State]string{check.Pass: "true", check.Fail: "false", check.Unknown: "not_verified"}

// SecurityStatementOf evaluates the checks of each sentence.
func SecurityStatementOf(p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) SecurityStatement {
	_, duty := p.PersonalDataDuty()
	out := SecurityStatement{
		Title: s.Title, AsOf: f.AsOf.UTC().Format(time.RFC3339Nano), Issuer: p.Vendor.Name, Contact: p.Vendor.Contact,
		App: p.App.Name + " (" + p.App.Key + ")", ToolVersion: version,
		PolicyHash: p.Hash(), StatementHash: s.Hash(), Origin: s.Origin(), PersonalData: duty,
	}
	for _, x := range s.Sentences {
		out.Sentences = append(out.Sentences, evaluate(x, p, f))
	}
	return out
}

func evaluate(x policy.Sentence, p *policy.Policy, f Facts) Sentence {
	out := Sentence{ID: x.ID, Text: p.Fill(x.Text), Evidence: []string{"policy sha256:" + p.Hash()}}
	var results []check.Result
	for i, id := range x.Checks {
		c := runCheck(id, p, f)
		out.Checks, results = append(out.Checks, c), append(results, c.Result)
		if i == 0 || c.VerifiedAt < out.VerifiedAt {
			out.VerifiedAt = c.VerifiedAt
		}
		for _, r := range c.References {
			if !slices.Contains(out.Evidence, r) {
				out.Evidence = append(out.Evidence, r)
			}
		}
	}
	out.State = check.Worst(results...)
	return out
}

// Public returns the statement for customers: sentences, states and times, without how
// they are known, which could help an attacker.
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
		return indented(s.jsonForm())
	case Markdown:
		return s.markdown(), nil
	case HTML:
		var b bytes.Buffer
		if err := statementPage.Execute(&b, s); err != nil {
			return nil, fmt.Errorf("rendering the statement: %w", err)
		}
		return b.Bytes(), nil
	}
	return nil, fmt.Errorf("the statement is available as html, md or json")
}

// plainMark keeps text from becoming markup of a Markdown page.
var plainMark = strings.NewReplacer("\\", "\\\\", "*", "\\*", "_", "\\_", "`", "\\`", "<", "&lt;", ">", "&gt;",
	"[", "\\[", "]", "\\]", "|", "\\|", "#", "\\#", "\n", " ")

func (s SecurityStatement) markdown() []byte {
	var b bytes.Buffer
	m := plainMark.Replace
	fmt.Fprintf(&b, "# %s: %s\n\n%s, as of %s. Contact: %s\n", m(s.Issuer), m(s.Title), m(s.App), s.AsOf, m(s.Contact))
	for _, x := range s.Sentences {
		at := "never checked"
		if x.VerifiedAt != "" {
			at = "checked " + x.VerifiedAt
		}
		fmt.Fprintf(&b, "\n## %s\n\n**%s**, %s\n", m(x.Text), plainWords(x.State), at)
		for i, c := range x.Checks {
			if i == 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "- %s: **%s**. %s\n", m(c.Title), plainWords(c.State), m(c.Evidence))
		}
		if len(x.Evidence) > 0 {
			fmt.Fprintf(&b, "\nEvidence: %s\n", m(strings.Join(x.Evidence, "; ")))
		}
	}
	if s.PersonalData != "" {
		fmt.Fprintf(&b, "\n## Atlassian's reporting of personal data\n\n%s\n", m(s.PersonalData))
	}
	fmt.Fprintf(&b, "\nPolicy SHA-256 `%s`, statement SHA-256 `%s` (%s)", s.PolicyHash, s.StatementHash, s.Origin)
	if s.ToolVersion != "" {
		fmt.Fprintf(&b, ", made by Trakr %s", m(s.ToolVersion))
	}
	b.WriteString(".\n")
	return b.Bytes()
}

// plainWords is the state of a sentence for a page: "not verified".
func plainWords(s check.State) string { return strings.ReplaceAll(sentenceWords[s], "_", " ") }

var statementPage = template.Must(template.New("statement.html").Funcs(template.FuncMap{
	"class": func(s check.State) string { return sentenceWords[s] },
	"words": plainWords,
}).ParseFS(templates, "templates/statement.html"))
