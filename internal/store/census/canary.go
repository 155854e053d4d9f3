package census

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store/findings"
	"trakr/internal/store/internal/pg"
)

// The canary is a row of a tenant that never existed, in a table of its own. Each pass
// of the orphan sweep must count it through the same SQL as every other table: a sweep
// that does not see the canary would not see a real orphan either.
const (
	canaryTable  = "trakr.sweep_canaries"
	canaryColumn = "tenant_id"

	// CanaryEvery is how often the service plants a new canary.
	CanaryEvery = 10 * time.Minute
	// CanarySpec is the same as a cron expression.
	CanarySpec = "*/10 * * * *"
)

// PlantCanary plants a new canary and removes the older ones.
func (s *Store) PlantCanary(ctx context.Context) error {
	var row struct{ At time.Time }
	if err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT door.plant_canary() AS at`).Scan(ctx, &row)); err != nil {
		return fmt.Errorf("planting the canary: %w", err)
	}
	return nil
}

// checkCanary checks that the pass saw the canary. A canary that is missing, stale or
// uncountable makes the pass blind; one that was seen is no finding.
func checkCanary(ctx context.Context, tx bun.Tx, checks []findings.Check, at time.Time) []findings.Check {
	i := slices.IndexFunc(checks, func(c findings.Check) bool { return c.Table == canaryTable && c.Column == canaryColumn })
	if i < 0 {
		return append(checks, findings.Check{
			Store: "database", Table: canaryTable, Column: canaryColumn, Disposition: findings.Unjudged, CheckedAt: at,
			Ground: "the canary's table is missing from the catalog, so the sweep cannot prove that it sees",
		})
	}
	c := &checks[i]
	blind := func(why string) {
		c.Disposition, c.Ground = findings.Unjudged, "the canary was not seen, so the sweep cannot prove that it sees: "+why
	}
	switch {
	case c.Disposition == findings.Unjudged:
		blind(c.Ground)
		return checks
	case c.Rows == 0:
		blind("none is there; the running service plants one every " + short(CanaryEvery))
		return checks
	}
	var row struct{ Newest *time.Time }
	err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
		return tx.NewRaw(`SELECT newest FROM door.measure('trakr', 'sweep_canaries', 'planted_at', ?)`, at).Scan(ctx, &row)
	})
	switch {
	case err != nil:
		blind("its age cannot be read: SQLSTATE " + pg.State(pg.Map(err)))
	case row.Newest == nil || at.Sub(*row.Newest) > 2*CanaryEvery:
		blind("it is stale; the running service plants one every " + short(CanaryEvery) + ", and has not for longer than twice that")
	default:
		c.Disposition = findings.Retained
	}
	return checks
}

// short formats a duration of whole minutes for people.
func short(d time.Duration) string { return fmt.Sprintf("%d minutes", int(d.Minutes())) }
