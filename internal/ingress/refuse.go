package ingress

import (
	"context"
	"fmt"

	"trakr/internal/lifecycle"
	"trakr/internal/store/tenants"
)

// notProven is the one answer to every callback that is not proven, so that it
// discloses nothing about which tenants exist.
func (d *delivery) notProven(reason string) error {
	if d.limited {
		return lifecycle.Fail(lifecycle.RateLimited,
			"The callback is not proven, and there were too many such attempts from this address. Try again later.",
			lifecycle.Because(reason), lifecycle.After(failurePeriod))
	}
	return lifecycle.Fail(lifecycle.SignatureInvalid,
		"The callback is not proven: sign it with the shared secret of the preceding install.", lifecycle.Because(reason))
}

// deny records the refusal and returns it. Beyond the source's limit a summary
// replaces the refusals of one tenant in one minute: the first is recorded,
// with the number of those left out since the summary before.
func (g *Gate) deny(ctx context.Context, d *delivery, id lifecycle.TenantID, reason string) error {
	denial := tenants.Denial{Action: d.action, Tenant: id, Subject: d.clientKey(), Detail: reason}
	if d.limited {
		leftOut, record := g.tallies.due(id, summaryPeriod)
		if !record {
			return d.notProven(reason)
		}
		denial.Subject, denial.Detail = lifecycle.Secret{}, fmt.Sprintf("limited %d", leftOut)
	}
	if err := g.door.Deny(ctx, d.unproven(), denial); err != nil {
		if d.limited {
			g.tallies.undo(id)
		}
		return err
	}
	return d.notProven(reason)
}

// repeated reports, and records once, that this very delivery was acted upon before.
func (g *Gate) repeated(ctx context.Context, d *delivery) (bool, error) {
	if d.Token == nil {
		return false, nil
	}
	id, done, err := g.door.Delivered(ctx, d.Token.Hash)
	if err != nil || !done {
		return false, err
	}
	if _, record := g.tallies.due(d.Token.Hash, replayPeriod); !record {
		return true, nil
	}
	err = g.door.Deny(ctx, d.unproven(), tenants.Denial{Action: d.action, Tenant: id, Detail: string(tenants.Replayed)})
	if err != nil {
		g.tallies.undo(d.Token.Hash)
	}
	return true, err
}
