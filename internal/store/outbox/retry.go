package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Retry has a dead or waiting delivery tried again on a person's order: at once, or when
// the claim of the process that sends it has ended. A delivery that a later one of its
// tenant overtook is refused: it would arrive after what the end service may have received.
// So is one that the guard refused when it was entered: there is nothing to send.
func (s *Store) Retry(ctx context.Context, a lifecycle.Access, id string) (Delivery, error) {
	if err := a.CheckReason(); err != nil {
		return Delivery{}, err
	}
	now := s.log.Now().UTC()
	var d Delivery
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if d, err = lockOpen(ctx, tx, id); err != nil {
			return err
		}
		if err := retriable(ctx, tx, d); err != nil {
			return err
		}
		next := now
		if d.State == Waiting && d.LastTriedAt != nil && d.LastTriedAt.Add(Claim).After(now) {
			next = d.LastTriedAt.Add(Claim) // a process may be sending it
		}
		if err := audit.Append(ctx, tx, d.event(ctx, act{now, a, audit.DeliveryRetry, audit.Success, ""})); err != nil {
			return err
		}
		_, err = tx.NewUpdate().Model((*row)(nil)).Set("state = ?", Waiting).Set("first_tried_at = NULL").Set("dead_at = NULL").
			Set("next_attempt_at = ?", next).Where("delivery_id = ?", id).Exec(ctx)
		if err != nil {
			return err
		}
		d, err = get(ctx, tx, id)
		return err
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("retrying a delivery: %w", err)
	}
	return d, nil
}

// RetryDead has every dead delivery tried again that can be, each with its event, and
// returns them. What it leaves is closed when a later delivery of its tenant is
// acknowledged, or when a person drops it.
func (s *Store) RetryDead(ctx context.Context, a lifecycle.Access) ([]Delivery, error) {
	done := []Delivery{}
	for after := (Delivery{}); ; {
		var rows []row
		err := pg.Bun(s.db).NewSelect().Model(&rows).Where("o.state = ?", Dead).
			Where("(o.tenant_id, o.seq) > (?::uuid, ?::bigint)", after.Tenant.String(), after.Seq).Where("NOT "+overtaken).
			Order("o.tenant_id", "o.seq").Limit(200).Scan(ctx)
		if err != nil {
			return done, fmt.Errorf("listing dead deliveries: %w", pg.Map(err))
		}
		some, err := deliveries(rows)
		if err != nil || len(some) == 0 {
			return done, err
		}
		for _, d := range some {
			after = d
			again, err := s.Retry(ctx, a, d.ID.String())
			switch {
			case errors.Is(err, lifecycle.RequestConflict): // nothing to send, or closed or overtaken since it was listed
			case err != nil:
				return done, err
			default:
				done = append(done, again)
			}
		}
	}
}

// retriable refuses a delivery that another attempt cannot help, with the way out.
func retriable(ctx context.Context, tx bun.Tx, d Delivery) error {
	// The role may not read the payload itself.
	stored, err := tx.NewSelect().Model((*payloadRow)(nil)).ColumnExpr("1").Where("delivery_id = ?", d.ID.String()).Exists(ctx)
	if err != nil {
		return err
	}
	drop := "trakr outbox drop " + d.ID.String() + " --reason-ref TICKET"
	if d.Kind != egress.Erased && !stored {
		return lifecycle.Fail(lifecycle.RequestConflict, "The guard refused this delivery when it was entered, so nothing of it was "+
			"stored and there is nothing to send; its event in the audit has the reason. Drop it: "+drop+". To notify the end service of "+
			"the tenant, change the policy if it should release more, and wait for the installation's next change.")
	}
	var later row
	err = pg.Map(tx.NewSelect().Model(&later).Where("o.tenant_id = ?", d.Tenant.String()).Where("o.seq > ?", d.Seq).
		Where("o.attempts > 0").Order("o.seq DESC").Limit(1).Scan(ctx))
	switch {
	case errors.Is(err, pg.ErrNoRows):
		return nil
	case err != nil:
		return err
	case later.State == Waiting || later.State == Dead:
		return lifecycle.Fail(lifecycle.RequestConflict, "A later delivery of this tenant was sent already and contains all that this one "+
			"does; this one is closed when that one is acknowledged. Retry that one: trakr outbox retry "+later.DeliveryID)
	}
	return lifecycle.Fail(lifecycle.RequestConflict, "A later delivery of this tenant was sent and is over ("+string(later.State)+
		"), so this one is needless and is never sent. Drop it: "+drop)
}

// Dropped is the last outcome of a delivery that a person dropped.
const Dropped = "dropped by a person"

// Drop closes a delivery about an install or a change that is not acknowledged, dead or
// overdue, and deletes its payload: the end service never receives it. When it was sent,
// the open ones before it can never be, and are closed with it, each with its event. The
// audit records who did it and for which ticket. The notice of an erasure is never dropped:
// that the end service may still store what was erased here stays a finding until it
// acknowledges.
func (s *Store) Drop(ctx context.Context, a lifecycle.Access, id string) (Delivery, error) {
	if err := a.Check(); err != nil {
		return Delivery{}, err
	}
	now := s.log.Now().UTC()
	var d Delivery
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if d, err = lockOpen(ctx, tx, id); err != nil {
			return err
		}
		switch {
		case d.Kind == egress.Erased:
			return lifecycle.Fail(lifecycle.RequestConflict, "This is the notice of an erasure: as long as it is not acknowledged, the "+
				"end service may still store what was erased here, so it is never dropped. Retry it until the end service itself "+
				"acknowledges it: trakr outbox retry "+id)
		case !d.Overdue(now):
			return lifecycle.Fail(lifecycle.RequestConflict, "This delivery is still tried. Only what was not acknowledged for five days "+
				"can be dropped.")
		}
		var rows []row
		err = tx.NewSelect().Model(&rows).Where("o.tenant_id = ?", d.Tenant.String()).Where("o.closed_at IS NULL").
			Where("o.seq = ? OR o.seq < ? AND ?", d.Seq, d.Seq, d.Attempts > 0).Order("o.seq").Scan(ctx)
		if err != nil {
			return err
		}
		all, err := deliveries(rows)
		if err != nil {
			return err
		}
		for _, d := range all {
			e := d.event(ctx, act{now, a, audit.DeliveryClose, audit.Success, ""})
			e.StatusDetail += ": dropped"
			if err := audit.Append(ctx, tx, e); err != nil {
				return err
			}
			_, err := supersede(tx, now).Set("last_outcome = ?", Dropped).Where("delivery_id = ?", d.ID.String()).Exec(ctx)
			if err != nil {
				return err
			}
		}
		if err := deletePayloads(ctx, tx, d.Tenant); err != nil {
			return err
		}
		d, err = get(ctx, tx, id)
		return err
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("dropping a delivery: %w", err)
	}
	return d, nil
}

// lockOpen reads a delivery that is not over, under the lock on its tenant's deliveries.
func lockOpen(ctx context.Context, tx bun.Tx, id string) (Delivery, error) {
	d, err := get(ctx, tx, id)
	if err != nil {
		return Delivery{}, err
	}
	if err := lock(ctx, tx, d.Tenant); err != nil {
		return Delivery{}, err
	}
	if d, err = get(ctx, tx, id); err == nil && d.ClosedAt != nil {
		err = lifecycle.Fail(lifecycle.RequestConflict, "This delivery is "+string(d.State)+": there is nothing left to send.")
	}
	return d, err
}
