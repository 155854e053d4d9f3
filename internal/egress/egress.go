// Package egress decides what may leave this service for another recipient, and is the
// one way by which an event about a tenant is made into bytes.
//
// Everything in such an event is one of four things: a constant of the policy or the
// settings, an id or a number of our own, a time, or a guarded value under its own
// name. The guard takes nothing else, and of guarded values only those that the policy
// releases to the destination and that are what the tenant has under that name. It
// fails closed: what it does not know, it refuses, and no error has a value in it. A
// value shaped like an e-mail address or a telephone number never leaves, whatever the
// policy releases: incoming values are checked for that, too, but not by earlier
// versions.
//
// One released value can disclose another. A client key of the form
// ari:cloud:bitbucket::app/{workspace}/key contains the workspace's uuid: it leaves only
// where the policy declares that (policy.CarriesWorkspace) or releases the uuid itself.
// Nothing else that is not released leaves inside of what is.
//
// The package is pure: it has no clock and does no I/O.
package egress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"trakr/internal/contactdata"
	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Kind is what happened to a tenant.
type Kind string

// The kinds. An erasure's event names the tenant by our own random id and has no value.
const (
	Installed Kind = "installed"
	Changed   Kind = "changed"
	Erased    Kind = "erased"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Installed, Changed, Erased} }

// TypePrefix begins the CloudEvents type of each event; the kind follows.
const TypePrefix = "com.trakr.tenant."

// Members of an event's data beside the guarded fields.
const (
	TenantID = "tenant_id" // our own random id
	AppKey   = "app_key"
	AppName  = "app_name"
)

// ErrRefused means that an event may not leave. The error that wraps it has the reason:
// names of fields and destinations, and no value.
var ErrRefused = errors.New("refused by the guard")

// Event is one event before the guard checks it.
type Event struct {
	ID       string // uuid; a repeat has the same
	Kind     Kind
	Time     time.Time
	Sequence int64          // from 1, of the tenant's events
	Data     map[string]any // see Guard.Data
}

// Body is an event as it may leave, and the guarded fields it discloses.
type Body struct {
	bytes  []byte
	fields []lifecycle.Field
}

// Bytes returns what is sent.
func (b Body) Bytes() []byte { return b.bytes }

// Fields lists the guarded fields whose values are in it.
func (b Body) Fields() []lifecycle.Field { return b.fields }

// Guard judges the events for one destination.
type Guard struct {
	policy *policy.Policy
	to     policy.Egress
	source string
}

// New returns the guard of a destination that the policy declares. The source is our
// public address, by which the receiver knows who speaks.
func New(p *policy.Policy, to lifecycle.Destination, source string) (*Guard, error) {
	d, ok := p.Destination(to)
	if !ok {
		return nil, fmt.Errorf("the policy declares no egress to %s, so nothing is sent there", to)
	}
	if source == "" {
		return nil, errors.New("an event needs a source")
	}
	return &Guard{p, d, source}, nil
}

// uuidMayLeave reports whether the workspace's uuid may leave inside of the client key.
func (g *Guard) uuidMayLeave() bool {
	return g.to.CarriesWorkspace() || g.policy.Releases(lifecycle.PrincipalUUID, g.to.To)
}

// Required reports whether an erasure waits for the recipient's acknowledgement.
func (g *Guard) Required() bool { return g.to.Required }

// Releases reports whether the policy releases every one of the fields.
func (g *Guard) Releases(fields []lifecycle.Field) bool {
	return !slices.ContainsFunc(fields, func(f lifecycle.Field) bool { return !g.policy.Releases(f, g.to.To) })
}

// Data returns everything that the policy releases of a tenant in an event of this kind.
func (g *Guard) Data(k Kind, tenant lifecycle.TenantID, values lifecycle.Values) map[string]any {
	out := map[string]any{TenantID: tenant.String()}
	if k == Erased {
		return out
	}
	for name, value := range g.details() {
		out[name] = value
	}
	for f, v := range values {
		if !v.Empty() && g.policy.Releases(f, g.to.To) {
			out[string(f)] = v
		}
	}
	return out
}

// details are the app's, as far as the policy names them.
func (g *Guard) details() map[string]string {
	all, out := map[string]string{AppKey: g.policy.App.Key, AppName: g.policy.App.Name}, map[string]string{}
	for _, name := range g.to.Details {
		if value, ok := all[name]; ok {
			out[name] = value
		}
	}
	return out
}

// Encode makes an event into bytes, or refuses it (ErrRefused). held are the tenant's
// values: a guarded value leaves only as what the tenant has under that name, and no
// other member may be, or hold, one of them.
func (g *Guard) Encode(e Event, held lifecycle.Values) (Body, error) {
	return verdict(g.encode(e, held))
}

// verdict makes every refusal ErrRefused: whatever went wrong, nothing is to be sent.
func verdict(b Body, err error) (Body, error) {
	if err != nil {
		return Body{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return b, nil
}

func (g *Guard) encode(e Event, held lifecycle.Values) (Body, error) {
	if id, err := uuid.Parse(e.ID); err != nil || id.String() != e.ID || among(e.ID, held) {
		return Body{}, errors.New("an event's id is a random uuid of our own")
	}
	if !slices.Contains(Kinds(), e.Kind) || e.Sequence < 1 {
		return Body{}, errors.New("an event has a kind and a number")
	}
	data, fields := map[string]string{}, []lifecycle.Field{}
	for name, v := range e.Data {
		if f := lifecycle.Field(name); f.Valid() {
			s, ok := v.(lifecycle.Secret)
			if !ok || s.Empty() || s != held[f] || f == lifecycle.SharedSecret {
				return Body{}, fmt.Errorf("the value under %s is not the tenant's", f)
			}
			if u, hidden := g.hidden(f, s.Reveal(), held); hidden {
				return Body{}, fmt.Errorf("the value of %s holds that of %s, which the policy does not release to %s", f, u, g.to.To)
			}
			data[name], fields = s.Reveal(), append(fields, f)
			continue
		}
		s, ok := v.(string)
		if !ok {
			return Body{}, errors.New("a member of the event is neither text nor a guarded field")
		}
		if name == TenantID && among(s, held) {
			return Body{}, errors.New("the tenant is named by one of its values instead of by our own id")
		}
		data[name] = s
	}
	slices.Sort(fields)
	if err := g.allowed(e.Kind, data); err != nil {
		return Body{}, err
	}
	b, err := g.envelope(e, data).Encode()
	return Body{b, fields}, err
}

// envelope is the event around its data.
func (g *Guard) envelope(e Event, data map[string]string) webhook.Event {
	return webhook.Event{ID: e.ID, Source: g.source, Type: TypePrefix + string(e.Kind), Subject: data[TenantID], Time: e.Time,
		Sequence: fmt.Sprintf("%010d", e.Sequence), Data: data}
}

// allowed judges the members of an event by the policy. The error names a member only
// when it is one of ours: another one's name could be a value.
func (g *Guard) allowed(k Kind, data map[string]string) error {
	details := g.details()
	for name, value := range data {
		detail, isDetail := details[name]
		switch f := lifecycle.Field(name); {
		case name == TenantID:
			if id, err := lifecycle.ParseTenantID(value); err != nil || id.String() != value || id.IsZero() {
				return errors.New("the tenant is not named by our own id")
			}
		case k == Erased:
			return errors.New("the event of an erasure names the tenant by our own id, and nothing else")
		case f.Valid():
			if !g.policy.Releases(f, g.to.To) {
				return fmt.Errorf("the policy does not release %s to %s", f, g.to.To)
			}
			if slices.ContainsFunc(decoded(value), contactdata.Contact) {
				return fmt.Errorf("the value of %s is shaped like an e-mail address or a telephone number", f)
			}
			if f == lifecycle.ClientKey && !g.uuidMayLeave() && anyUUID.MatchString(value) {
				return fmt.Errorf("the client key holds a uuid, and the policy declares for %s no such carry", g.to.To)
			}
		case !isDetail:
			return fmt.Errorf("the event has a member that the policy does not release to %s", g.to.To)
		case value != detail:
			return fmt.Errorf("%s is not the app's", name)
		}
	}
	if data[TenantID] == "" {
		return errors.New("the event names no tenant")
	}
	return nil
}

// Review judges an event that was made before and lay in the queue, or refuses it
// (ErrRefused): the policy may release less by now, and what an earlier version stored
// was judged by less. It returns the fields that would be disclosed.
func (g *Guard) Review(body []byte) (Body, error) { return verdict(g.review(body)) }

func (g *Guard) review(body []byte) (Body, error) {
	var w struct {
		webhook.Event
		Data map[string]string `json:"data"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil { // the decoder's own words could quote a value
		return Body{}, errors.New("a queued event cannot be read")
	}
	kind, ok := strings.CutPrefix(w.Type, TypePrefix)
	if !ok || !slices.Contains(Kinds(), Kind(kind)) {
		return Body{}, errors.New("a queued event has no known type")
	}
	if err := g.allowed(Kind(kind), w.Data); err != nil {
		return Body{}, err
	}
	// Nothing may be in the bytes that was not checked: a member twice, or a comment.
	w.Event.Data = w.Data
	again, err := w.Event.Encode()
	if err != nil || !bytes.Equal(again, body) || w.Subject != w.Data[TenantID] {
		return Body{}, errors.New("a queued event is not in its form")
	}
	b := Body{bytes: body, fields: []lifecycle.Field{}}
	for _, f := range lifecycle.Fields() {
		if _, ok := w.Data[string(f)]; ok {
			b.fields = append(b.fields, f)
		}
	}
	slices.Sort(b.fields)
	return b, nil
}

// minOverlap is how many letters and digits two texts must share before it is more than
// chance: a username of one letter is in every id.
const minOverlap = 8

// among reports whether an id is, or is a part of, one of the values, in any spelling
// of a uuid.
func among(id string, held lifecycle.Values) bool {
	for _, v := range held {
		if overlap(id, v.Reveal()) {
			return true
		}
	}
	return false
}

func overlap(a, b string) bool {
	a, b = plain(a), plain(b)
	return (len(a) >= minOverlap && strings.Contains(b, a)) || (len(b) >= minOverlap && strings.Contains(a, b))
}

// shortest is how many bytes a value must have before another is searched for it:
// shorter ones are everywhere by chance.
const shortest = 4

// hidden searches a value that would leave for the tenant's other values that may
// not: as they are, in another case, percent-encoded, or without their punctuation.
func (g *Guard) hidden(f lifecycle.Field, value string, held lifecycle.Values) (lifecycle.Field, bool) {
	if f == lifecycle.ClientKey {
		value = g.ownPart(value)
	}
	for _, u := range lifecycle.Fields() {
		other := held[u].Reveal()
		if u == f || len(other) < shortest || g.policy.Releases(u, g.to.To) {
			continue
		}
		for _, v := range decoded(value) {
			if strings.Contains(strings.ToLower(v), strings.ToLower(other)) ||
				len(plain(other)) >= minOverlap && strings.Contains(plain(v), plain(other)) {
				return u, true
			}
		}
	}
	return "", false
}

// Bitbucket's forms of a client key.
const (
	registered = "ari:cloud:bitbucket::app/{" // {workspace}/app key
	connection = "connection:"                // and a number
)

// anyUUID is a uuid in any spelling.
var anyUUID = regexp.MustCompile(`(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}`)

// ownPart returns what of a client key can disclose anything: without the words that every
// one has, without our own app's key, without the number that Bitbucket counts connections
// by, and without the uuid where that may leave. A workspace may be called "bitbucket",
// or by a year that its number happens to have, or by letters of its uuid.
func (g *Guard) ownPart(key string) string {
	if number, ok := strings.CutPrefix(key, connection); ok {
		if strings.Trim(number, "0123456789") == "" {
			return ""
		}
		return number
	}
	rest, ok := strings.CutPrefix(key, registered)
	if !ok {
		return key
	}
	id, app, ok := strings.Cut(rest, "}/")
	if !ok {
		return rest
	}
	if app == g.policy.App.Key {
		app = ""
	}
	if _, err := uuid.Parse(id); err == nil && len(id) == 36 && g.uuidMayLeave() {
		return app
	}
	return id + "}/" + app
}

// decoded are a text and what it is once percent-encodings are undone, of a path's kind and
// of a query's, as often as there are some.
func decoded(s string) []string {
	out := []string{s}
	for _, undo := range []func(string) (string, error){url.PathUnescape, url.QueryUnescape} {
		for s, n := s, 0; n < 8; n++ {
			next, err := undo(s)
			if err != nil || next == s {
				break
			}
			s = next
			out = append(out, s)
		}
	}
	return out
}

// plain is a text's letters and digits, in lower case.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}
