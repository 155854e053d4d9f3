package connect

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"trakr/internal/lifecycle"
)

// Limits of a token's times and size.
const (
	Leeway      = 30 * time.Second // for clocks that differ
	MaxLifetime = time.Hour        // Bitbucket's tokens live exactly this long
	maxToken    = 8 << 10          // bytes; captured tokens have 600
)

// Rejection is why a token was refused, one of a closed set.
type Rejection string

// The rejections.
const (
	NoToken        Rejection = "no-token"
	TwoTokens      Rejection = "two-tokens"
	Carrier        Rejection = "carrier"
	Malformed      Rejection = "malformed"
	Algorithm      Rejection = "algorithm"
	IssMissing     Rejection = "iss-missing"
	ExpMissing     Rejection = "exp-missing"
	IatMissing     Rejection = "iat-missing"
	QSHMissing     Rejection = "qsh-missing"
	MalformedClaim Rejection = "malformed-claim"
	Expired        Rejection = "expired"
	IatFuture      Rejection = "iat-future"
	NotYetValid    Rejection = "not-yet-valid"
	Lifetime       Rejection = "lifetime"
	Aud            Rejection = "aud"
	QSHWrong       Rejection = "qsh"
	Signature      Rejection = "signature"
)

// details are the answers to the sender: about the request alone, never about
// which tenants are kept.
var details = map[Rejection]string{
	NoToken:        "A callback carries its token as: Authorization: JWT <token>.",
	TwoTokens:      "The request carries more than one token.",
	Carrier:        "A callback carries its token in the Authorization header only.",
	Malformed:      "The token is not a compact JWS with a JSON object as claims.",
	Algorithm:      "The token's algorithm must be HS256.",
	IssMissing:     "The token has no iss.",
	ExpMissing:     "The token has no exp.",
	IatMissing:     "The token has no iat.",
	QSHMissing:     "The token has no qsh.",
	MalformedClaim: "A claim of the token has the wrong type.",
	Expired:        "The token has expired.",
	IatFuture:      "The token's iat lies in the future.",
	NotYetValid:    "The token is not valid yet (nbf).",
	Lifetime:       "The token lives longer than an hour.",
	Aud:            "The token's aud is not its iss.",
	QSHWrong:       "The token's qsh is not that of this request.",
	Signature:      "The callback is not proven: sign it with the shared secret of the preceding install.",
}

func reject(r Rejection) error {
	return lifecycle.Fail(lifecycle.SignatureInvalid, details[r], lifecycle.Because(string(r)))
}

// ReasonOf returns why a token was refused, or "".
func ReasonOf(err error) Rejection {
	if err == nil {
		return ""
	}
	return Rejection(lifecycle.AsFault(err).Reason)
}

// Config is the service that tokens must be for.
type Config struct {
	BaseURL string // the public one, as in the descriptor
	Now     func() time.Time
	// HeaderOnly refuses a token in the query (?jwt=). That carrier is for
	// iframes; Bitbucket's callbacks never use it, and addresses end up in logs.
	HeaderOnly bool
}

// Verifier checks callbacks' tokens.
type Verifier struct{ c Config }

// NewVerifier returns a verifier.
func NewVerifier(c Config) *Verifier { return &Verifier{c} }

// Unverified is a token that passed every check that needs no secret. Nothing in
// it is proven before Verify returns nil.
type Unverified struct {
	Issuer    lifecycle.Secret // the clientKey it claims to come from
	IssuedAt  time.Time
	ExpiresAt time.Time

	compact string
	aud     json.RawMessage // checked once the signature is valid: before, it proves nothing
}

// TokenHash is the SHA-256 of the compact token. A token has one text only, so
// the hash identifies it.
func (u *Unverified) TokenHash() [32]byte { return sha256.Sum256([]byte(u.compact)) }

// Inspect finds the request's token and checks all that needs no secret: shape,
// algorithm, claims, times, query string hash. Refusals are
// signature-invalid with a Rejection as reason.
func (v *Verifier) Inspect(r *http.Request) (*Unverified, error) {
	target := r.RequestURI // as it came over the wire; empty in a request made by hand
	if target == "" {
		target = r.URL.EscapedPath()
		if r.URL.RawQuery != "" {
			target += "?" + r.URL.RawQuery
		}
	}
	compact, err := v.carried(r.Header.Values("Authorization"), target)
	if err != nil {
		return nil, err
	}
	c, err := readClaims(compact)
	if err != nil {
		return nil, err
	}
	if err := c.checkTimes(v.c.Now()); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(c.qsh), []byte(QSH(r.Method, target, v.c.BaseURL))) != 1 {
		return nil, reject(QSHWrong)
	}
	return &Unverified{Issuer: lifecycle.NewSecret(c.iss), IssuedAt: c.iat, ExpiresAt: c.exp, compact: compact, aud: c.aud}, nil
}

// Verify checks the signature with the tenant's shared secret, then the audience.
func (u *Unverified) Verify(secret lifecycle.Secret) error {
	if secret.Empty() { // HMAC with an empty key is anybody's signature
		return reject(Signature)
	}
	// Claims were checked above with rules of our own; the parser decides the
	// signature, strictly: no padding, no stray bits, no other algorithm.
	p := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	t, err := p.Parse(u.compact, func(*jwt.Token) (any, error) { return []byte(secret.Reveal()), nil })
	if err != nil || !t.Valid {
		return reject(Signature)
	}
	return u.checkAudience()
}

// checkAudience: aud may be absent, a string or a list, and then holds iss.
func (u *Unverified) checkAudience() error {
	if u.aud == nil {
		return nil
	}
	var one string
	var many []string
	if json.Unmarshal(u.aud, &one) == nil && u.aud[0] == '"' {
		many = []string{one}
	} else if json.Unmarshal(u.aud, &many) != nil {
		return reject(MalformedClaim)
	}
	if !slices.Contains(many, u.Issuer.Reveal()) {
		return reject(Aud)
	}
	return nil
}

// carried returns the one token of a request: in the Authorization header with
// the scheme JWT, or in the query (for iframes).
func (v *Verifier) carried(authorization []string, target string) (string, error) {
	var tokens []string
	for _, a := range authorization {
		if t, ok := strings.CutPrefix(a, "JWT "); ok {
			tokens = append(tokens, t)
		}
	}
	inHeader := len(tokens)
	_, query := split(target)
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if k, value, _ := strings.Cut(pair, "="); decode(k) == "jwt" {
			tokens = append(tokens, decode(value))
		}
	}
	switch {
	case len(tokens) == 0:
		return "", reject(NoToken)
	case len(tokens) > 1 || len(authorization) > 1:
		return "", reject(TwoTokens)
	case inHeader == 0 && v.c.HeaderOnly:
		return "", reject(Carrier)
	}
	return tokens[0], nil
}

// claims are what of a token counts; others are ignored (sub and context hold
// personal data).
type claims struct {
	iss, qsh      string
	iat, exp, nbf time.Time
	aud           json.RawMessage
}

// A token must have one text only: the replay guard knows it by the hash of that
// text. strict refuses padding and non-zero trailing bits; it still skips CR and
// LF, as the decoder of the signature does, so any byte that base64url does not
// have is refused before (RFC 7515 section 2).
var strict = base64.RawURLEncoding.Strict()

func foreign(r rune) bool {
	return !('A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
}

func readClaims(compact string) (claims, error) {
	var c claims
	text := strings.TrimRight(compact, "=")
	if len(compact) > maxToken || strings.ContainsFunc(text, foreign) {
		return c, reject(Malformed)
	}
	if text != compact { // a padded signature is no secret's signature
		return c, reject(Signature)
	}
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return c, reject(Malformed)
	}
	header, ok := object(parts[0])
	if !ok {
		return c, reject(Malformed)
	}
	var alg string
	if err := json.Unmarshal(header["alg"], &alg); err != nil || alg != jwt.SigningMethodHS256.Alg() {
		return c, reject(Algorithm)
	}
	body, ok := object(parts[1])
	if !ok {
		return c, reject(Malformed)
	}
	for _, s := range []struct {
		name    string
		to      *string
		missing Rejection
	}{{"iss", &c.iss, IssMissing}, {"qsh", &c.qsh, QSHMissing}} {
		raw, ok := body[s.name]
		if !ok {
			return c, reject(s.missing)
		}
		if json.Unmarshal(raw, s.to) != nil || raw[0] != '"' {
			return c, reject(MalformedClaim)
		}
		if *s.to == "" {
			return c, reject(s.missing)
		}
	}
	for _, n := range []struct {
		name    string
		to      *time.Time
		missing Rejection
	}{{"exp", &c.exp, ExpMissing}, {"iat", &c.iat, IatMissing}, {"nbf", &c.nbf, ""}} {
		raw, ok := body[n.name]
		if !ok && n.missing != "" {
			return c, reject(n.missing)
		}
		if !ok {
			continue
		}
		if *n.to, ok = numericDate(raw); !ok {
			return c, reject(MalformedClaim)
		}
	}
	c.aud = body["aud"]
	return c, nil
}

// object decodes one segment into the members of a JSON object. For a member
// given twice the last one counts, as in JSON.parse.
func object(segment string) (map[string]json.RawMessage, bool) {
	b, err := strict.DecodeString(segment)
	if err != nil {
		return nil, false
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(b, &m) != nil || m == nil {
		return nil, false
	}
	for k, raw := range m {
		m[k] = bytes.TrimSpace(raw)
	}
	return m, true
}

// numericDate reads a NumericDate (RFC 7519 section 2), which may have a
// fraction; times beyond the year 9999 are refused.
func numericDate(raw json.RawMessage) (time.Time, bool) {
	var f float64
	if len(raw) == 0 || raw[0] == 'n' || json.Unmarshal(raw, &f) != nil || math.IsNaN(f) || f < 0 || f > 253402300799 {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(f)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), true
}

func (c claims) checkTimes(now time.Time) error {
	switch {
	case !now.Before(c.exp.Add(Leeway)):
		return reject(Expired)
	case c.iat.After(now.Add(Leeway)):
		return reject(IatFuture)
	case c.nbf.After(now.Add(Leeway)):
		return reject(NotYetValid)
	case c.exp.Sub(c.iat) > MaxLifetime+Leeway:
		return reject(Lifetime)
	}
	return nil
}
