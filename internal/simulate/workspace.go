package simulate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

// workspace is an invented customer.
type workspace struct {
	uuid, username string

	mu     sync.Mutex
	secret string // as Bitbucket holds it
	tenant string // the service's id, once looked up
	last   delivery
	issued time.Time // of its newest token: Bitbucket's never go back
}

// issue returns the iat of the workspace's next token. The caller holds mu.
func (w *workspace) issue() time.Time {
	if now := time.Now(); now.After(w.issued) {
		w.issued = now
	}
	return w.issued
}

// currentSecret returns the secret as Bitbucket holds it.
func (w *workspace) currentSecret() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secret
}

func invent() *workspace {
	return &workspace{uuid: uuid.NewString(), username: randomName(), secret: rand.Text()}
}

// clientKeyPrefix is what a client key begins with, before the workspace's uuid.
const clientKeyPrefix = "ari:cloud:bitbucket::app/{"

func (w *workspace) clientKey(app string) string {
	return clientKeyPrefix + w.uuid + "}/" + app
}

// delivery is one callback on the wire.
type delivery struct {
	path, token string
	body        []byte
}

// payload has the captured form, with all the surplus Bitbucket sends.
func (w *workspace) payload(event, app, secret string) []byte {
	link := func(path string) map[string]string { return map[string]string{"href": "https://bitbucket.org/" + path} }
	principal := map[string]any{
		"type": "team", "uuid": "{" + w.uuid + "}", "username": w.username, "display_name": "Invented " + w.username,
		"is_active": true, "has_2fa_enabled": nil, "created_on": "2020-01-02T03:04:05.678901+00:00", "properties": map[string]any{},
		"links": map[string]any{
			"self": link("2.0/teams/" + w.username), "html": link(w.username), "avatar": link("account/" + w.username + "/avatar/"),
		},
	}
	m := map[string]any{
		"productType": "bitbucket", "eventType": event, "key": app,
		"baseUrl": "https://bitbucket.org", "baseApiUrl": "https://api.bitbucket.org",
		"clientKey": w.clientKey(app), "publicKey": "MIGfMA0invented", "principal": principal, "user": principal,
	}
	if event == "installed" {
		m["sharedSecret"] = secret
		m["actor"] = map[string]any{"type": "user", "uuid": uuid.NewString(), "account_id": "5b0000000000000000000001"}
	}
	b, err := json.Marshal(m)
	if err != nil { // strings and maps always encode
		return nil
	}
	return b
}

// tokenClaims are a callback's, as captured: aud = iss = clientKey, an hour long.
func tokenClaims(clientKey, path, base string, now time.Time) connect.Claims {
	return connect.Claims{
		Issuer: lifecycle.NewSecret(clientKey), Audience: lifecycle.NewSecret(clientKey),
		IssuedAt: now, ExpiresAt: now.Add(time.Hour), QSH: connect.QSH(http.MethodPost, base+path, base),
	}
}

func mint(c connect.Claims, secret string) string {
	t, err := connect.Mint(c, lifecycle.NewSecret(secret))
	if err != nil { // only a secret of no bytes could fail
		return ""
	}
	return t.Reveal()
}

// handMade builds tokens that no honest library makes: another algorithm, or none.
func handMade(alg string, c connect.Claims, secret string) string {
	segment := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := segment(map[string]string{"alg": alg, "typ": "JWT"}) + "." + segment(map[string]any{
		"iss": c.Issuer.Reveal(), "aud": c.Issuer.Reveal(), "iat": c.IssuedAt.Unix(), "exp": c.ExpiresAt.Unix(), "qsh": c.QSH,
	})
	if alg == "none" {
		return signed + "."
	}
	m := hmac.New(sha512.New, []byte(secret))
	fmt.Fprint(m, signed)
	return signed + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
