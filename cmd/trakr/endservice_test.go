package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
)

// queue enters a delivery that was entered so long ago.
func queue(e *storetest.Env, kind, state, ago string) (id string) {
	e.T.Helper()
	id = uuid.NewString()
	var erasure, dead, next *string
	now := "2000-01-01"
	if kind == "erased" {
		x := uuid.NewString()
		erasure = &x
	}
	if state == "dead" {
		dead = &now
	} else {
		next = &now
	}
	e.Exec(`INSERT INTO trakr.outbox (delivery_id, tenant_id, seq, kind, state, field_names, erasure_id, told, enqueued_at, next_attempt_at, dead_at)
		VALUES ($1, $2, 1, $3, $4, '{}', $5::uuid, true, now() - $6::interval, $7::timestamptz, $8::timestamptz)`,
		id, lifecycle.NewTenantID().String(), kind, state, erasure, ago, next, dead)
	if kind != "erased" {
		e.Exec(`INSERT INTO trakr.outbox_payloads (delivery_id, tenant_id, sealed) SELECT delivery_id, tenant_id, coalesce((SELECT decode('01' || lpad(to_hex(key_id), 8, '0'), 'hex')
			FROM trakr.field_keys WHERE state = 'active'), '') || sha256('sealed') FROM trakr.outbox WHERE delivery_id = $1`, id)
	}
	return id
}

func TestTheOutboxSaysHowLongItWaitsAndThatNobodySends(t *testing.T) {
	e := storetest.New(t)
	env := []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, e.URL), "TRAKR_DATA_DIR=" + t.TempDir()}
	if code, out, errs := run(t, env, "outbox", "list"); code != exitClean || strings.Contains(errs, "Nobody sends") {
		t.Fatalf("with nothing to send: exit %d: %s%s", code, out, errs)
	}
	young := queue(e, "installed", "waiting", "2 hours")
	code, out, errs := run(t, env, "outbox", "list")
	if code != exitClean || !strings.Contains(out, "2h0m0s") || strings.Contains(out, "OVERDUE") ||
		!strings.Contains(errs, "1 deliveries are open. Nobody sends: no end service is configured. Set TRAKR_END_SERVICE_URL") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	set := append(env, "TRAKR_END_SERVICE_URL=http://127.0.0.1:9/events", "TRAKR_END_SERVICE_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if _, _, errs := run(t, set, "outbox", "list"); !strings.Contains(errs, "Nobody sends: no running service") {
		t.Errorf("configured, and not running: %s", errs)
	}
	// Another process sends, whatever this command's settings are.
	lease, ok, err := store.TryLease(t.Context(), e.DB, app.EndServiceLease)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, _, errs := run(t, env, "outbox", "list"); strings.Contains(errs, "Nobody sends") {
		t.Errorf("a service sends: %s", errs)
	}
	lease.Release()

	notice := queue(e, "erased", "waiting", "6 days")
	dead := queue(e, "changed", "dead", "1 hour")
	code, out, errs = run(t, env, "outbox", "list", "--limit", "1")
	if code != exitFinding || !strings.Contains(errs, "3 deliveries are open. Nobody sends") {
		t.Errorf("what is overdue is not among those listed: exit %d: %s%s", code, out, errs)
	}
	code, out, _ = run(t, env, "outbox", "list", "--json")
	var got struct {
		Deliveries []struct {
			ID      string `json:"delivery_id"`
			Overdue bool
		}
		Overdue int
		Sent    bool
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitFinding || got.Overdue != 2 || got.Sent || len(got.Deliveries) != 3 {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	for _, d := range got.Deliveries {
		if d.Overdue != (d.ID != young) {
			t.Errorf("%s overdue: %t", d.ID, d.Overdue)
		}
	}
	_, out, _ = run(t, env, "doctor")
	if !strings.Contains(strings.Join(strings.Fields(out), " "), "2 deliveries are dead, or not acknowledged for more than five days, 1 of them notices of an erasure; see: trakr outbox list. Nobody sends") {
		t.Errorf("doctor: %s", out)
	}

	refused := queue(e, "installed", "dead", "1 hour")
	e.Exec(`DELETE FROM trakr.outbox_payloads WHERE delivery_id = $1`, refused)
	e.Exec(`UPDATE trakr.outbox SET last_outcome = $2 WHERE delivery_id = $1`, refused, outbox.Refused)
	if _, out, _ := run(t, env, "outbox", "list"); !strings.Contains(out, "refused by the guard") {
		t.Errorf("the list does not say that the guard refused one: %s", out)
	}

	// The way out of each: try again, or drop what is no notice.
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"retry", exitUsage, "--all-dead"},
		{"retry --all-dead " + dead, exitUsage, "--all-dead"},
		{"drop " + dead, exitUsage, "ticket"},
		{"drop " + young + " --reason-ref OPS-1", exitFinding, "still tried"},
		{"drop " + notice + " --reason-ref OPS-1", exitFinding, "trakr outbox retry " + notice},
		{"retry --all-dead --reason-ref OPS-1", exitClean, "1 dead deliveries are tried again"},
		{"retry " + notice + " --reason-ref OPS-1", exitClean, "Nobody sends"},
		{"retry " + refused + " --reason-ref OPS-1", exitFinding, "trakr outbox drop " + refused + " --reason-ref"},
		{"drop " + refused + " --reason-ref OPS-1", exitClean, "is dropped"},
	} {
		code, out, errs := run(t, env, append([]string{"outbox"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("outbox %s: exit %d, want %d: %s%s", c.args, code, c.code, out, errs)
		}
	}
	e.Exec(`UPDATE trakr.outbox SET state = 'dead', dead_at = now(), next_attempt_at = NULL WHERE delivery_id = $1`, dead)
	if code, out, errs := run(t, env, "outbox", "drop", dead, "--reason-ref", "OPS-1"); code != exitClean || !strings.Contains(out, "is dropped") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}
