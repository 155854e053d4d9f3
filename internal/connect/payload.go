package connect

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"trakr/internal/contactdata"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Decoder reduces callbacks' payloads to the guarded values that the policy keeps, each
// from the path in the policy.
type Decoder struct {
	appKey    string // ours; a payload for another app is refused
	sources   map[lifecycle.Field]string
	allowed   *node
	dropHosts []string // an avatar on these hosts, or below, is not kept
}

// NewDecoder returns the decoder of a policy. The value of a field that is off is not
// read: its name is recorded with those of everything else that is not kept.
func NewDecoder(p *policy.Policy) Decoder {
	d := Decoder{appKey: p.App.Key, sources: map[lifecycle.Field]string{}, allowed: &node{}}
	d.allowed.allow(pathEvent, true)
	d.allowed.allow(pathKey, true)
	for _, f := range p.Fields {
		d.sources[f.Name] = f.Source
		d.allowed.allow(f.Source, !f.Off)
		if f.Name == lifecycle.AvatarURL {
			d.dropHosts = f.DropHosts
		}
	}
	return d
}

// Payload is what is kept of a callback. Everything else was dropped while
// reading; Dropped holds the names of what that was, and no value.
type Payload struct {
	ClientKey     lifecycle.Secret
	SharedSecret  lifecycle.Secret // empty in uninstalled
	PrincipalUUID lifecycle.Secret // lower case, no braces
	Username      lifecycle.Secret // empty for a person
	AvatarURL     lifecycle.Secret // may be empty
	Dropped       []string         // dotted paths, sorted, at most maxDropped
}

// Values returns the guarded values that are present.
func (p Payload) Values() lifecycle.Values {
	out := lifecycle.Values{}
	for f, v := range map[lifecycle.Field]lifecycle.Secret{lifecycle.ClientKey: p.ClientKey, lifecycle.SharedSecret: p.SharedSecret,
		lifecycle.PrincipalUUID: p.PrincipalUUID, lifecycle.Username: p.Username, lifecycle.AvatarURL: p.AvatarURL} {
		if !v.Empty() {
			out[f] = v
		}
	}
	return out
}

// Bounds of what is read, many times what was ever captured. Those of the values are in lifecycle.FieldSpec.
const (
	maxDepth   = 16
	maxDropped = 64
)

// Members that name the callback; they are read and not kept.
const (
	pathEvent = "eventType"
	pathKey   = "key"
)

// node is one place of the allow-list: a leaf, or an object with places below. It is
// matched member by member, so that a key with a dot in it is never taken for a
// nested one.
type node struct {
	below map[string]*node
	read  bool // it, or something below it, is read; else only its name is known
}

// allow enters a path. Load has checked that no path is on the way to another.
func (n *node) allow(path string, read bool) {
	for _, name := range strings.Split(path, ".") {
		if n.below == nil {
			n.below = map[string]*node{}
		}
		if n.below[name] == nil {
			n.below[name] = &node{}
		}
		n = n.below[name]
		n.read = n.read || read
	}
}

// Installed decodes the payload of an installed callback. Faults are
// payload-invalid with a pointer to each place.
func (d Decoder) Installed(body []byte) (Payload, error) { return d.decode(body, "installed") }

// Uninstalled decodes the payload of an uninstalled callback, which has no
// shared secret. The shape of its values is not checked: nothing of it is stored,
// and an uninstall must always be possible.
func (d Decoder) Uninstalled(body []byte) (Payload, error) { return d.decode(body, "uninstalled") }

func (d Decoder) decode(body []byte, event string) (Payload, error) {
	r := reader{values: map[string]string{}, keeps: event == "installed"}
	if err := r.read(body, d.allowed); err != nil {
		return Payload{}, err
	}
	var p Payload
	p.ClientKey = d.clientKey(&r)
	p.PrincipalUUID = r.principal(d.sources[lifecycle.PrincipalUUID])
	if id, ok := ariWorkspace(p.ClientKey.Reveal()); ok && id != p.PrincipalUUID.Reveal() && !p.PrincipalUUID.Empty() {
		r.fault(d.sources[lifecycle.ClientKey], "does not name the principal's uuid")
	}
	if r.values[pathKey] != d.appKey {
		r.fault(pathKey, "is not this app's key")
	}
	if e, ok := r.values[pathEvent]; ok && e != event {
		r.fault(pathEvent, "is not the event of this address")
	}
	secret := d.sources[lifecycle.SharedSecret]
	if event == "installed" {
		p.SharedSecret = r.required(secret, lifecycle.SharedSecret.Spec().MaxBytes)
	} else if _, ok := r.values[secret]; ok {
		r.drop(secret)
	}
	if r.faults != nil {
		return Payload{}, lifecycle.Fail(lifecycle.PayloadInvalid,
			"The payload is not a Bitbucket "+event+" callback for this app.", r.faults...)
	}
	p.Username = r.username(d.sources[lifecycle.Username])
	p.AvatarURL = d.avatar(&r, d.sources[lifecycle.AvatarURL])
	slices.Sort(r.dropped)
	p.Dropped = slices.Compact(r.dropped)
	return p, nil
}

// clientKey takes "connection:<n>", "ari:cloud:bitbucket::app/{uuid}/<app-key>"
// for this app, and, since the forms are not documented, any other but an ari
// that is not ours.
func (d Decoder) clientKey(r *reader) lifecycle.Secret {
	source := d.sources[lifecycle.ClientKey]
	s := r.required(source, lifecycle.ClientKey.Spec().MaxBytes)
	if strings.HasPrefix(s.Reveal(), "ari:") {
		_, app, _ := strings.Cut(strings.TrimPrefix(s.Reveal(), ariPrefix), "}/")
		if _, ok := ariWorkspace(s.Reveal()); !ok || app != d.appKey {
			r.fault(source, "is not an installation of this app")
		}
	}
	return s
}

const ariPrefix = "ari:cloud:bitbucket::app/{"

// ariWorkspace returns the uuid in a registered app's client key.
func ariWorkspace(clientKey string) (string, bool) {
	rest, ok := strings.CutPrefix(clientKey, ariPrefix)
	if !ok {
		return "", false
	}
	id, _, ok := strings.Cut(rest, "}/")
	if !ok {
		return "", false
	}
	return canonicalUUID(id)
}

// canonicalUUID takes a uuid with or without braces.
func canonicalUUID(s string) (string, bool) {
	if len(s) == 38 && s[0] == '{' && s[37] == '}' {
		s = s[1:37]
	}
	if len(s) != 36 {
		return "", false
	}
	id, err := uuid.Parse(s)
	return id.String(), err == nil
}

func (r *reader) principal(source string) lifecycle.Secret {
	s := r.required(source, lifecycle.PrincipalUUID.Spec().MaxBytes)
	if s.Empty() {
		return s
	}
	id, ok := canonicalUUID(s.Reveal())
	if !ok {
		r.fault(source, "is not a uuid")
		return lifecycle.Secret{}
	}
	return lifecycle.NewSecret(id)
}

// username is a workspace's slug. One that looks like an e-mail address or a telephone
// number is not kept: we promise to have none.
func (r *reader) username(source string) lifecycle.Secret {
	s := r.values[source]
	if s == "" {
		return lifecycle.Secret{}
	}
	if len(s) > lifecycle.Username.Spec().MaxBytes || strings.Contains(s, "@") || !printable(s) || contact(s) {
		r.drop(source)
		return lifecycle.Secret{}
	}
	return lifecycle.NewSecret(s)
}

// avatar keeps an https address on a host that is not on the policy's list (a
// gravatar's address is a hash of the person's e-mail) and with no e-mail address and
// no telephone number in it. It is checked in its decoded form, however often it was
// encoded. An address with a query or a fragment is dropped whole: those have
// identifiers, other hosts' addresses (Bitbucket wraps them so), or an e-mail.
func (d Decoder) avatar(r *reader, source string) lifecycle.Secret {
	s := r.values[source]
	if s == "" {
		return lifecycle.Secret{}
	}
	u, err := url.Parse(s)
	plain, decoded := fullyDecoded(s)
	keep := err == nil && decoded && u.Scheme == "https" && u.Host != "" && u.User == nil &&
		len(s) <= lifecycle.AvatarURL.Spec().MaxBytes && printable(plain) && !strings.ContainsAny(plain, "@?#") && !contact(plain)
	for _, h := range d.dropHosts {
		keep = keep && !strings.Contains(strings.ToLower(plain), strings.ToLower(h))
	}
	if !keep {
		r.drop(source)
		return lifecycle.Secret{}
	}
	return lifecycle.NewSecret(s)
}

// fullyDecoded undoes percent-encoding until nothing changes, or gives up.
func fullyDecoded(s string) (string, bool) {
	for range 8 {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return "", false
		}
		if plain == s {
			return s, true
		}
		s = plain
	}
	return "", false
}

// contact reports whether a value looks like an e-mail address or a telephone number,
// as it is or once decoded.
func contact(s string) bool {
	plain, decoded := fullyDecoded(s)
	return contactdata.Contact(s) || decoded && contactdata.Contact(plain)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// reader walks a payload and remembers only what the allow-list names.
type reader struct {
	values  map[string]string
	keeps   bool // what is read will be stored
	dropped []string
	faults  []lifecycle.Option
}

func (r *reader) fault(path, detail string) {
	r.faults = append(r.faults, lifecycle.At("/"+strings.ReplaceAll(path, ".", "/"), detail))
}

// required takes what an installation cannot do without, so that a value that must not
// be stored is a fault and not merely left out.
func (r *reader) required(path string, limit int) lifecycle.Secret {
	s := r.values[path]
	switch {
	case s == "":
		r.fault(path, "is required")
	case len(s) > limit || !printable(s):
		r.fault(path, "is too long or has control characters")
	case r.keeps && contact(s):
		r.fault(path, "is shaped like an e-mail address or a telephone number, and none is kept")
		r.faults = append(r.faults, lifecycle.Because("contact-data"))
	default:
		return lifecycle.NewSecret(s)
	}
	return lifecycle.Secret{}
}

func errPayload(detail string) error {
	return lifecycle.Fail(lifecycle.PayloadInvalid, detail)
}

// read takes exactly one JSON object.
func (r *reader) read(body []byte, allowed *node) error {
	if !utf8.Valid(body) {
		return errPayload("The payload is not UTF-8.")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errPayload("The payload is not a JSON object.")
	}
	if err := r.object(d, allowed, "", 1); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errPayload("The payload has something after its JSON object.")
	}
	return nil
}

// object reads members up to the closing brace.
func (r *reader) object(d *json.Decoder, at *node, prefix string, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return errPayload("The payload is not well-formed JSON.")
		}
		below, known := at.below[name]
		switch {
		case seen[name]:
			return errPayload("The payload names a key twice.")
		case !known:
			r.drop(prefix + plainName(name))
			err = skip(d, depth)
		case below.below == nil && !below.read:
			seen[name] = true
			r.drop(prefix + name)
			err = skip(d, depth)
		case below.below == nil:
			seen[name] = true
			err = r.leaf(d, prefix+name, depth)
		default:
			seen[name] = true
			err = r.branch(d, below, prefix+name, depth)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return errPayload("The payload is not well-formed JSON.")
	}
	return nil
}

// leaf takes a string; null counts as absent.
func (r *reader) leaf(d *json.Decoder, path string, depth int) error {
	t, err := d.Token()
	if err != nil {
		return errPayload("The payload is not well-formed JSON.")
	}
	switch v := t.(type) {
	case string:
		r.values[path] = v
	case nil:
	case json.Delim:
		r.fault(path, "must be a string")
		return skipRest(d, v, depth)
	default:
		r.fault(path, "must be a string")
	}
	return nil
}

// branch descends into an object on the way to an allowed leaf. What should be one and
// is not is a fault, unless nothing below it is read.
func (r *reader) branch(d *json.Decoder, at *node, path string, depth int) error {
	t, err := d.Token()
	if err != nil || depth >= maxDepth {
		return errPayload("The payload is not well-formed JSON, or nested too deeply.")
	}
	if t == json.Delim('{') {
		return r.object(d, at, path+".", depth+1)
	}
	switch {
	case t == nil:
	case at.read:
		r.fault(path, "must be an object")
	default:
		r.drop(path)
	}
	if delim, ok := t.(json.Delim); ok {
		return skipRest(d, delim, depth)
	}
	return nil
}

// skip reads one value of any kind and forgets it.
func skip(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return errPayload("The payload is not well-formed JSON.")
	}
	if delim, ok := t.(json.Delim); ok {
		return skipRest(d, delim, depth)
	}
	return nil
}

// skipRest reads up to the delimiter that closes the opened one.
func skipRest(d *json.Decoder, opened json.Delim, depth int) error {
	if opened != '{' && opened != '[' {
		return errPayload("The payload is not well-formed JSON.")
	}
	for open := 1; open > 0; {
		t, err := d.Token()
		if err != nil {
			return errPayload("The payload is not well-formed JSON.")
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
		if depth+open > maxDepth {
			return errPayload("The payload is nested too deeply.")
		}
	}
	return nil
}

func (r *reader) drop(path string) {
	if len(r.dropped) < maxDropped {
		r.dropped = append(r.dropped, path)
	}
}

var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,39}$`)

// plainName keeps a key that looks like one. Anything else could be a value in a
// key's place, and is recorded as "other".
func plainName(s string) string {
	if nameForm.MatchString(s) {
		return s
	}
	return "other"
}
