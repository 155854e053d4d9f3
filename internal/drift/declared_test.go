package drift_test

import (
	"slices"
	"testing"

	"trakr/internal/drift"
	"trakr/policy"
)

func TestOneJudgeOfWhatIsDeclared(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	declared := drift.Declared(p)
	events := declared.Table("trakr.audit_events")
	if !events.Declared || events.Ground == "" || !events.Has("event_id") || events.Has("memo") {
		t.Errorf("the audit's table: %+v", events)
	}
	if got := events.Undeclared([]string{"event_id", "memo", "note"}); !slices.Equal(got, []string{"memo", "note"}) {
		t.Errorf("undeclared columns: %v", got)
	}
	other := declared.Table("public.cache")
	if other.Declared || other.Store != "database" || other.Has("id") || other.Undeclared([]string{"id"}) != nil {
		t.Errorf("an undeclared table: %+v", other)
	}
}
