package requests_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/requests"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func anna() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:anna", Role: lifecycle.RoleSupport},
		Reason: lifecycle.Reason{Code: lifecycle.CustomerRequestFulfilment, Ref: "SUP-7"}, RequestID: "req-test"}
}

// received is a request in a state, brought there by the store's own moves.
func received(t *testing.T, e *storetest.Env, mark string, through ...lifecycle.RequestState) (*requests.Store, requests.Request) {
	t.Helper()
	s := storetest.Must(t)(requests.New(e.DB, e.Log)).(*requests.Store)
	id := e.Install(storetest.Values(mark), mark)
	r, err := s.Receive(t.Context(), anna(), requests.Order{Tenant: id, Submitted: e.Clock.Now(), Due: e.Clock.Now().Add(time.Hour)})
	for _, state := range through {
		if err == nil {
			r, err = s.Move(t.Context(), anna(), r.ID, func(r *requests.Request, _ requests.Facts) error { r.State = state; return nil })
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// TestTheServicesOwnRoleCannotSkipAnApproval runs SQL as whoever took the service
// over could: with its login, and with a forged audit event, which its role may write.
func TestTheServicesOwnRoleCannotSkipAnApproval(t *testing.T) {
	e := storetest.New(t)
	c := storetest.Must(t)(pgx.Connect(t.Context(), storetest.ServiceURL(t, e.URL))).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	const move = `UPDATE trakr.deletion_requests SET moved_by = 'token:anna', moved_at = now(), `
	const byBob = `UPDATE trakr.deletion_requests SET moved_by = 'token:bob', moved_at = now(), state = 'approved', approved_by = 'token:bob', `
	waits := []lifecycle.RequestState{lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval}
	for name, x := range map[string]struct {
		through []lifecycle.RequestState
		event   lifecycle.RequestState // of the forged event; "" for none
		sql     string
		says    string // "" when the database must take it: the rest fails for its own reason
	}{
		"a move as it should be":             {waits, lifecycle.RequestCancelled, move + `state = 'cancelled' WHERE request_id = $1`, ""},
		"without its event":                  {waits, "", move + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"with another state's event":         {waits, lifecycle.RequestDenied, move + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"in the name of another":             {waits, lifecycle.RequestCancelled, strings.Replace(move, "anna", "bob", 1) + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"in progress without an approval":    {waits, lifecycle.RequestInProgress, move + `state = 'in_progress' WHERE request_id = $1`, "may not move"},
		"completed at once":                  {waits, lifecycle.RequestCompleted, move + `state = 'completed', certificate_id = gen_random_uuid() WHERE request_id = $1`, "may not move"},
		"approved by nobody":                 {waits, lifecycle.RequestApproved, move + `state = 'approved' WHERE request_id = $1`, "may not move"},
		"approved by who entered it":         {waits, lifecycle.RequestApproved, move + `state = 'approved', approved_by = 'token:anna', approved_at = now(), not_before = now() WHERE request_id = $1`, "two_people"},
		"approved before it was":             {waits, lifecycle.RequestApproved, byBob + `approved_at = now() - interval '2 days', not_before = now() - interval '1 day' WHERE request_id = $1`, "may not move"},
		"a move in time to come":             {waits, lifecycle.RequestCancelled, strings.Replace(move, "now()", "now() + interval '2 minutes'", 1) + `state = 'cancelled' WHERE request_id = $1`, "a time to come"},
		"approved in the name of another":    {waits, lifecycle.RequestApproved, move + `state = 'approved', approved_by = 'token:bob', approved_at = now(), not_before = now() WHERE request_id = $1`, "may not move"},
		"an approval given on the way":       {[]lifecycle.RequestState{lifecycle.RequestIdentityCheck}, lifecycle.RequestAwaitingApproval, move + `state = 'awaiting_approval', approved_by = 'token:bob', approved_at = now(), not_before = now() WHERE request_id = $1`, "may not move"},
		"around the identity check":          {nil, lifecycle.RequestAwaitingApproval, move + `state = 'awaiting_approval' WHERE request_id = $1`, "may not move"},
		"a hold as a way to approved":        {append(waits, lifecycle.RequestCancelled), lifecycle.RequestApproved, move + `state = 'approved' WHERE request_id = $1`, "may not move"},
		"a change without a move":            {waits, lifecycle.RequestAwaitingApproval, move + `ground = 'legal_claim' WHERE request_id = $1`, "denied_on_ground"},
		"nothing held, of a tenant":          {nil, lifecycle.RequestCompletedNothingHeld, move + `state = 'completed_nothing_held', certificate_id = gen_random_uuid() WHERE request_id = $1`, "may not move"},
		"another requester":                  {waits, "", `UPDATE trakr.deletion_requests SET requested_by = 'token:nobody' WHERE request_id = $1`, "permission denied"},
		"another tenant":                     {waits, "", `UPDATE trakr.deletion_requests SET tenant_id = gen_random_uuid() WHERE request_id = $1`, "permission denied"},
		"a request deleted":                  {waits, "", `DELETE FROM trakr.deletion_requests WHERE request_id = $1`, "permission denied"},
		"a history of its own":               {waits, "", `INSERT INTO trakr.deletion_request_events (request_id, seq, to_state, moved_by, moved_at) VALUES ($1, 9, 'approved', 'x', now())`, "permission denied"},
		"the trigger switched off":           {waits, "", `ALTER TABLE trakr.deletion_requests DISABLE TRIGGER request_moves; SELECT $1`, ""},
		"entered as approved":                {waits, lifecycle.RequestApproved, `INSERT INTO trakr.deletion_requests (request_id, state, subject_digests, ticket, requested_by, approved_by, approved_at, not_before, moved_by, submitted_time, received_time, expected_completion_time, moved_at) VALUES ($1, 'approved', ARRAY['00'], 'T-1', 'a', 'b', now(), now(), 'a', now(), now(), now(), now())`, "duplicate key"},
		"a second open request":              {waits, lifecycle.RequestReceived, `INSERT INTO trakr.deletion_requests (request_id, state, tenant_id, ticket, requested_by, moved_by, submitted_time, received_time, expected_completion_time, moved_at) SELECT gen_random_uuid(), 'received', tenant_id, 'T-1', 'token:anna', 'token:anna', now(), now(), now(), now() FROM trakr.deletion_requests WHERE request_id = $1`, "one_open"},
		"a hold that never was, and back up": {waits, lifecycle.RequestOnHold, move + `state = 'on_hold', held_from = 'approved' WHERE request_id = $1`, "may not move"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := received(t, e, name, x.through...)
			tx := storetest.Must(t)(c.Begin(t.Context())).(pgx.Tx)
			defer func() { _ = tx.Rollback(context.Background()) }()
			if x.event != "" {
				ev := audit.New(t.Context(), e.Clock.Now(), anna(), audit.RequestMove, audit.Success)
				ev.StatusDetail, ev.CorrelationID = string(x.event), r.ID
				if _, err := tx.Exec(t.Context(), `SELECT door.append($1)`, [][]byte{ev.Record()}); err != nil {
					t.Fatal(err)
				}
			}
			_, err := tx.Exec(t.Context(), x.sql, r.ID)
			switch {
			case x.says == "" && x.event != "" && err != nil:
				t.Errorf("refused: %v", err)
			case (x.says != "" || x.event == "") && (err == nil || !strings.Contains(err.Error(), x.says)):
				t.Errorf("%v, want %q", err, x.says)
			}
		})
	}
}

// forged appends the event of a move, as the service's role may.
func forged(t *testing.T, e *storetest.Env, tx pgx.Tx, id string, to lifecycle.RequestState, by string) {
	t.Helper()
	a := anna()
	a.Caller.ID = by
	ev := audit.New(t.Context(), e.Clock.Now(), a, audit.RequestMove, audit.Success)
	ev.StatusDetail, ev.CorrelationID = string(to), id
	if _, err := tx.Exec(t.Context(), `SELECT door.append($1)`, [][]byte{ev.Record()}); err != nil {
		t.Fatal(err)
	}
}

// Whoever took the service over, and another name with it, walks a request through
// its states by SQL; each step needs what it says.
func TestNoRequestIsCompletedBySQLWithoutItsErasureAndItsCertificate(t *testing.T) {
	e := storetest.New(t)
	c := storetest.Must(t)(pgx.Connect(t.Context(), storetest.ServiceURL(t, e.URL))).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	_, r := received(t, e, "walk", lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval)
	other := e.Install(storetest.Values("other"), "other").String()
	const (
		mine, theirs = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
		begin        = `INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, requested_at) VALUES ($1, $2, 'connect', 'uninstall', decode(repeat('00', 36), 'hex'), now())`
		note         = `UPDATE trakr.erasures SET noted_at = now(), ledger_seq = 1, ledger_hash = sha256('a') WHERE erasure_id = $1`
		gone         = `UPDATE trakr.erasures SET erased_at = now() WHERE erasure_id = $1`
		certify      = `INSERT INTO trakr.certificates (certificate_id, erasure_id, issued_at, document) VALUES ($1, $1, now(), '')`
	)
	step := func(to lifecycle.RequestState, set string) error {
		t.Helper()
		tx := storetest.Must(t)(c.Begin(t.Context())).(pgx.Tx)
		defer func() { _ = tx.Rollback(context.Background()) }()
		forged(t, e, tx, r.ID, to, "token:mallory")
		if _, err := tx.Exec(t.Context(), `UPDATE trakr.deletion_requests SET moved_by = 'token:mallory', moved_at = now(), state = '`+string(to)+`'`+set+` WHERE request_id = $1`, r.ID); err != nil {
			return err
		}
		return tx.Commit(t.Context())
	}
	refused := func(why string, to lifecycle.RequestState, set string) {
		t.Helper()
		if err := step(to, set); err == nil || !strings.Contains(err.Error(), "may not move") {
			t.Errorf("%s: %v", why, err)
		}
	}
	taken := func(to lifecycle.RequestState, set string) {
		t.Helper()
		if err := step(to, set); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
	}
	as := func(id string) string { return `, erasure_id = '` + id + `'` }
	e.Exec(begin, theirs, other)
	e.Exec(note, theirs)
	e.Exec(gone, theirs)
	e.Exec(certify, theirs)

	taken(lifecycle.RequestApproved, `, approved_by = 'token:mallory', approved_at = now(), not_before = now()`)
	taken(lifecycle.RequestInProgress, ``)
	refused("verifying without an erasure", lifecycle.RequestVerifying, ``)
	refused("verifying by one that is not there", lifecycle.RequestVerifying, as(mine))
	refused("verifying by another tenant's", lifecycle.RequestVerifying, as(theirs))
	e.Exec(begin, mine, *r.TenantID)
	refused("verifying before it is in the ledger", lifecycle.RequestVerifying, as(mine))
	e.Exec(note, mine)
	refused("verifying before it has deleted", lifecycle.RequestVerifying, as(mine))
	e.Exec(gone, mine)
	refused("verifying without naming it", lifecycle.RequestVerifying, ``)
	taken(lifecycle.RequestVerifying, as(mine))
	refused("another tenant's erasure on the way", lifecycle.RequestPartiallyCompleted, as(theirs))
	refused("completed with a certificate that is not there", lifecycle.RequestCompleted, `, certificate_id = gen_random_uuid()`)
	refused("completed with another's certificate", lifecycle.RequestCompleted, `, certificate_id = '`+theirs+`'`)
	e.Exec(certify, mine)
	taken(lifecycle.RequestCompleted, `, certificate_id = '`+mine+`'`)
}

func TestNothingHeldIsSaidByTheRequestsOwnCertificate(t *testing.T) {
	e := storetest.New(t)
	s := storetest.Must(t)(requests.New(e.DB, e.Log)).(*requests.Store)
	digest := keyring.Digest(make([]byte, 36))
	r := storetest.Must(t)(s.Receive(t.Context(), anna(), requests.Order{Digests: []keyring.Digest{digest}, Submitted: e.Clock.Now(), Due: e.Clock.Now().Add(time.Hour)})).(requests.Request)
	complete := func(certificate string) error {
		_, err := s.Move(t.Context(), anna(), r.ID, func(r *requests.Request, _ requests.Facts) error {
			r.State, r.CertificateID = lifecycle.RequestCompletedNothingHeld, &certificate
			return nil
		})
		return err
	}
	const issue = `INSERT INTO trakr.certificates (certificate_id, request_id, issued_at, document) VALUES ($1, $2, now(), '')`
	theirs, mine := lifecycle.NewTenantID().String(), lifecycle.NewTenantID().String()
	e.Exec(issue, theirs, lifecycle.NewTenantID().String())
	for why, id := range map[string]string{"no certificate": mine, "another request's": theirs} {
		if err := complete(id); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v", why, err)
		}
	}
	e.Exec(issue, mine, r.ID)
	if err := complete(mine); err != nil {
		t.Error(err)
	}
}

// The rule stands twice: the table's check can be dropped.
func TestTwoPeopleDecideWithoutTheTablesCheckToo(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`ALTER TABLE trakr.deletion_requests DROP CONSTRAINT deletion_requests_two_people, DROP CONSTRAINT deletion_requests_approval_whole`)
	s, r := received(t, e, "alone", lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval)
	for _, c := range []struct {
		by     string
		before time.Duration
		want   bool
	}{{"token:anna", 0, false}, {"token:bob", -time.Hour, false}, {"token:bob", 0, true}} {
		a := anna()
		a.Caller.ID = c.by
		_, err := s.Move(t.Context(), a, r.ID, func(r *requests.Request, f requests.Facts) error {
			until := f.Now.Add(c.before)
			r.State, r.ApprovedBy, r.ApprovedAt, r.NotBefore = lifecycle.RequestApproved, &c.by, &f.Now, &until
			return nil
		})
		if (err == nil) != c.want {
			t.Errorf("approved by %s: %v", c.by, err)
		}
	}
}

func TestANewRequestIsReceivedAndNothingElse(t *testing.T) {
	e := storetest.New(t)
	c := storetest.Must(t)(pgx.Connect(t.Context(), storetest.ServiceURL(t, e.URL))).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	for _, state := range lifecycle.RequestStates() {
		tx := storetest.Must(t)(c.Begin(t.Context())).(pgx.Tx)
		id := lifecycle.NewTenantID().String()
		ev := audit.New(t.Context(), e.Clock.Now(), anna(), audit.RequestMove, audit.Success)
		ev.StatusDetail, ev.CorrelationID = string(state), id
		if _, err := tx.Exec(t.Context(), `SELECT door.append($1)`, [][]byte{ev.Record()}); err != nil {
			t.Fatal(err)
		}
		_, err := tx.Exec(t.Context(), `INSERT INTO trakr.deletion_requests (request_id, state, subject_digests, ticket, requested_by, moved_by, submitted_time, received_time,
			expected_completion_time, moved_at, certificate_id, ground, held_from, existing_request_id) VALUES ($1, $2, ARRAY['00'], 'T-1', 'token:anna', 'token:anna', now(), now(), now(), now(),
			CASE WHEN $2 LIKE 'completed%' THEN gen_random_uuid() END, CASE WHEN $2 = 'denied' THEN 'legal_claim' END, CASE WHEN $2 = 'on_hold' THEN 'approved' END, CASE WHEN $2 = 'duplicate' THEN $1::uuid END)`, id, string(state))
		if allowed := state == lifecycle.RequestReceived || state == lifecycle.RequestDuplicate; (err == nil) != allowed {
			t.Errorf("%s: %v", state, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryStateIsOpenOrAnEndInGoAndInTheDatabaseAlike(t *testing.T) {
	e := storetest.New(t)
	index := string(e.Bytes(`SELECT convert_to(pg_get_indexdef('trakr.deletion_requests_one_open'::regclass), 'UTF8')`))
	for _, s := range lifecycle.RequestStates() {
		if strings.Contains(index, "'"+string(s)+"'") == s.Open() {
			t.Errorf("%s: Open is %t, and the index says\n%s", s, s.Open(), index)
		}
	}
}
