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

// SecurityStatement is the vendor's public security statement, sentence by sentence.
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
	Text   string   `yaml:"text"` // with placeholders: see Policy.Fill
	Checks []string `yaml:"checks"`
}

// Hash returns the lower-case hex SHA-256 of the file.
func (s *SecurityStatement) Hash() string { return s.hash }

// Origin returns who wrote the sentences: Shipped or Own.
func (s *SecurityStatement) Origin() string {
	if s.own {
		return Own
	}
	return Shipped
}

// Origins of a statement. The vendor who writes a statement of its own is responsible for
// what its sentences claim beyond the placeholders, and for whether their checks prove it.
const (
	Shipped = "shipped" // the built-in statement, byte for byte
	Own     = "own"
)

// LoadStatement loads a security statement from a file; "" is the built-in one. Sentences
// may be bound only to the given checks. It returns every fault at once, as an *Error.
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
	sentenceID  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	placeholder = regexp.MustCompile(`\{[^{}]*\}`)
)

// statementSchema checks the types; validate checks everything else, with better messages.
var statementSchema = schemaOf(func() []byte {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"version": {"type": "integer"}, "title": {"type": "string"},
		"sentences": {"type": "array", "items": {"type": "object", "additionalProperties": false, "properties": {
			"id": {"type": "string"}, "text": {"type": "string"}, "checks": {"type": "array", "items": {"type": "string"}}}}}}}`)
})

// ParseStatement is LoadStatement for a text; the name appears in the error.
func ParseStatement(name string, data []byte, checks []string) (*SecurityStatement, error) {
	d, err := read("statement", data, statementSchema)
	if err != nil {
		return nil, err
	}
	s := &SecurityStatement{}
	if d.decode(s) {
		s.validate(d, checks)
	}
	if d.faults != nil {
		return nil, &Error{Of: "statement", File: name, Faults: d.sorted()}
	}
	sum := sha256.Sum256(data)
	s.hash, s.own = hex.EncodeToString(sum[:]), !bytes.Equal(data, defaultStatement)
	return s, nil
}

// validate checks the version, that sentences are unique and bound to existing checks, and
// that every placeholder is known.
func (s *SecurityStatement) validate(d *document, checks []string) {
	if s.Version != 1 {
		d.fault("$.version", "this program reads version 1")
	}
	if s.Title == "" {
		d.fault("$.title", "the statement has no title")
	}
	if len(s.Sentences) == 0 {
		d.fault("$.sentences", "the statement has no sentences")
	}
	seen := map[string]bool{}
	for i, x := range s.Sentences {
		at := entry("$.sentences", i)
		switch {
		case !sentenceID.MatchString(x.ID):
			d.fault(at+".id", "an id is lower-case letters, digits and dashes, at most 32")
		case seen[x.ID]:
			d.fault(at+".id", "%s is used twice", x.ID)
		}
		seen[x.ID] = true
		x.validateText(d, at)
		x.validateChecks(d, at, checks)
	}
}

func (x Sentence) validateText(d *document, at string) {
	if !strings.ContainsFunc(x.Text, unicode.IsLetter) {
		d.fault(at+".text", "the sentence has no text")
	}
	for _, p := range placeholder.FindAllString(x.Text, -1) {
		if !slices.Contains(placeholders, p) {
			d.fault(at+".text", "unknown placeholder %s; the placeholders are: %s", p, strings.Join(placeholders, " "))
		}
	}
}

func (x Sentence) validateChecks(d *document, at string, checks []string) {
	list := at + ".checks"
	if placeholder.MatchString(x.Text) && slices.Contains(checks, policyCheck) && !slices.Contains(x.Checks, policyCheck) {
		d.fault(list, "the placeholders are filled from this policy, and the check %s shows that the service acts by it: "+
			"bind the sentence to it", policyCheck)
	}
	if len(x.Checks) == 0 {
		d.fault(list, "a sentence without a check can never be true: bind it to a check")
	}
	for i, c := range x.Checks {
		if !slices.Contains(checks, c) {
			d.fault(entry(list, i), "there is no check %q; the checks are: %s", c, strings.Join(checks, ", "))
		} else if slices.Contains(x.Checks[:i], c) {
			d.fault(entry(list, i), "%s is bound twice", c)
		}
	}
	for _, c := range shippedChecks()[x.ID] {
		if !slices.Contains(x.Checks, c) && len(x.Checks) > 0 {
			d.fault(list, "the built-in sentence %s is bound to %s and is not true without it: bind it, or give the sentence another id",
				x.ID, c)
		}
	}
}

// shippedChecks returns the checks of each built-in sentence by its id.
var shippedChecks = sync.OnceValue(func() map[string][]string {
	var s SecurityStatement
	if err := yaml.Unmarshal(defaultStatement, &s); err != nil {
		return nil // LoadStatement refuses the built-in statement itself
	}
	out := map[string][]string{}
	for _, x := range s.Sentences {
		out[x.ID] = x.Checks
	}
	return out
})

// policyCheck is the check that the running service acts by the policy that fills the
// placeholders.
const policyCheck = "policy"

// placeholders are the placeholders that Fill replaces.
var placeholders = []string{
	"{kept}", "{cities}", "{countries}", "{providers}", "{deadline}", "{backups}", "{missed}", "{remains}", "{sent}", "{scopes}",
	"{sweeps}", "{due}",
}

// CarriesWorkspace is how a policy declares, among what a destination receives besides
// guarded fields, that a released client key contains the workspace's UUID. The egress
// guard and the public sentence both compare it word for word.
const CarriesWorkspace = "the workspace's uuid, where Bitbucket made it a part of the client key"

// CarriesWorkspace reports whether a client key sent to the destination may contain the
// workspace's UUID.
func (e Egress) CarriesWorkspace() bool { return slices.Contains(e.Carries, CarriesWorkspace) }

// Fill replaces the placeholders of a sentence from the policy.
func (p *Policy) Fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	var kept, scopes, cities, countries, providers []string
	for _, f := range p.Fields {
		if !f.Off && !f.Credential {
			kept = append(kept, f.Phrase())
		}
	}
	for _, c := range p.CustomerColumns() {
		kept = append(kept, c.Phrase())
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
		backups = "Backups that still contain deleted data are deleted " + p.BackupWindow().Human() + " later"
	}
	noun := "the scope "
	if len(scopes) > 1 {
		noun = "the scopes "
	}
	orphans, _ := p.Sweep("orphans")
	return strings.NewReplacer(
		"{kept}", And(distinct(kept)), "{sent}", p.sent(), "{scopes}", noun+And(scopes), "{cities}", And(distinct(cities)),
		"{countries}", And(distinct(countries)), "{providers}", And(distinct(providers)), "{deadline}", p.DeletionDeadline.Human(),
		"{backups}", backups, "{remains}", p.remains(), "{missed}", p.Liveness.LongestInWords(),
		"{sweeps}", Cadence(orphans.Schedule), "{due}", p.DeletionRequests.Due.Human(),
	).Replace(text)
}

// sent names what the end service receives, with the verb: "The client key is".
func (p *Policy) sent() string {
	end, _ := p.Destination(lifecycle.ToEndService)
	var sent []string
	for _, f := range p.Fields {
		if f.Off || f.Credential || !slices.Contains(f.Egress, lifecycle.ToEndService) {
			continue
		}
		what := "the " + f.Phrase()
		if f.Name == lifecycle.ClientKey && end.CarriesWorkspace() {
			what += " (which contains the workspace's UUID)"
		}
		sent = append(sent, what)
	}
	if len(end.Details) > 0 {
		sent = append(sent, "details of the app")
	}
	if len(sent) == 0 {
		return "Nothing is"
	}
	verb := " are"
	if len(sent) == 1 && len(end.Details) == 0 {
		verb = " is"
	}
	text := And(sent)
	return strings.ToUpper(text[:1]) + text[1:] + verb
}

// remains names the records that are kept after an erasure.
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
func (f FieldRule) Phrase() string { return f.Name.Spec().Noun }

// And joins words into a phrase: "a, b and c".
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

// Country returns the English name of an ISO 3166-1 alpha-2 code, as Marketplace lists it.
func Country(code string) string {
	r, err := language.ParseRegion(code)
	if err != nil {
		return code
	}
	return display.English.Regions().Name(r)
}

// Cadence returns in words how often a schedule runs.
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
