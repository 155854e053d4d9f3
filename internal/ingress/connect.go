package ingress

import (
	"context"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

// connectCallbacks are those that the Connect descriptor names.
var connectCallbacks = []Callback{
	{Name: "installed", Path: connect.InstalledPath, Event: Installed},
	{Name: "uninstalled", Path: connect.UninstalledPath, Event: Uninstalled},
}

// Prover asks Bitbucket whether an offered secret is a workspace's. Refused is
// signature-invalid; no answer is proof-unavailable.
type Prover interface {
	ProvePossession(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) error
}

// connectForm is Atlassian Connect: a JWT in the Authorization header, signed with
// the installation's shared secret.
type connectForm struct {
	verifier *connect.Verifier
	decoder  connect.Decoder
	prover   Prover
}

func newConnect(c Config) Form {
	return &connectForm{
		verifier: connect.NewVerifier(connect.Config{BaseURL: c.BaseURL, Now: c.Now, HeaderOnly: true}),
		decoder:  connect.NewDecoder(c.Policy), prover: c.Prover,
	}
}

// Open implements Form. The token's shape, times and query string hash are checked
// before the payload is decoded.
func (f *connectForm) Open(m Message) (Claim, error) {
	u, err := f.verifier.Inspect(m.Request)
	if err != nil && connect.ReasonOf(err) != connect.NoToken {
		return Claim{}, err
	}
	decode := f.decoder.Installed
	if m.Callback.Event == Uninstalled {
		decode = f.decoder.Uninstalled
	}
	p, err := decode(m.Body)
	if err != nil {
		return Claim{}, err
	}
	claim := Claim{Values: p.Values(), Dropped: p.Dropped}
	if u != nil {
		claim.Token = &Token{Hash: u.TokenHash(), Issuer: u.Issuer, IssuedAt: u.IssuedAt, ExpiresAt: u.ExpiresAt, Verify: u.Verify}
	}
	return claim, nil
}

// Prove implements Form.
func (f *connectForm) Prove(ctx context.Context, values lifecycle.Values) error {
	if f.prover == nil {
		return nil
	}
	return f.prover.ProvePossession(ctx, values[lifecycle.PrincipalUUID], values[lifecycle.ClientKey], values[lifecycle.SharedSecret])
}
