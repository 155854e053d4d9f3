package connect_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

const base = "https://app.example.com"

var now = time.Unix(1893456000, 0)

func sign(t testing.TB, m jwt.SigningMethod, claims jwt.MapClaims, key any) string {
	t.Helper()
	s, err := jwt.NewWithClaims(m, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func good() jwt.MapClaims {
	return jwt.MapClaims{"iss": "connection:1", "iat": now.Unix(), "exp": now.Unix() + 3600, "qsh": connect.QSH("POST", "/connect/installed", base)}
}

func inspect(token string) (*connect.Unverified, error) {
	r := httptest.NewRequest(http.MethodPost, "/connect/installed", nil)
	r.Header.Set("Authorization", "JWT "+token)
	return connect.NewVerifier(connect.Config{BaseURL: base, Now: func() time.Time { return now }}).Inspect(r)
}

func TestOnlyHS256IsTaken(t *testing.T) {
	key := []byte("secret")
	for _, m := range []jwt.SigningMethod{jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
		if _, err := inspect(sign(t, m, good(), key)); connect.ReasonOf(err) != connect.Algorithm {
			t.Errorf("%s: %v", m.Alg(), err)
		}
	}
	if _, err := inspect(sign(t, jwt.SigningMethodNone, good(), jwt.UnsafeAllowNoneSignatureType)); connect.ReasonOf(err) != connect.Algorithm {
		t.Errorf("none: %v", err)
	}
	u, err := inspect(sign(t, jwt.SigningMethodHS256, good(), key))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Verify(lifecycle.NewSecret("secret")); err != nil {
		t.Error(err)
	}
	for _, wrong := range []string{"", "secres", "secret "} {
		if err := u.Verify(lifecycle.NewSecret(wrong)); !errors.Is(err, lifecycle.SignatureInvalid) {
			t.Errorf("verified with %q", wrong)
		}
	}
}

func TestTimesAreJudgedToTheSecond(t *testing.T) {
	s := now.Unix()
	for name, c := range map[string]struct {
		claims jwt.MapClaims
		want   connect.Rejection
	}{
		"last second of the leeway":   {jwt.MapClaims{"iat": s - 3600, "exp": s - 29}, ""},
		"leeway is over":              {jwt.MapClaims{"iat": s - 3600, "exp": s - 30}, connect.Expired},
		"iat within the leeway":       {jwt.MapClaims{"iat": s + 30, "exp": s + 3600}, ""},
		"iat beyond it":               {jwt.MapClaims{"iat": s + 31, "exp": s + 3600}, connect.IatFuture},
		"an hour and the leeway":      {jwt.MapClaims{"exp": s + 3630}, ""},
		"longer than that":            {jwt.MapClaims{"exp": s + 3631}, connect.Lifetime},
		"nbf within the leeway":       {jwt.MapClaims{"nbf": s + 30}, ""},
		"nbf beyond it":               {jwt.MapClaims{"nbf": s + 31}, connect.NotYetValid},
		"no iat":                      {jwt.MapClaims{"iat": nil}, connect.MalformedClaim},
		"iat as text":                 {jwt.MapClaims{"iat": "now"}, connect.MalformedClaim},
		"exp as list":                 {jwt.MapClaims{"exp": []int{1}}, connect.MalformedClaim},
		"exp beyond all calendars":    {jwt.MapClaims{"exp": 1e300}, connect.MalformedClaim},
		"negative exp":                {jwt.MapClaims{"exp": -1}, connect.MalformedClaim},
		"iss as number":               {jwt.MapClaims{"iss": 7}, connect.MalformedClaim},
		"iss as object":               {jwt.MapClaims{"iss": map[string]any{"a": 1}}, connect.MalformedClaim},
		"iss null":                    {jwt.MapClaims{"iss": nil}, connect.MalformedClaim},
		"iss empty":                   {jwt.MapClaims{"iss": ""}, connect.IssMissing},
		"qsh as list":                 {jwt.MapClaims{"qsh": []string{"a"}}, connect.MalformedClaim},
		"context-qsh":                 {jwt.MapClaims{"qsh": "context-qsh"}, connect.QSHWrong},
		"aud as number":               {jwt.MapClaims{"aud": 1}, connect.MalformedClaim},
		"aud of several, ours inside": {jwt.MapClaims{"aud": []string{"x", "connection:1"}}, ""},
		"aud empty list":              {jwt.MapClaims{"aud": []string{}}, connect.Aud},
		"kid is not asked for":        {jwt.MapClaims{"kid": "x", "sub": "somebody"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			claims := good()
			for k, v := range c.claims {
				claims[k] = v
			}
			u, err := inspect(sign(t, jwt.SigningMethodHS256, claims, []byte("k")))
			if err == nil {
				err = u.Verify(lifecycle.NewSecret("k"))
			}
			if connect.ReasonOf(err) != c.want {
				t.Errorf("got %q, want %q", connect.ReasonOf(err), c.want)
			}
		})
	}
}

func TestATokenHasOneText(t *testing.T) {
	token := sign(t, jwt.SigningMethodHS256, good(), []byte("k"))
	v := connect.NewVerifier(connect.Config{BaseURL: base, Now: func() time.Time { return now }})
	query := func(text string) *http.Request {
		return httptest.NewRequest(http.MethodPost, "/connect/installed?jwt="+text, nil)
	}
	if u, err := v.Inspect(query(token)); err != nil || u.Verify(lifecycle.NewSecret("k")) != nil {
		t.Fatalf("the token itself is refused: %v", err)
	}
	// Go's base64 skips CR and LF, in Strict mode too: the signature would hold
	// and the hash be another.
	half := len(token) / 2
	for _, extra := range []string{"%0A", "%0D", "%0D%0A", "%20", "%00", "%3D", "%2B", "%2F", "%C3%A9"} {
		for where, text := range map[string]string{"after": token + extra, "before": extra + token, "inside": token[:half] + extra + token[half:]} {
			want := connect.Malformed
			if extra == "%3D" && where == "after" { // padding: a vector asks for this word
				want = connect.Signature
			}
			if _, err := v.Inspect(query(text)); connect.ReasonOf(err) != want {
				t.Errorf("%s %s: %v, want %s", extra, where, err, want)
			}
		}
	}
	if _, err := inspect(token + "\n"); connect.ReasonOf(err) != connect.Malformed {
		t.Errorf("a newline in the header: %v", err)
	}
}

func TestACallbackCarriesItsTokenInTheHeaderAlone(t *testing.T) {
	token := sign(t, jwt.SigningMethodHS256, good(), []byte("k"))
	v := connect.NewVerifier(connect.Config{BaseURL: base, Now: func() time.Time { return now }, HeaderOnly: true})
	if _, err := v.Inspect(httptest.NewRequest(http.MethodPost, "/connect/installed?jwt="+token, nil)); connect.ReasonOf(err) != connect.Carrier {
		t.Errorf("in the query: %v", err)
	}
	r := httptest.NewRequest(http.MethodPost, "/connect/installed", nil)
	if _, err := v.Inspect(r); connect.ReasonOf(err) != connect.NoToken {
		t.Errorf("without one: %v", err)
	}
	r.Header.Set("Authorization", "JWT "+token)
	if _, err := v.Inspect(r); err != nil {
		t.Errorf("in the header: %v", err)
	}
}

func TestTwoTokensAreAnError(t *testing.T) {
	token := sign(t, jwt.SigningMethodHS256, good(), []byte("k"))
	v := connect.NewVerifier(connect.Config{BaseURL: base, Now: func() time.Time { return now }})
	both := httptest.NewRequest(http.MethodPost, "/connect/installed?jwt="+token, nil)
	both.Header.Set("Authorization", "JWT "+token)
	twice := httptest.NewRequest(http.MethodPost, "/connect/installed?jwt="+token+"&jwt="+token, nil)
	headers := httptest.NewRequest(http.MethodPost, "/connect/installed", nil)
	headers.Header["Authorization"] = []string{"JWT " + token, "Bearer x"}
	for name, r := range map[string]*http.Request{"header and query": both, "twice in the query": twice, "two headers": headers} {
		if _, err := v.Inspect(r); connect.ReasonOf(err) != connect.TwoTokens {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalsRepeatNothing(t *testing.T) {
	claims := good()
	for _, k := range []string{"iss", "qsh", "aud", "sub", "exp"} {
		for _, v := range []any{"marker-value", []string{"marker-value"}, map[string]any{"marker-key": "marker-value"}} {
			c := jwt.MapClaims{}
			for k, v := range claims {
				c[k] = v
			}
			c[k] = v
			u, err := inspect(sign(t, jwt.SigningMethodHS256, c, []byte("k")))
			if u != nil {
				err = u.Verify(lifecycle.NewSecret("marker-secret"))
			}
			shown := fmt.Sprintf("%v %+v %#v %+v", err, err, lifecycle.AsFault(err), u)
			if err == nil || strings.Contains(strings.ReplaceAll(shown, "compact", ""), "marker") {
				t.Errorf("%s=%v: %s", k, v, shown)
			}
		}
	}
}

func payload(changes map[string]any) []byte {
	m := map[string]any{
		"productType": "bitbucket", "eventType": "installed", "key": "trakr", "baseUrl": "https://bitbucket.org", "baseApiUrl": "https://api.bitbucket.org",
		"clientKey":    "ari:cloud:bitbucket::app/{0a1b2c3d-0000-4000-8000-00000000a001}/trakr",
		"sharedSecret": "invented-secret-value", "publicKey": "MARKER-publickey",
		"actor": map[string]any{"type": "user", "uuid": "MARKER-actor", "account_id": "MARKER-account"},
		"principal": map[string]any{"type": "team", "uuid": "{0A1B2C3D-0000-4000-8000-00000000a001}", "username": "example-ws",
			"display_name": "MARKER-name", "email": "MARKER@example.com", "phone": "MARKER-phone", "properties": map[string]any{},
			"links": map[string]any{"self": map[string]any{"href": "https://MARKER"}, "avatar": map[string]any{"href": "https://bitbucket.org/account/example-ws/avatar/", "name": "MARKER"}}},
		"user":               map[string]any{"display_name": "MARKER-user"},
		"MARKER@example.com": "a value in a key's place",
	}
	for path, v := range changes {
		steps := strings.Split(path, ".")
		at := m
		for _, s := range steps[:len(steps)-1] {
			next, ok := at[s].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[s] = next
			}
			at = next
		}
		if v == nil {
			delete(at, steps[len(steps)-1])
		} else {
			at[steps[len(steps)-1]] = v
		}
	}
	b, _ := json.Marshal(m)
	return b
}

var decoder = connect.NewDecoder(builtIn())

func builtIn() *policy.Policy {
	p, err := policy.Default()
	if err != nil {
		panic(err)
	}
	return p
}

func reveal(p connect.Payload) map[lifecycle.Field]string {
	out := map[lifecycle.Field]string{}
	for f, v := range p.Values() {
		out[f] = v.Reveal()
	}
	return out
}

func TestOnlyTheFiveValuesSurviveAndDroppedKeysAreNamed(t *testing.T) {
	p, err := decoder.Installed(payload(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := map[lifecycle.Field]string{
		lifecycle.ClientKey:     "ari:cloud:bitbucket::app/{0a1b2c3d-0000-4000-8000-00000000a001}/trakr",
		lifecycle.SharedSecret:  "invented-secret-value",
		lifecycle.PrincipalUUID: "0a1b2c3d-0000-4000-8000-00000000a001",
		lifecycle.Username:      "example-ws",
		lifecycle.AvatarURL:     "https://bitbucket.org/account/example-ws/avatar/",
	}
	if d := cmp.Diff(want, reveal(p)); d != "" {
		t.Error(d)
	}
	names := []string{"actor", "baseApiUrl", "baseUrl", "other", "principal.display_name", "principal.email", "principal.links.avatar.name",
		"principal.links.self", "principal.phone", "principal.properties", "principal.type", "productType", "publicKey", "user"}
	if d := cmp.Diff(names, p.Dropped); d != "" {
		t.Error(d)
	}
}

func TestPersonalInstallation(t *testing.T) {
	p, err := decoder.Installed(payload(map[string]any{"clientKey": "connection:12", "principal.username": nil, "principal.type": "user",
		"principal.links.avatar.href": "https://secure.gravatar.com/avatar/0123456789abcdef?d=x", "principal.zoneinfo": "MARKER"}))
	if err != nil {
		t.Fatal(err)
	}
	if !p.Username.Empty() || !p.AvatarURL.Empty() || !slices.Contains(p.Dropped, "principal.links.avatar.href") {
		t.Errorf("kept %v, dropped %v: a gravatar address is a hash of an e-mail", reveal(p), p.Dropped)
	}
}

func TestAFieldThatIsOffIsNotReadAndASourceMayMove(t *testing.T) {
	p := builtIn()
	for i := range p.Fields {
		switch p.Fields[i].Name {
		case lifecycle.Username:
			p.Fields[i].Source = "principal.slug"
		case lifecycle.AvatarURL:
			p.Fields[i].Off = true
		}
	}
	d := connect.NewDecoder(p)
	for name, odd := range map[string]any{"a text": "MARKER", "a number": 7, "an object": map[string]any{"x": "MARKER"}, "nothing": nil} {
		got, err := d.Installed(payload(map[string]any{"principal.slug": "from-the-slug", "principal.links.avatar.href": odd}))
		if err != nil {
			t.Errorf("%s in the place of a field that is off: %v", name, err)
			continue
		}
		if got.Username.Reveal() != "from-the-slug" || !got.AvatarURL.Empty() || len(got.Values()) != 4 {
			t.Errorf("%s: kept %v", name, reveal(got))
		}
		if odd != nil && !slices.Contains(got.Dropped, "principal.links.avatar.href") || !slices.Contains(got.Dropped, "principal.username") {
			t.Errorf("%s: dropped %v", name, got.Dropped)
		}
	}
	if got, err := d.Installed(payload(map[string]any{"principal.links": "MARKER"})); err != nil || !slices.Contains(got.Dropped, "principal.links") {
		t.Errorf("no object on the way to what is off: %v %v", got.Dropped, err)
	}
	if _, err := decoder.Installed(payload(map[string]any{"principal.links": "MARKER"})); !errors.Is(err, lifecycle.PayloadInvalid) {
		t.Errorf("no object on the way to what is kept: %v", err)
	}
}

func TestUnusualPayloads(t *testing.T) {
	type want struct{ pointer string } // "" means accepted
	for name, c := range map[string]struct {
		body []byte
		want want
	}{
		"as captured":             {payload(nil), want{}},
		"unknown type":            {payload(map[string]any{"principal.type": "workspace"}), want{}},
		"unknown client key form": {payload(map[string]any{"clientKey": "something-new-7"}), want{}},
		"null avatar":             {payload(map[string]any{"principal.links.avatar.href": nil}), want{}},
		"no secret":               {payload(map[string]any{"sharedSecret": nil}), want{"/sharedSecret"}},
		"empty secret":            {payload(map[string]any{"sharedSecret": ""}), want{"/sharedSecret"}},
		"secret as number":        {payload(map[string]any{"sharedSecret": 7}), want{"/sharedSecret"}},
		"huge secret":             {payload(map[string]any{"sharedSecret": strings.Repeat("MARKER", 500)}), want{"/sharedSecret"}},
		"another app":             {payload(map[string]any{"key": "MARKER"}), want{"/key"}},
		"ari of another app":      {payload(map[string]any{"clientKey": "ari:cloud:bitbucket::app/{0a1b2c3d-0000-4000-8000-00000000a001}/MARKER"}), want{"/clientKey"}},
		"ari of another space":    {payload(map[string]any{"clientKey": "ari:cloud:bitbucket::app/{0a1b2c3d-0000-4000-8000-00000000ffff}/trakr"}), want{"/clientKey"}},
		"ari of Jira":             {payload(map[string]any{"clientKey": "ari:cloud:jira::app/MARKER"}), want{"/clientKey"}},
		"no client key":           {payload(map[string]any{"clientKey": nil}), want{"/clientKey"}},
		"control characters":      {payload(map[string]any{"clientKey": "connection:1\u0000MARKER"}), want{"/clientKey"}},
		"no principal":            {payload(map[string]any{"principal": nil}), want{"/principal/uuid"}},
		"principal as text":       {payload(map[string]any{"principal": "MARKER"}), want{"/principal"}},
		"uuid with a path":        {payload(map[string]any{"principal.uuid": "../MARKER"}), want{"/principal/uuid"}},
		"the other event":         {payload(map[string]any{"eventType": "uninstalled"}), want{"/eventType"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decoder.Installed(c.body)
			if c.want.pointer == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			f := lifecycle.AsFault(err)
			if f.Kind != lifecycle.PayloadInvalid || !slices.ContainsFunc(f.Pointers, func(p lifecycle.Pointer) bool { return p.Pointer == c.want.pointer }) {
				t.Errorf("got %+v, want payload-invalid at %s", f, c.want.pointer)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, f), "MARKER") {
				t.Errorf("repeats what was submitted: %+v", f)
			}
		})
	}
	for name, body := range map[string]string{
		"nothing": "", "a list": "[]", "two objects": "{}{}", "cut short": `{"key":"trakr`, "not UTF-8": "{\"key\":\"\xff\"}", "text": "MARKER",
		"a key twice": `{"clientKey":"a","clientKey":"b"}`, "deep": strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
		"deep list": `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}",
	} {
		if _, err := decoder.Installed([]byte(body)); !errors.Is(err, lifecycle.PayloadInvalid) || strings.Contains(err.Error(), "MARKER") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADottedKeyIsNotANestedOne(t *testing.T) {
	p, err := decoder.Installed([]byte(`{"key":"trakr","clientKey":"connection:1","sharedSecret":"s","principal.links.avatar.href":"https://forged.example/",
		"principal":{"uuid":"0a1b2c3d-0000-4000-8000-00000000a001","username":"real","links.avatar.href":"https://forged.example/"},
		"principal.username":"forged","principal.uuid":"11111111-0000-4000-8000-00000000a001"}`))
	if err != nil || p.PrincipalUUID.Reveal() != "0a1b2c3d-0000-4000-8000-00000000a001" || p.Username.Reveal() != "real" || !p.AvatarURL.Empty() {
		t.Errorf("a forged value was taken: %v, %v", reveal(p), err)
	}
	if d := cmp.Diff([]string{"other", "principal.other"}, p.Dropped); d != "" {
		t.Error(d)
	}
	if _, err := decoder.Installed([]byte(`{"key":"trakr","clientKey":"connection:1","sharedSecret":"s","principal.uuid":"0a1b2c3d-0000-4000-8000-00000000a001"}`)); !errors.Is(err, lifecycle.PayloadInvalid) {
		t.Errorf("a uuid that is not nested was taken: %v", err)
	}
}

func TestAnAvatarHoldsNothingOfAPerson(t *testing.T) {
	for address, kept := range map[string]bool{
		"https://bitbucket.org/account/example-ws/avatar/":               true,
		"https://avatars.example.net/%7B0a1b2c3d%7D/32.png":              true,
		"https://avatars.example.net/2026/11/25/0123456789.png":          true,
		"https://bitbucket.org/account/12345678901/avatar/32/":           true,
		"https://avatars.example.net/jane@example.com":                   false,
		"https://avatars.example.net/?of=jane@example.com":               false,
		"https://avatars.example.net/+44%2020%207946%200958.png":         false,
		"https://avatars.example.net/x/%2B442079460958/32":               false,
		"https://avatars.example.net/212-555-1234":                       false,
		"https://avatars.example.net/jane%40example.com":                 false,
		"https://avatars.example.net/jane%2540example.com":               false,
		"https://avatars.example.net/jane%252540example.com":             false,
		"https://avatars.example.net/a?phone=+491701234567":              false,
		"https://avatars.example.net/a?":                                 false,
		"https://avatars.example.net/a#jane":                             false,
		"https://avatars.example.net/a%3Fphone=1":                        false,
		"https://avatars.example.net/%0Aa":                               false,
		"https://avatars.example.net/%zz":                                false,
		"https://bitbucket.org/proxy/secure.gr%61vatar.com/avatar/012":   false,
		"https://bitbucket.org/proxy/secure.gr%2561vatar.com/avatar/012": false,
		"http://bitbucket.org/account/example-ws/avatar/":                false,
	} {
		p, err := decoder.Installed(payload(map[string]any{"principal.links.avatar.href": address}))
		if err != nil || p.AvatarURL.Empty() == kept || (kept && p.AvatarURL.Reveal() != address) {
			t.Errorf("%s: kept %v, want %v (%v)", address, !p.AvatarURL.Empty(), kept, err)
		}
	}
}

// What an installation cannot do without is refused, and what it can is left out and
// named. The same payload may uninstall: nothing of it is stored.
func TestContactDataIsRefusedOrLeftOut(t *testing.T) {
	for name, value := range map[string]string{
		"an e-mail address": "bob.smith@example.com", "an encoded one": "bob.smith%40example.com", "one encoded twice": "bob.smith%2540example.com", "one in a longer key": "connection:bob.smith@example.com",
		"a number": "+44 20 7946 0958", "an encoded number": "%2B44%2020%207946%200958", "a number in a longer key": "connection:+442079460958", "an American number": "212-555-1234", "one with other spaces": "030\u00a01234567",
	} {
		for path, pointer := range map[string]string{"clientKey": "/clientKey", "sharedSecret": "/sharedSecret", "principal.uuid": "/principal/uuid"} {
			body := payload(map[string]any{path: value})
			_, err := decoder.Installed(body)
			f := lifecycle.AsFault(err)
			if f.Kind != lifecycle.PayloadInvalid || !slices.ContainsFunc(f.Pointers, func(p lifecycle.Pointer) bool { return p.Pointer == pointer }) || strings.Contains(fmt.Sprintf("%v %+v", err, f), value) {
				t.Errorf("%s as %s: %+v", name, path, f)
			}
		}
		if _, err := decoder.Uninstalled(payload(map[string]any{"eventType": "uninstalled", "clientKey": value})); err != nil {
			t.Errorf("%s as the key of one that goes: %v", name, err)
		}
		p, err := decoder.Installed(payload(map[string]any{"principal.username": value}))
		if err != nil || !p.Username.Empty() || !slices.Contains(p.Dropped, "principal.username") {
			t.Errorf("%s as a username: kept %v, dropped %v, %v", name, reveal(p), p.Dropped, err)
		}
	}
	for _, harmless := range []string{"12345678901", "0123456789", "2026-11-25", "25-11-2026", "01-02-2026", "team-42", "r2-d2", "a0000000-0000-4000-8000-000000000001", "connection:12345678901"} {
		p, err := decoder.Installed(payload(map[string]any{"principal.username": harmless, "clientKey": harmless}))
		if err != nil || p.Username.Reveal() != harmless || p.ClientKey.Reveal() != harmless {
			t.Errorf("a false alarm: %q: %v, %v", harmless, reveal(p), err)
		}
	}
}

func TestUninstalledNeedsNoSecretAndKeepsNone(t *testing.T) {
	p, err := decoder.Uninstalled(payload(map[string]any{"eventType": "uninstalled", "sharedSecret": nil, "actor": nil}))
	if err != nil || !p.SharedSecret.Empty() {
		t.Error(err)
	}
	p, err = decoder.Uninstalled(payload(map[string]any{"eventType": "uninstalled"}))
	if err != nil || !p.SharedSecret.Empty() || !slices.Contains(p.Dropped, "sharedSecret") {
		t.Error("an unasked-for secret was kept", err)
	}
}

func TestDescriptorComesFromPolicy(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	b, err := connect.Descriptor(p, base)
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if d["key"] != p.App.Key || d["baseUrl"] != base || d["apiMigrations"] != nil ||
		cmp.Diff(d["scopes"], []any{"account", "webhook"}) != "" || cmp.Diff(d["contexts"], []any{"account"}) != "" ||
		cmp.Diff(d["lifecycle"], map[string]any{"installed": "/connect/installed", "uninstalled": "/connect/uninstalled"}) != "" ||
		cmp.Diff(d["authentication"], map[string]any{"type": "jwt"}) != "" {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{"http://app.example.com", "https://app.example.com/", "https://u:p@app.example.com", "app.example.com", "https://a/?x", ""} {
		if _, err := connect.Descriptor(p, bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzToken(f *testing.F) {
	for _, v := range load[jwtVector](f, "jwt.json") {
		f.Add(v.Token)
	}
	token := sign(f, jwt.SigningMethodHS256, good(), []byte("k"))
	for _, text := range []string{token, token + "\n", token + "=", "\r" + token, strings.Replace(token, ".", "\n.", 1)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, token string) {
		u, err := inspect(token)
		if (u == nil) == (err == nil) {
			t.Fatal("neither taken nor refused")
		}
		if err != nil {
			if connect.ReasonOf(err) == "" || len(err.Error()) > 200 {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		// What is verified must be what was inspected: an independent reading
		// of the segment gives the same issuer.
		if u.Verify(lifecycle.NewSecret("k")) == nil {
			b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
			var c struct{ Iss string }
			if err != nil || json.Unmarshal(b, &c) != nil || c.Iss != u.Issuer.Reveal() {
				t.Fatal("another issuer was verified than was inspected")
			}
			// And a token has one text, so that its hash identifies it: what its
			// segments decode to encodes to the very same text again.
			parts := strings.Split(token, ".")
			for i, p := range parts {
				b, err := base64.RawURLEncoding.DecodeString(p)
				if err != nil {
					t.Fatal(err)
				}
				parts[i] = base64.RawURLEncoding.EncodeToString(b)
			}
			if canonical := strings.Join(parts, "."); canonical != token {
				t.Fatalf("verified under another text than its own: %q", token)
			}
		}
	})
}

func FuzzQSH(f *testing.F) {
	for _, v := range load[qshVector](f, "qsh.json") {
		f.Add(v.Method, v.URL, v.BaseURL)
	}
	f.Fuzz(func(t *testing.T, method, url, baseURL string) {
		c := connect.CanonicalRequest(method, url, baseURL)
		if c != connect.CanonicalRequest(strings.ToUpper(method), url, baseURL) {
			t.Fatal("the method's case counts")
		}
		rest := strings.TrimPrefix(c, strings.ToUpper(method)+"&")
		path, query, ok := strings.Cut(rest, "&")
		if !ok || path == "" || path[0] != '/' {
			t.Fatalf("no path: %q", c)
		}
		for i := range len(query) {
			if c := query[i]; c <= ' ' || c > '~' || strings.IndexByte(`+"<>;/?#[]@!$'()*`, c) >= 0 {
				t.Fatalf("unencoded %q in %q", c, query)
			}
		}
		// A canonical query is a fixed point, values with commas and repeated keys apart.
		if !strings.Contains(query, ",") && !strings.Contains(query, "%2C") {
			if again := connect.CanonicalRequest(method, "/p?"+query, ""); !strings.HasSuffix(again, "&/p&"+query) {
				t.Fatalf("not stable: %q then %q", query, again)
			}
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add(payload(nil))
	f.Add(payload(map[string]any{"clientKey": "connection:12", "principal.username": nil}))
	f.Add([]byte(`{"principal":{"links":{"avatar":{"href":[{}]}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decoder.Installed(body)
		if err != nil {
			if !errors.Is(err, lifecycle.PayloadInvalid) || len(err.Error()) > 300 {
				t.Fatalf("refused as %v", err)
			}
			return
		}
		if p.ClientKey.Empty() || p.SharedSecret.Empty() || len(p.PrincipalUUID.Reveal()) != 36 || strings.Contains(p.Username.Reveal(), "@") ||
			(!p.AvatarURL.Empty() && !strings.HasPrefix(strings.ToLower(p.AvatarURL.Reveal()), "https:")) {
			t.Fatal("an incomplete or undeclared value was kept")
		}
		for _, n := range p.Dropped {
			if len(n) > 200 || strings.ContainsAny(n, "@ {}/:") {
				t.Fatalf("a value may stand among the names: %q", n)
			}
		}
	})
}

func BenchmarkCallbackChecks(b *testing.B) {
	token := sign(b, jwt.SigningMethodHS256, good(), []byte("k"))
	body := payload(nil)
	for b.Loop() {
		u, err := inspect(token)
		if err != nil {
			b.Fatal(err)
		}
		if err := u.Verify(lifecycle.NewSecret("k")); err != nil {
			b.Fatal(err)
		}
		if _, err := decoder.Installed(body); err != nil {
			b.Fatal(err)
		}
	}
}
