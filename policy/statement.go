package policy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/goccy/go-yaml"
	"golang.org/x/text/language"
	"golang.org/x/text/language/display"

	"trakr/internal/lifecycle"
)

//go:embed statement.yaml
var defaultStatement []byte

// SecurityStatement is what the vendor says in public, sentence by sentence.
type SecurityStatement struct {
	Version   int        `yaml:"version"`
	Title     string     `yaml:"title"`
	Sentences []Sentence `yaml:"sentences"`

	hash string
	own  bool
}

// Sentence is one sentence and the checks that all must pass for it to be true.
type Sentence struct {
	ID     string   `yaml:"id"`
	Text   string   `yaml:"text"` // with words in braces: see Policy.Say
	Checks []string `yaml:"checks"`
}

// Hash is the lower-case hex SHA-256 of the file.
func (s *SecurityStatement) Hash() string { return s.hash }

// Origin is whose the sentences are.
func (s *SecurityStatement) Origin() string {
	if s.own {
		return Own
	}
	return Shipped
}

// Whose a statement is. What the sentences of one's own say beyond the words in braces,
// and whether their checks make that true, is for whoever wrote them to answer.
const (
	Shipped = "shipped" // the one that is built in, byte by byte
	Own     = "own"
)

// LoadStatement loads a security statement from a file; "" is the built-in one. A
// sentence may be bound only to the checks that are known. Every fault comes back at
// once, as an *Error.
func LoadStatement(path string, checks []string) (*SecurityStatement, error) {
	name, data := "the built-in statement", defaultStatement
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the statement: %w", err)
		}
		name, data = path, b
	}
	return ParseStatement(name, data, checks)
}

var (
	sentenceID = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	inBraces   = regexp.MustCompile(`\{[^{}]*\}`)
)

// statementSchema gives the types; judge says the rest in words of its own.
var statementSchema = schemaOf(func() []byte {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"version": {"type": "integer"}, "title": {"type": "string"},
		"sentences": {"type": "array", "items": {"type": "object", "additionalProperties": false, "properties": {
			"id": {"type": "string"}, "text": {"type": "string"}, "checks": {"type": "array", "items": {"type": "string"}}}}}}}`)
})

// ParseStatement is LoadStatement for a text; the name stands in the faults.
func ParseStatement(name string, data []byte, checks []string) (*SecurityStatement, error) {
	d, err := read("statement", data, statementSchema)
	if err != nil {
		return nil, err
	}
	s := &SecurityStatement{}
	if d.decode(s) {
		s.judge(d, checks)
	}
	if d.faults != nil {
		return nil, &Error{Of: "statement", File: name, Faults: d.sorted()}
	}
	sum := sha256.Sum256(data)
	s.hash, s.own = hex.EncodeToString(sum[:]), !bytes.Equal(data, defaultStatement)
	return s, nil
}

// judge: this form, unique sentences, each bound to checks that exist, and no word in
// braces that nobody fills.
func (s *SecurityStatement) judge(d *document, checks []string) {
	fault := d.fault
	if s.Version != 1 {
		fault("$.version", "this program reads version 1")
	}
	if s.Title == "" {
		fault("$.title", "the statement has no title")
	}
	if len(s.Sentences) == 0 {
		fault("$.sentences", "the statement says nothing")
	}
	seen := map[string]bool{}
	for i, x := range s.Sentences {
		at := fmt.Sprintf("$.sentences[%d]", i)
		switch {
		case !sentenceID.MatchString(x.ID):
			fault(at+".id", "an id is lower-case letters, digits and dashes, at most 32")
		case seen[x.ID]:
			fault(at+".id", "%s is used twice", x.ID)
		}
		seen[x.ID] = true
		if !strings.ContainsFunc(x.Text, unicode.IsLetter) {
			fault(at+".text", "the sentence has no text: it must say something in words")
		}
		for _, word := range inBraces.FindAllString(x.Text, -1) {
			if !slices.Contains(words, word) {
				fault(at+".text", "nothing fills %s; there are: %s", word, strings.Join(words, " "))
			}
		}
		if inBraces.MatchString(x.Text) && slices.Contains(checks, byPolicy) && !slices.Contains(x.Checks, byPolicy) {
			fault(at+".checks", "what stands for the words in braces is this policy's; that the service acts by it is the check %s: bind the sentence to it", byPolicy)
		}
		if len(x.Checks) == 0 {
			fault(at+".checks", "a sentence that nothing checks can never be true: bind it to a check")
		}
		for j, c := range x.Checks {
			if !slices.Contains(checks, c) {
				fault(fmt.Sprintf("%s.checks[%d]", at, j), "there is no check %q; there are: %s", c, strings.Join(checks, ", "))
			} else if slices.Contains(x.Checks[:j], c) {
				fault(fmt.Sprintf("%s.checks[%d]", at, j), "%s is bound twice", c)
			}
		}
		for _, c := range shippedChecks()[x.ID] {
			if !slices.Contains(x.Checks, c) && len(x.Checks) > 0 {
				fault(at+".checks", "the sentence %s is bound to %s in the statement that is built in, and is not true by less: bind it, or give the sentence an id of its own", x.ID, c)
			}
		}
	}
}

// shippedChecks are the checks of each sentence that is built in, by its id.
var shippedChecks = sync.OnceValue(func() map[string][]string {
	var s SecurityStatement
	if err := yaml.Unmarshal(defaultStatement, &s); err != nil {
		return nil // it is refused itself when it is loaded
	}
	out := map[string][]string{}
	for _, x := range s.Sentences {
		out[x.ID] = x.Checks
	}
	return out
})

// byPolicy is the check that the running service acts by the policy that fills the words.
const byPolicy = "policy"

// words are the words in braces that Say fills.
var words = []string{"{kept}", "{cities}", "{countries}", "{providers}", "{deadline}", "{backups}", "{missed}", "{remains}", "{sent}", "{scopes}", "{sweeps}", "{due}"}

// CarriesWorkspace is how a policy declares, among what goes to a destination besides
// guarded fields, that a released client key holds the workspace's UUID. Word for word:
// the guard on the way out and the public sentence both look for it.
const CarriesWorkspace = "the workspace's uuid, where Bitbucket made it a part of the client key"

// CarriesWorkspace reports whether a client key that goes there may hold the UUID.
func (e Egress) CarriesWorkspace() bool { return slices.Contains(e.Carries, CarriesWorkspace) }

// Say fills the words in braces of a sentence from the policy.
func (p *Policy) Say(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	end, _ := p.Destination(lifecycle.ToEndService)
	var kept, sent, scopes, cities, countries, providers []string
	for _, f := range p.Fields {
		if f.Off || f.Credential {
			continue
		}
		kept = append(kept, f.Spoken())
		if slices.Contains(f.Egress, lifecycle.ToEndService) {
			what := "the " + f.Spoken()
			if f.Name == lifecycle.ClientKey && end.CarriesWorkspace() {
				what += " (which contains the workspace's UUID)"
			}
			sent = append(sent, what)
		}
	}
	for _, h := range p.Holdings() {
		kept = append(kept, h.Spoken())
	}
	if len(end.Details) > 0 {
		sent = append(sent, "details of the app")
	}
	use := "Nothing is"
	if len(sent) > 0 {
		verb := " are"
		if len(sent) == 1 && len(end.Details) == 0 {
			verb = " is"
		}
		use = strings.ToUpper(And(sent)[:1]) + And(sent)[1:] + verb
	}
	for _, s := range p.App.Scopes {
		scopes = append(scopes, s.Name)
	}
	for _, s := range p.Stores {
		if s.HoldsFields {
			cities, countries, providers = append(cities, s.City), append(countries, Country(s.Country)), append(providers, s.Provider)
		}
	}
	backups := "There are no backups"
	if _, ok := p.Period(Backups); ok {
		backups = "Backups that still hold what was deleted are gone " + p.BackupWindow().Human() + " later"
	}
	noun := "the scope "
	if len(scopes) > 1 {
		noun = "the scopes "
	}
	orphans, _ := p.Sweep("orphans")
	return strings.NewReplacer("{kept}", And(distinct(kept)), "{sent}", use, "{scopes}", noun+And(scopes), "{cities}", And(distinct(cities)),
		"{countries}", And(distinct(countries)), "{providers}", And(distinct(providers)), "{deadline}", p.DeletionDeadline.Human(), "{backups}", backups, "{remains}", p.remains(), "{missed}", p.Liveness.Spoken(),
		"{sweeps}", Cadence(orphans.Schedule), "{due}", p.DeletionRequests.Due.Human()).Replace(text)
}

// remains names the records that outlive a tenant.
func (p *Policy) remains() string {
	var names []string
	for _, k := range p.Outlives() {
		names = append(names, strings.ReplaceAll(strings.TrimPrefix(k.Where, "trakr."), "_", " "))
	}
	if names == nil {
		return "no records"
	}
	return "our records of " + And(distinct(names))
}

// Spoken returns the field's name as used in a sentence.
func (f FieldRule) Spoken() string { return f.Name.Spec().Noun }

// And joins words as a sentence does.
func And(list []string) string {
	switch n := len(list); n {
	case 0:
		return "nothing"
	case 1:
		return list[0]
	default:
		return strings.Join(list[:n-1], ", ") + " and " + list[n-1]
	}
}

func distinct(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Country is the English name of an ISO 3166-1 alpha-2 code, as Marketplace lists it.
func Country(code string) string {
	r, err := language.ParseRegion(code)
	if err != nil {
		return code
	}
	return display.English.Regions().Name(r)
}

// Cadence says in words how often a schedule comes.
func Cadence(schedule string) string {
	f := strings.Fields(schedule)
	if len(f) != 5 || f[2] != "*" || f[3] != "*" || f[4] != "*" {
		return "by a schedule"
	}
	n, every := strings.CutPrefix(f[0], "*/")
	_, err := strconv.Atoi(n)
	_, hour := strconv.Atoi(f[1])
	switch {
	case err == nil && f[1] == "*" && every:
		return "every " + n + " minutes"
	case err == nil && f[1] == "*":
		return "every hour"
	case err == nil && hour == nil && !every:
		return "every day"
	}
	return "by a schedule"
}
