package holds_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
)

// TestTheServicesOwnRoleCannotForgeOrEndAHold runs SQL as whoever took the service
// over could: with its login, and with a forged audit event, which its role may write.
func TestTheServicesOwnRoleCannotForgeOrEndAHold(t *testing.T) {
	e, s := open(t)
	c := storetest.Must(t)(pgx.Connect(t.Context(), storetest.ServiceURL(t, e.URL))).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	const (
		release = `UPDATE trakr.legal_holds SET released_at = now(), released_by = 'token:lawyer' WHERE hold_id = $1`
		place   = `INSERT INTO trakr.legal_holds (hold_id, tenant_id, ground, reason_ref, placed_by, placed_at, until)
			SELECT '00000000-0000-4000-8000-000000000001', tenant_id, ground, reason_ref, placed_by, now(), until FROM trakr.legal_holds WHERE hold_id = $1`
		fresh = "00000000-0000-4000-8000-000000000001"
		loose = "together with its audit event"
	)
	for name, x := range map[string]struct {
		action   audit.Action // of the forged event; "" for none
		outcome  audit.Outcome
		about    string // its correlation id; "" for the hold's
		before   string // as the owner
		sql      string
		says     string // "" when the database must take it
		released bool
	}{
		"a release as it should be":     {audit.HoldRelease, audit.Success, "", "", release, "", false},
		"without its event":             {"", "", "", "", release, loose, false},
		"with another act's event":      {audit.HoldPlace, audit.Success, "", "", release, loose, false},
		"with the event of a refusal":   {audit.HoldRelease, audit.Denied, "", "", release, loose, false},
		"with another hold's event":     {audit.HoldRelease, audit.Success, fresh, "", release, loose, false},
		"in the name of another":        {audit.HoldRelease, audit.Success, "", "", strings.Replace(release, "lawyer", "bob", 1), loose, false},
		"released again, by another":    {audit.HoldRelease, audit.Success, "", "", release, "once", true},
		"taken back":                    {audit.HoldRelease, audit.Success, "", "", `UPDATE trakr.legal_holds SET released_at = NULL, released_by = NULL WHERE hold_id = $1`, "once", true},
		"an earlier end":                {audit.HoldRelease, audit.Success, "", "", `UPDATE trakr.legal_holds SET until = now() WHERE hold_id = $1`, "permission denied", false},
		"a hold deleted":                {"", "", "", "", `DELETE FROM trakr.legal_holds WHERE hold_id = $1`, "permission denied", false},
		"a hold as it should be placed": {audit.HoldPlace, audit.Success, fresh, "", place, "", false},
		"placed without its event":      {"", "", "", "", place, loose, false},
		"placed as released":            {audit.HoldPlace, audit.Success, fresh, "", strings.NewReplacer("until)", "until, released_at, released_by)", "until FROM", "until, now(), 'token:lawyer' FROM").Replace(place), "once", false},
		"placed on what is erased": {audit.HoldPlace, audit.Success, fresh, `UPDATE trakr.tenants SET state = 'erased', subject_digest = NULL, principal_digest = NULL,
			last_token_iat = NULL, erased_at = now() WHERE tenant_id IN (SELECT tenant_id FROM trakr.legal_holds WHERE hold_id = '%s')`, place, "is erased", false},
	} {
		t.Run(name, func(t *testing.T) {
			id := e.Install(storetest.Values(name), name)
			h, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
			if err == nil && x.released {
				_, err = s.Release(t.Context(), lawyer(), h.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
			if x.before != "" {
				e.Exec(strings.Replace(x.before, "%s", h.ID, 1))
			}
			tx := storetest.Must(t)(c.Begin(t.Context())).(pgx.Tx)
			defer func() { _ = tx.Rollback(context.Background()) }()
			if x.action != "" {
				ev := audit.New(t.Context(), e.Clock.Now(), lawyer(), x.action, x.outcome)
				ev.TenantID, ev.CorrelationID = id, h.ID
				if x.about != "" {
					ev.CorrelationID = x.about
				}
				if _, err := tx.Exec(t.Context(), `SELECT door.append($1)`, [][]byte{ev.Record()}); err != nil {
					t.Fatal(err)
				}
			}
			_, err = tx.Exec(t.Context(), x.sql, h.ID)
			if x.says == "" && err != nil || x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says)) {
				t.Errorf("%v, want %q", err, x.says)
			}
		})
	}
}
