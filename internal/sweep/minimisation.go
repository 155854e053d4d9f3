package sweep

import (
	"context"
	"strings"

	"trakr/internal/drift"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/policy"
)

// MinimisationPass looks for values shaped like an e-mail address or a telephone
// number, for tables and columns that the policy does not declare, for large objects,
// and for members of Bitbucket's payloads that were never seen before.
type MinimisationPass struct {
	census *census.Store
	policy *policy.Policy
}

// NewMinimisation returns the pass.
func NewMinimisation(s *census.Store, p *policy.Policy) *MinimisationPass {
	return &MinimisationPass{s, p}
}

// Kind implements Pass.
func (*MinimisationPass) Kind() string { return Minimisation }

// Destructive implements Pass: it only looks, and notes how far.
func (*MinimisationPass) Destructive() bool { return false }

const (
	payloadKeys = "payload keys"
	payloadKey  = "payload key " // and its name
)

// OfPayloads reports whether a finding of this pass is about a member's name in a
// payload, of which nothing is kept.
func OfPayloads(column string) bool {
	return column == payloadKeys || strings.HasPrefix(column, payloadKey)
}

// maxNewKeys bounds the findings: whoever may call back could send any name.
const maxNewKeys = 100

// Look implements Pass.
func (p *MinimisationPass) Look(ctx context.Context, o Order) (Found, error) {
	found, err := p.census.Shapes(ctx, drift.Declared(p.policy), o.Now, !o.DryRun)
	if err != nil {
		return Found{}, err
	}
	out := Found{Checks: found.Checks, SnapshotAt: found.SnapshotAt}
	for i := range out.Checks {
		out.Checks[i].Severity = findings.High
	}
	all := findings.Check{Store: "database", Table: eventsTable, Column: payloadKeys, Disposition: findings.Checked, CheckedAt: found.SnapshotAt,
		Ground: "every name of a payload's member that was not kept is known"}
	for _, k := range found.Keys {
		if p.policy.KnownPayloadKey(k.Name) {
			continue
		}
		if all.Rows++; all.Rows > maxNewKeys {
			continue
		}
		out.Checks = append(out.Checks, findings.Check{Store: "database", Table: eventsTable, Column: payloadKey + k.Name, Disposition: findings.Checked, Rows: 1, Severity: findings.Low, CheckedAt: found.SnapshotAt,
			Ground: "Bitbucket sent a member that was never seen before " + k.FirstSeenAt.UTC().Format("2006-01-02") + "; it was not kept. Declare it under known_payload_keys once somebody has looked"})
	}
	if all.Rows > maxNewKeys {
		all.Ground = "more names than are listed one by one were never seen before"
	} else {
		all.Rows = 0
	}
	out.Checks = append(out.Checks, all)
	return out, nil
}
