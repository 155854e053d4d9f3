package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// The JSON forms of the reports. Their keys, and the words of the states, are public.

type documentJSON struct {
	SchemaVersion int             `json:"schema_version"`
	Kind          string          `json:"kind"`
	Title         string          `json:"title"`
	AsOf          string          `json:"as_of"`
	Issuer        string          `json:"issuer"`
	Contact       string          `json:"contact"`
	App           string          `json:"app"`
	ToolVersion   string          `json:"tool_version"`
	PolicyHash    string          `json:"policy_hash"`
	Verdict       string          `json:"verdict"` // one of documentWords
	Reasons       []string        `json:"reasons"` // why the verdict is not "holds"
	Statements    []statementJSON `json:"statements"`
	Sections      []Section       `json:"sections"`
	Notes         []string        `json:"notes"`
}

type statementJSON struct {
	Text  string `json:"text"`
	State string `json:"state"` // one of documentWords
	Why   string `json:"why"`
}

func (d Document) jsonForm() documentJSON {
	out := documentJSON{
		SchemaVersion: 1, Kind: d.Kind, Title: d.Title, AsOf: d.AsOf, Issuer: d.Issuer, Contact: d.Contact, App: d.App,
		ToolVersion: d.ToolVersion, PolicyHash: d.PolicyHash, Verdict: documentWords[d.Verdict], Reasons: d.Reasons,
		Sections: d.Sections, Notes: d.Notes,
	}
	for _, s := range d.Statements {
		out.Statements = append(out.Statements, statementJSON{Text: s.Title, State: documentWords[s.State], Why: s.Evidence})
	}
	return out
}

type securityStatementJSON struct {
	SchemaVersion int            `json:"schema_version"`
	Kind          string         `json:"kind"`
	Title         string         `json:"title"`
	AsOf          string         `json:"as_of"`
	Issuer        string         `json:"issuer"`
	Contact       string         `json:"contact"`
	App           string         `json:"app"`
	ToolVersion   string         `json:"tool_version"`
	PolicyHash    string         `json:"policy_hash"`
	StatementHash string         `json:"statement_hash"`
	Statement     string         `json:"statement"` // its origin
	Sentences     []sentenceJSON `json:"sentences"`
	PersonalData  string         `json:"personal_data_reporting"`
}

type sentenceJSON struct {
	ID         string              `json:"id"`
	Text       string              `json:"text"`
	State      string              `json:"state"` // one of sentenceWords
	VerifiedAt string              `json:"verified_at"`
	Checks     []sentenceCheckJSON `json:"checks"`
	Evidence   []string            `json:"evidence"`
}

type sentenceCheckJSON struct {
	ID         string `json:"id"`
	Title      string `json:"title"`
	State      string `json:"state"` // one of sentenceWords
	Why        string `json:"why"`
	VerifiedAt string `json:"verified_at"`
}

func (s SecurityStatement) jsonForm() securityStatementJSON {
	out := securityStatementJSON{
		SchemaVersion: 1, Kind: "statement", Title: s.Title, AsOf: s.AsOf, Issuer: s.Issuer, Contact: s.Contact, App: s.App,
		ToolVersion: s.ToolVersion, PolicyHash: s.PolicyHash, StatementHash: s.StatementHash, Statement: s.Origin,
		PersonalData: s.PersonalData,
	}
	for _, x := range s.Sentences {
		y := sentenceJSON{
			ID: x.ID, Text: x.Text, State: sentenceWords[x.State], VerifiedAt: x.VerifiedAt,
			Checks: []sentenceCheckJSON{}, Evidence: append([]string{}, x.Evidence...),
		}
		for _, c := range x.Checks {
			y.Checks = append(y.Checks, sentenceCheckJSON{
				ID: c.ID, Title: c.Title, State: sentenceWords[c.State], Why: c.Evidence, VerifiedAt: c.VerifiedAt,
			})
		}
		out.Sentences = append(out.Sentences, y)
	}
	return out
}

// MarshalJSON implements json.Marshaler: rows become objects with the columns' keys, in
// the columns' order.
func (s Section) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	head, err := json.Marshal(struct {
		ID    string `json:"id"`
		Title string `json:"title"`
		Intro string `json:"intro,omitempty"`
	}{s.ID, s.Title, s.Intro})
	if err != nil {
		return nil, err
	}
	b.Write(head[:len(head)-1])
	b.WriteString(`,"rows":[`)
	for i, row := range s.Rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		for j, c := range s.Columns {
			if j > 0 {
				b.WriteByte(',')
			}
			v, err := json.Marshal(row[j])
			if err != nil {
				return nil, err
			}
			if _, err := strconv.ParseInt(row[j], 10, 64); c.Numeric && err == nil {
				v = []byte(row[j])
			}
			fmt.Fprintf(&b, "%q:%s", c.Key, v)
		}
		b.WriteByte('}')
	}
	b.WriteString("]}")
	return b.Bytes(), nil
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
