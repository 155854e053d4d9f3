package connect

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"trakr/internal/lifecycle"
)

// Claims are the content of a token of ours.
type Claims struct {
	Issuer    lifecycle.Secret // our app key when we call Bitbucket; the clientKey when it calls us
	Subject   lifecycle.Secret // the clientKey when we call Bitbucket; empty for none
	Audience  lifecycle.Secret // empty for none
	IssuedAt  time.Time
	ExpiresAt time.Time
	QSH       string
}

// Mint returns a compact token signed with secret (HS256).
func Mint(c Claims, secret lifecycle.Secret) (lifecycle.Secret, error) {
	m := jwt.MapClaims{"iss": c.Issuer.Reveal(), "iat": c.IssuedAt.Unix(), "exp": c.ExpiresAt.Unix(), "qsh": c.QSH}
	if !c.Subject.Empty() {
		m["sub"] = c.Subject.Reveal()
	}
	if !c.Audience.Empty() {
		m["aud"] = c.Audience.Reveal()
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, m).SignedString([]byte(secret.Reveal()))
	if err != nil {
		return lifecycle.Secret{}, fmt.Errorf("signing a token: %w", err)
	}
	return lifecycle.NewSecret(s), nil
}
