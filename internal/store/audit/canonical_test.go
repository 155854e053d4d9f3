package audit

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
)

func full() Event {
	return Event{EventID: uuid.MustParse("01a20e98-a0d9-7be0-acd3-8cea525129a5"), OccurredAt: time.Date(2026, 11, 24, 12, 0, 0, 1000, time.UTC),
		TenantID: lifecycle.TenantID(uuid.MustParse("5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11")), ActorType: lifecycle.ActorService, ActorID: "token:1",
		Action: TenantRead, Outcome: Success, StatusDetail: "s", ReasonCode: lifecycle.ServiceOperation, ReasonRef: "R-1",
		FieldNames: []lifecycle.Field{lifecycle.Username, lifecycle.AvatarURL}, DroppedNames: []string{"a.b"}, SubjectDigest: "00ff", Recipient: "h",
		RequestID: "q", TraceID: "t", CorrelationID: "c", SchemaVersion: SchemaVersion}
}

// The bytes are a promise to every later version: hashes are made of them.
func TestTheRecordsBytesDoNotChange(t *testing.T) {
	const want = `{"action":"tenant.read","actor_id":"token:1","actor_type":"service","correlation_id":"c","dropped_names":["a.b"],` +
		`"event_id":"01a20e98-a0d9-7be0-acd3-8cea525129a5","field_names":["username","avatar_url"],"occurred_at":"2026-11-24T12:00:00.000001Z",` +
		`"outcome":"success","reason_code":"service_operation","reason_ref":"R-1","recipient":"h","request_id":"q","schema_version":1,` +
		`"status_detail":"s","subject_digest":"00ff","tenant_id":"5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11","trace_id":"t"}`
	if got := string(full().Record()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// encoding/json writes maps with sorted keys; for ASCII without <>& that is
	// canonical, and gives an independent reading.
	var m map[string]any
	if err := json.Unmarshal([]byte(want), &m); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(m); string(again) != want {
		t.Errorf("keys are not in order:\n%s", again)
	}
}

func TestAbsentMembersAreLeftOut(t *testing.T) {
	e := New(context.Background(), time.Unix(0, 0), lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorAnonymous, ID: "x"}}, TenantLookup, Denied)
	for _, absent := range []string{"tenant_id", "field_names", "trace_id", "null"} {
		if strings.Contains(string(e.Record()), absent) {
			t.Errorf("%s in %s", absent, e.Record())
		}
	}
	if e.EventID.Version() != 7 {
		t.Errorf("event id of version %d", e.EventID.Version())
	}
}
