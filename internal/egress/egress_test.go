package egress_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

func declared(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func guard(t testing.TB, p *policy.Policy) *egress.Guard {
	t.Helper()
	g, err := egress.New(p, lifecycle.ToEndService, "https://trakr.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func values(marker string) lifecycle.Values {
	id := uuid.NewString()
	return lifecycle.Values{
		lifecycle.ClientKey:     lifecycle.NewSecret("ari:cloud:bitbucket::app/{" + id + "}/trakr"),
		lifecycle.SharedSecret:  lifecycle.NewSecret("secret-" + marker),
		lifecycle.PrincipalUUID: lifecycle.NewSecret(id),
		lifecycle.Username:      lifecycle.NewSecret("user-" + marker),
		lifecycle.AvatarURL:     lifecycle.NewSecret("https://bitbucket.org/account/av-" + marker + "/avatar/"),
	}
}

func event(g *egress.Guard, k egress.Kind, tenant lifecycle.TenantID, v lifecycle.Values) egress.Event {
	return egress.Event{ID: uuid.NewString(), Kind: k, Time: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), Sequence: 7, Data: g.Data(k, tenant, v)}
}

func TestWhatThePolicyReleasesLeavesAndNothingElse(t *testing.T) {
	g, held, tenant := guard(t, declared(t)), values("plain"), lifecycle.NewTenantID()
	b, err := g.Encode(event(g, egress.Installed, tenant, held), held)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		SpecVersion, Type, Source, Subject, Sequence string
		Data                                         map[string]string
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"tenant_id": tenant.String(), "client_key": held[lifecycle.ClientKey].Reveal(), "app_key": "trakr", "app_name": "Trakr"}
	if len(got.Data) != len(want) || got.SpecVersion != "1.0" || got.Type != "com.trakr.tenant.installed" || got.Subject != tenant.String() || got.Sequence != "0000000007" {
		t.Errorf("%s", b.Bytes())
	}
	for k, v := range want {
		if got.Data[k] != v {
			t.Errorf("%s is missing or another", k)
		}
	}
	if !slices.Equal(b.Fields(), []lifecycle.Field{lifecycle.ClientKey}) {
		t.Errorf("it says that it discloses %v", b.Fields())
	}
	again, err := g.Review(b.Bytes())
	if err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) || !slices.Equal(again.Fields(), b.Fields()) {
		t.Errorf("reviewed: %v, %v", again.Fields(), err)
	}
	gone, err := g.Encode(event(g, egress.Erased, tenant, held), nil)
	if err != nil || len(gone.Fields()) != 0 || bytes.Contains(gone.Bytes(), []byte("plain")) || bytes.Contains(gone.Bytes(), []byte("app_key")) {
		t.Errorf("an erasure says %s, %v", gone.Bytes(), err)
	}
}

func TestAQueuedEventIsJudgedByThePolicyOfNow(t *testing.T) {
	p := declared(t)
	g, held := guard(t, p), values("later")
	b, err := g.Encode(event(g, egress.Changed, lifecycle.NewTenantID(), held), held)
	if err != nil {
		t.Fatal(err)
	}
	p.Fields[0].Egress = nil
	if p.Fields[0].Name != lifecycle.ClientKey {
		t.Fatal("the first field is another one")
	}
	if _, err := g.Review(b.Bytes()); err == nil {
		t.Error("the policy took the release back, and it would still leave")
	}
	p = declared(t)
	for i := range p.Egress {
		p.Egress[i].Details = nil
	}
	if _, err := guard(t, p).Review(b.Bytes()); err == nil {
		t.Error("the policy took the app's details back, and they would still leave")
	}
	for name, broken := range map[string]string{
		"a member twice":  strings.Replace(string(b.Bytes()), `"data":{`, `"data":{"app_key":"x",`, 1),
		"an unknown one":  strings.Replace(string(b.Bytes()), `"data":{`, `"data":{"email":"x",`, 1),
		"outside of data": strings.Replace(string(b.Bytes()), `{"spec`, `{"email":"x","spec`, 1),
		"another type":    strings.Replace(string(b.Bytes()), "tenant.changed", "tenant.read", 1),
		"nothing":         "",
	} {
		if _, err := g.Review([]byte(broken)); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

func TestOnlyDeclaredHostsAreToldAnything(t *testing.T) {
	p := declared(t)
	for address, ok := range map[string]bool{"https://api.trakr.example.com/hook": true, "https://API.trakr.example.com.:8443": true, "http://127.0.0.1:9/x": true, "http://localhost": true,
		"http://[::1]:1": true, "https://trakr.example.com": false, "https://evil.example/api.trakr.example.com": false, "https://api.trakr.example.com@evil.example": false,
		"https://api.bitbucket.org": false, "": false, ":": false, "https://127.0.0.1.evil.example": false} {
		if err := egress.Host(p, lifecycle.ToEndService, address); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := egress.Host(p, lifecycle.ToFindings, "https://api.trakr.example.com"); err == nil {
		t.Error("a host that is declared for another destination was taken")
	}
	if err := egress.Host(p, lifecycle.ToEndService, "https://evil.example/marker?token=marker"); err == nil || strings.Contains(err.Error(), "marker") || !strings.Contains(err.Error(), "evil.example") {
		t.Errorf("%v", err)
	}
}

// spellings are ways in which a value can stand in an event.
var spellings = map[string]func(string) string{
	"plain": func(s string) string { return s }, "upper": strings.ToUpper, "within": func(s string) string { return "see " + s + "!" }, "query": url.QueryEscape,
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }, "base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"hex": func(s string) string { return hex.EncodeToString([]byte(s)) }, "no dashes": func(s string) string { return strings.ReplaceAll(s, "-", "") },
	"json": func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"code points": func(s string) string {
		var b strings.Builder
		for _, r := range s {
			b.WriteString(`\u00` + hex.EncodeToString([]byte{byte(r)}))
		}
		return b.String()
	},
}

// leaks names a field that the policy does not release and that stands in the bytes, in
// any spelling: also inside of a value that it does release. Only the words that every
// client key has, our own app's key in it, and a uuid in it that the policy declares are
// nobody's values.
func leaks(body []byte, p *policy.Policy, held lifecycle.Values) string {
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	text, key := string(body), held[lifecycle.ClientKey].Reveal()
	end, _ := p.Destination(lifecycle.ToEndService)
	if own := strings.TrimPrefix(strings.TrimPrefix(key, "ari:cloud:bitbucket::app/{"), "connection:"); p.Releases(lifecycle.ClientKey, lifecycle.ToEndService) {
		own = strings.TrimSuffix(own, "}/trakr")
		if end.CarriesWorkspace() && strings.HasPrefix(key, "ari:") {
			own = strings.TrimPrefix(own, held[lifecycle.PrincipalUUID].Reveal())
		}
		text = strings.ReplaceAll(text, quoted(key), quoted(own))
	}
	for f, v := range held {
		if p.Releases(f, lifecycle.ToEndService) {
			continue
		}
		for name, spell := range spellings {
			look := spell(v.Reveal())
			if name != "within" && name != "json" && !(name == "no dashes" && letters(look) < 8) && strings.Contains(strings.ToLower(text), strings.ToLower(look)) {
				return string(f) + " " + name
			}
		}
	}
	return ""
}

// letters counts letters and digits: few of them are chance once the rest is taken out.
func letters(s string) (n int) {
	for _, r := range s {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			n++
		}
	}
	return n
}

// anyValues are a tenant's: client keys in the forms that the decoder takes, and values
// that may stand within each other.
func anyValues(t *rapid.T) lifecycle.Values {
	id := uuid.NewString()
	marker := rapid.StringMatching(`[a-zA-Z0-9 .&<>"äß-]{12,20}`).Draw(t, "marker")
	name := rapid.OneOf(rapid.Just("user-"+marker), rapid.StringMatching(`[a-z]{2}[0-9]{2}[q-z_.-]{3,9}`)).Draw(t, "username")
	out := lifecycle.Values{lifecycle.SharedSecret: lifecycle.NewSecret("secret-" + marker), lifecycle.PrincipalUUID: lifecycle.NewSecret(id), lifecycle.Username: lifecycle.NewSecret(name)}
	// What another value may be made of.
	within := func(of ...string) string {
		inner := rapid.SampledFrom(append(of, "nothing-else")).Draw(t, "within")
		return spellings[rapid.SampledFrom([]string{"plain", "upper", "within", "query", "no dashes"}).Draw(t, "as")](inner)
	}
	out[lifecycle.AvatarURL] = lifecycle.NewSecret("https://bitbucket.org/account/" + within(name, id, marker) + "/avatar/")
	secret, avatar := out[lifecycle.SharedSecret].Reveal(), out[lifecycle.AvatarURL].Reveal()
	var key string
	switch rapid.IntRange(0, 5).Draw(t, "client key") {
	case 0, 1, 2:
		key = "ari:cloud:bitbucket::app/{" + id + "}/trakr"
	case 3:
		key = "connection:" + rapid.StringMatching(`[1-9][0-9]{0,8}`).Draw(t, "number")
	case 4:
		key = "connection:" + within(name, id, secret, avatar)
	default:
		key = "ari:cloud:bitbucket::app/{" + id + "}/trakr" + within(name, secret, avatar)
	}
	out[lifecycle.ClientKey] = lifecycle.NewSecret(key)
	return out
}

// A client key's uuid leaves where the policy declares it, or releases the uuid, and
// nowhere else: neither at the entering nor out of the queue.
func TestTheWorkspaceInAClientKeyLeavesOnlyAsDeclared(t *testing.T) {
	held, tenant := values("carry"), lifecycle.NewTenantID()
	held[lifecycle.Username] = lifecycle.NewSecret("a-b-c") // short, so that nothing but its bytes tells
	with := func(change func(*policy.Policy, *policy.Egress)) *egress.Guard {
		p := declared(t)
		p.Fields = slices.Clone(p.Fields)
		for i := range p.Egress {
			if p.Egress[i].To == lifecycle.ToEndService {
				change(p, &p.Egress[i])
			}
		}
		return guard(t, p)
	}
	release := func(p *policy.Policy, f lifecycle.Field) {
		for i := range p.Fields {
			if p.Fields[i].Name == f {
				p.Fields[i].Egress = append(slices.Clone(p.Fields[i].Egress), lifecycle.ToEndService)
			}
		}
	}
	sound := with(func(*policy.Policy, *policy.Egress) {})
	queued, err := sound.Encode(event(sound, egress.Installed, tenant, held), held)
	if err != nil {
		t.Fatal(err)
	}
	undeclared := with(func(_ *policy.Policy, e *policy.Egress) { e.Carries = []string{"the workspace's uuid"} })
	if _, err := undeclared.Encode(event(undeclared, egress.Installed, tenant, held), held); err == nil {
		t.Error("the uuid left in the client key, and the policy declares no such thing")
	}
	if _, err := undeclared.Review(queued.Bytes()); err == nil {
		t.Error("it left out of the queue")
	}
	old := maps.Clone(held)
	old[lifecycle.ClientKey] = lifecycle.NewSecret("connection:1234567")
	if _, err := undeclared.Encode(event(undeclared, egress.Installed, tenant, old), old); err != nil {
		t.Errorf("a key with no uuid in it: %v", err)
	}
	released := with(func(p *policy.Policy, e *policy.Egress) { e.Carries = nil; release(p, lifecycle.PrincipalUUID) })
	if _, err := released.Encode(event(released, egress.Installed, tenant, held), held); err != nil {
		t.Errorf("the uuid itself is released: %v", err)
	}
	// The declaration is about the client key, and about no other value and no other field.
	avatar := with(func(p *policy.Policy, _ *policy.Egress) { release(p, lifecycle.AvatarURL) })
	with36 := maps.Clone(held)
	with36[lifecycle.AvatarURL] = lifecycle.NewSecret("https://bitbucket.org/workspaces/%7B" + strings.ToUpper(held[lifecycle.PrincipalUUID].Reveal()) + "%7D/avatar")
	if _, err := avatar.Encode(event(avatar, egress.Installed, tenant, with36), with36); err == nil {
		t.Error("the uuid left in the avatar")
	}
	for f, v := range held {
		for name, key := range map[string]string{"old": "connection:" + v.Reveal(), "other": "x" + v.Reveal() + "x", "app": held[lifecycle.ClientKey].Reveal() + v.Reveal(), "encoded": "connection:" + url.PathEscape(v.Reveal()), "upper": "connection:" + strings.ToUpper(v.Reveal())} {
			if f == lifecycle.ClientKey {
				continue
			}
			bad := maps.Clone(held)
			bad[lifecycle.ClientKey] = lifecycle.NewSecret(key)
			if _, err := sound.Encode(event(sound, egress.Installed, tenant, bad), bad); err == nil || strings.Contains(err.Error(), v.Reveal()) {
				t.Errorf("%s in a client key (%s): %v", f, name, err)
			}
		}
	}
	// A workspace may be called as every key begins, or as its uuid happens to go on.
	for _, name := range []string{"bitbucket", "cloud", "trakr", held[lifecycle.PrincipalUUID].Reveal()[9:13]} {
		chance := maps.Clone(held)
		chance[lifecycle.Username] = lifecycle.NewSecret(name)
		if _, err := sound.Encode(event(sound, egress.Installed, tenant, chance), chance); err != nil {
			t.Errorf("a workspace called %s cannot be told of: %v", name, err)
		}
	}
}

// Whatever is put into an event, and whatever the policy says: no byte of a value that
// the policy does not release leaves.
func TestNoValueLeavesThatThePolicyDoesNotRelease(t *testing.T) {
	passed, refused, disclosed := 0, 0, 0
	base := declared(t)
	rapid.Check(t, func(t *rapid.T) {
		its := *base
		its.Fields, its.Egress = slices.Clone(base.Fields), slices.Clone(base.Egress)
		p := &its
		for i := range p.Fields {
			p.Fields[i].Egress = nil
			if p.Fields[i].Name != lifecycle.SharedSecret && rapid.Bool().Draw(t, "released") {
				p.Fields[i].Egress = []lifecycle.Destination{lifecycle.ToEndService}
			}
		}
		for i := range p.Egress {
			if p.Egress[i].To == lifecycle.ToEndService {
				p.Egress[i].Carries = rapid.SampledFrom([][]string{nil, {policy.CarriesWorkspace}, {"the workspace's uuid"}}).Draw(t, "carries")
				p.Egress[i].Details = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"app_key", "app_name", "email"}), rapid.ID).Draw(t, "details")
			}
		}
		g, err := egress.New(p, lifecycle.ToEndService, "https://trakr.example.com")
		if err != nil {
			t.Fatal(err)
		}
		held := anyValues(t)
		planted := rapid.Custom(func(t *rapid.T) string {
			f := rapid.SampledFrom(lifecycle.Fields()).Draw(t, "field")
			names := []string{}
			for n := range spellings {
				names = append(names, n)
			}
			slices.Sort(names)
			return spellings[rapid.SampledFrom(names).Draw(t, "spelling")](held[f].Reveal())
		})
		e := event(g, rapid.SampledFrom(egress.Kinds()).Draw(t, "kind"), lifecycle.NewTenantID(), held)
		for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "members") {
			name := rapid.OneOf(rapid.SampledFrom([]string{"tenant_id", "client_key", "shared_secret", "principal_uuid", "username", "avatar_url", "app_key", "app_name", "email", "Client_Key", ""}), planted).Draw(t, "name")
			switch rapid.IntRange(0, 3).Draw(t, "mistake") {
			case 0: // a value under some field's name
				e.Data[string(rapid.SampledFrom(lifecycle.Fields()).Draw(t, "under"))] = held[rapid.SampledFrom(lifecycle.Fields()).Draw(t, "value of")]
			case 1: // one of the tenant's ids in place of ours
				e.Data["tenant_id"] = rapid.SampledFrom([]string{held[lifecycle.PrincipalUUID].Reveal(), held[lifecycle.Username].Reveal()}).Draw(t, "named by")
			default:
				e.Data[name] = member(held, planted, 3).Draw(t, "value")
			}
		}
		switch rapid.IntRange(0, 9).Draw(t, "id") {
		case 0:
			e.ID = planted.Draw(t, "planted id")
		case 1:
			e.Kind = egress.Kind(planted.Draw(t, "planted kind"))
		case 2:
			e.ID = held[lifecycle.PrincipalUUID].Reveal()
		}
		b, err := g.Encode(e, held)
		if err == nil && len(b.Fields()) > 0 {
			disclosed++
		}
		if err != nil {
			refused++
			for _, v := range held {
				if strings.Contains(err.Error(), v.Reveal()) {
					t.Fatal("the refusal holds a value")
				}
			}
			return
		}
		passed++
		if what := leaks(b.Bytes(), p, held); what != "" {
			t.Fatalf("%s leaves", what)
		}
		for _, f := range b.Fields() {
			if !p.Releases(f, lifecycle.ToEndService) {
				t.Fatalf("%s is disclosed", f)
			}
		}
		if again, err := g.Review(b.Bytes()); err != nil || !slices.Equal(again.Fields(), b.Fields()) {
			t.Fatalf("what was made is not taken back: %v", err)
		}
	})
	if passed == 0 || refused == 0 || disclosed == 0 {
		t.Errorf("%d events passed, %d of them with a value, and %d were refused: the property says nothing", passed, disclosed, refused)
	}
}

// member is anything that somebody could put into an event.
func member(held lifecycle.Values, planted *rapid.Generator[string], depth int) *rapid.Generator[any] {
	kinds := []*rapid.Generator[any]{
		rapid.Map(planted, func(s string) any { return s }),
		rapid.Map(planted, func(s string) any { return lifecycle.NewSecret(s) }),
		rapid.Map(planted, func(s string) any { return []byte(s) }),
		rapid.Map(planted, func(s string) any { return json.RawMessage(`"` + s + `"`) }),
		rapid.Map(rapid.SampledFrom(lifecycle.Fields()), func(f lifecycle.Field) any { return held[f] }),
		rapid.Map(rapid.SampledFrom(lifecycle.Fields()), func(f lifecycle.Field) any { return held[f].Reveal() }),
		rapid.SampledFrom([]any{nil, true, 1.5, "trakr", "Trakr", uuid.NewString()}),
	}
	if depth > 0 {
		below := rapid.Deferred(func() *rapid.Generator[any] { return member(held, planted, depth-1) })
		kinds = append(kinds,
			rapid.Map(rapid.SliceOfN(below, 0, 3), func(s []any) any { return s }),
			rapid.Map(rapid.MapOfN(planted, below, 0, 3), func(m map[string]any) any { return m }))
	}
	return rapid.OneOf(kinds...)
}

// The number of a connection tells nothing, whatever a workspace is called; what else
// holds a value does.
func TestTheNumberOfAConnectionTellsNothing(t *testing.T) {
	g := guard(t, declared(t))
	for _, c := range []struct {
		key, username string
		leaves        bool
	}{
		{"connection:120245", "2024", true},
		{"connection:2025", "2025", true},
		{"connection:12345678", "12345678", true},
		{"connection:a120245", "2024", false},
		{"connection:2025/2025", "2025", false},
		{"xconnection:2025", "2025", false},
		{"custom-acmeteam-key", "acmeteam", false},
	} {
		held := values("number")
		held[lifecycle.ClientKey], held[lifecycle.Username] = lifecycle.NewSecret(c.key), lifecycle.NewSecret(c.username)
		_, err := g.Encode(event(g, egress.Installed, lifecycle.NewTenantID(), held), held)
		if (err == nil) != c.leaves || err != nil && !errors.Is(err, egress.ErrRefused) {
			t.Errorf("%s of %s: %v", c.key, c.username, err)
		}
	}
}

// A released value that is shaped like contact data leaves neither when it is entered nor
// out of a queue that an earlier version filled.
func TestContactDataNeverLeaves(t *testing.T) {
	g, tenant := guard(t, declared(t)), lifecycle.NewTenantID()
	held := values("contact")
	b, err := g.Encode(event(g, egress.Installed, tenant, held), held)
	if err != nil {
		t.Fatal(err)
	}
	key := held[lifecycle.ClientKey].Reveal()
	for _, contact := range []string{"mrk.smith@example.com", "connection:+442079460958", "mrk.smith%40example.com", "mrk.smith%2540example.com", "+44 20 7946 0958"} {
		held := values("contact")
		held[lifecycle.ClientKey] = lifecycle.NewSecret(contact)
		_, entered := g.Encode(event(g, egress.Installed, tenant, held), held)
		_, queued := g.Review(bytes.Replace(b.Bytes(), []byte(key), []byte(contact), 1))
		for _, err := range []error{entered, queued} {
			if !errors.Is(err, egress.ErrRefused) || !strings.Contains(err.Error(), "the value of client_key is shaped like") || strings.Contains(err.Error(), contact) {
				t.Errorf("%s: %v", contact, err)
			}
		}
	}
}
