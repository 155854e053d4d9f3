package sweep

import (
	"context"
	"strings"
	"time"

	"trakr/internal/drift"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/policy"
)

// MinimisationPass searches for values shaped like an e-mail address or a telephone
// number, for tables and columns that the policy does not declare, for large objects,
// and for new members of Bitbucket's payloads.
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

// Destructive implements Pass: it only looks, and records how far.
func (*MinimisationPass) Destructive() bool { return false }

const (
	payloadKeys = "payload keys"
	payloadKey  = "payload key " // and its name
)

// OfPayloads reports whether a finding of this pass, by its column, is about the name of a
// payload's member, whose value is never stored.
func OfPayloads(column string) bool {
	return column == payloadKeys || strings.HasPrefix(column, payloadKey)
}

// maxNewKeys bounds the findings, because a callback could send any name.
const maxNewKeys = 100

// Look implements Pass.
func (p *MinimisationPass) Look(ctx context.Context, o Order) (Found, error) {
	found, err := p.census.Shapes(ctx, census.ShapeSearch{Declared: drift.Declared(p.policy), Now: o.Now, DryRun: o.DryRun})
	if err != nil {
		return Found{}, err
	}
	out := Found{Checks: found.Checks, SnapshotAt: found.SnapshotAt}
	for i := range out.Checks {
		out.Checks[i].Severity = findings.High
	}
	all := checked(eventsTable, payloadKeys, found.SnapshotAt)
	all.Ground = "every name of a payload's member that was not kept is known"
	for _, k := range found.Keys {
		if p.policy.KnownPayloadKey(k.Name) {
			continue
		}
		if all.Rows++; all.Rows > maxNewKeys {
			continue
		}
		c := checked(eventsTable, payloadKey+k.Name, found.SnapshotAt)
		c.Rows, c.Severity = 1, findings.Low
		c.Ground = "Bitbucket sent a member that was never seen before " + k.FirstSeenAt.UTC().Format(time.DateOnly) +
			"; it was not kept. Review it and declare it under known_payload_keys"
		out.Checks = append(out.Checks, c)
	}
	if all.Rows > maxNewKeys {
		all.Ground = "more names than are listed one by one were never seen before"
	} else {
		all.Rows = 0
	}
	out.Checks = append(out.Checks, all)
	return out, nil
}
