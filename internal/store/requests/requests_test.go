package requests_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
func received(t *testing.T, e *storetest.Env, mark string, through ...requests.State) (*requests.Store, requests.Request) {
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
	waits := []requests.State{requests.IdentityCheck, requests.AwaitingApproval}
	for name, x := range map[string]struct {
		through []requests.State
		event   requests.State // of the forged event; "" for none
		sql     string
		says    string // "" when the database must take it: the rest fails for its own reason
	}{
		"a move as it should be":             {waits, requests.Cancelled, move + `state = 'cancelled' WHERE request_id = $1`, ""},
		"without its event":                  {waits, "", move + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"with another state's event":         {waits, requests.Denied, move + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"in the name of another":             {waits, requests.Cancelled, strings.Replace(move, "anna", "bob", 1) + `state = 'cancelled' WHERE request_id = $1`, "together with its audit event"},
		"in progress without an approval":    {waits, requests.InProgress, move + `state = 'in_progress' WHERE request_id = $1`, "may not move"},
		"completed at once":                  {waits, requests.Completed, move + `state = 'completed', certificate_id = gen_random_uuid() WHERE request_id = $1`, "may not move"},
		"approved by nobody":                 {waits, requests.Approved, move + `state = 'approved' WHERE request_id = $1`, "may not move"},
		"approved by who entered it":         {waits, requests.Approved, move + `state = 'approved', approved_by = 'token:anna', approved_at = now(), not_before = now() WHERE request_id = $1`, "two_people"},
		"approved in the name of another":    {waits, requests.Approved, move + `state = 'approved', approved_by = 'token:bob', approved_at = now(), not_before = now() WHERE request_id = $1`, "may not move"},
		"an approval given on the way":       {[]requests.State{requests.IdentityCheck}, requests.AwaitingApproval, move + `state = 'awaiting_approval', approved_by = 'token:bob', approved_at = now(), not_before = now() WHERE request_id = $1`, "may not move"},
		"around the identity check":          {nil, requests.AwaitingApproval, move + `state = 'awaiting_approval' WHERE request_id = $1`, "may not move"},
		"a hold as a way to approved":        {append(waits, requests.Cancelled), requests.Approved, move + `state = 'approved' WHERE request_id = $1`, "may not move"},
		"a change without a move":            {waits, requests.AwaitingApproval, move + `ground = 'legal_claim' WHERE request_id = $1`, "denied_on_ground"},
		"nothing held, of a tenant":          {nil, requests.CompletedNothingHeld, move + `state = 'completed_nothing_held', certificate_id = gen_random_uuid() WHERE request_id = $1`, "may not move"},
		"another requester":                  {waits, "", `UPDATE trakr.deletion_requests SET requested_by = 'token:nobody' WHERE request_id = $1`, "permission denied"},
		"another tenant":                     {waits, "", `UPDATE trakr.deletion_requests SET tenant_id = gen_random_uuid() WHERE request_id = $1`, "permission denied"},
		"a request deleted":                  {waits, "", `DELETE FROM trakr.deletion_requests WHERE request_id = $1`, "permission denied"},
		"a history of its own":               {waits, "", `INSERT INTO trakr.deletion_request_events (request_id, seq, to_state, moved_by, moved_at) VALUES ($1, 9, 'approved', 'x', now())`, "permission denied"},
		"the trigger switched off":           {waits, "", `ALTER TABLE trakr.deletion_requests DISABLE TRIGGER request_moves; SELECT $1`, ""},
		"entered as approved":                {waits, requests.Approved, `INSERT INTO trakr.deletion_requests (request_id, state, subject_digests, ticket, requested_by, approved_by, approved_at, not_before, moved_by, submitted_time, received_time, expected_completion_time, moved_at) VALUES ($1, 'approved', ARRAY['00'], 'T-1', 'a', 'b', now(), now(), 'a', now(), now(), now(), now())`, "duplicate key"},
		"a second open request":              {waits, requests.Received, `INSERT INTO trakr.deletion_requests (request_id, state, tenant_id, ticket, requested_by, moved_by, submitted_time, received_time, expected_completion_time, moved_at) SELECT gen_random_uuid(), 'received', tenant_id, 'T-1', 'token:anna', 'token:anna', now(), now(), now(), now() FROM trakr.deletion_requests WHERE request_id = $1`, "one_open"},
		"a hold that never was, and back up": {waits, requests.OnHold, move + `state = 'on_hold', held_from = 'approved' WHERE request_id = $1`, "may not move"},
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

func TestANewRequestIsReceivedAndNothingElse(t *testing.T) {
	e := storetest.New(t)
	c := storetest.Must(t)(pgx.Connect(t.Context(), storetest.ServiceURL(t, e.URL))).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	for _, state := range requests.States() {
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
		if allowed := state == requests.Received || state == requests.Duplicate; (err == nil) != allowed {
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
	for _, s := range requests.States() {
		if strings.Contains(index, "'"+string(s)+"'") == s.Open() {
			t.Errorf("%s: Open is %t, and the index says\n%s", s, s.Open(), index)
		}
	}
}
