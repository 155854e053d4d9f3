package store_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/lifecycle"
	"trakr/internal/store/holds"
	"trakr/internal/store/outbox"
	"trakr/internal/store/requests"
	"trakr/internal/store/storetest"
)

// A closed set of values is written twice: as constants in Go, which the API's
// description uses, and as a CHECK constraint in the database. This compares them.
func TestEachClosedSetOfValuesIsTheSameInGoAndInTheDatabase(t *testing.T) {
	e := storetest.New(t)
	quoted := regexp.MustCompile(`'([a-z_]+)'::text`)
	for constraint, want := range map[string][]string{
		"tenants_state_known":            words(lifecycle.TenantStates()),
		"tenants_ingress_known":          words(lifecycle.Ingresses()),
		"erasures_ingress_known":         words(lifecycle.Ingresses()),
		"erasures_trigger_known":         words(lifecycle.Triggers()),
		"deletion_requests_state_known":  words(lifecycle.RequestStates()),
		"deletion_requests_ground_known": words(requests.Grounds()),
		"legal_holds_ground_known":       words(holds.Grounds()),
		"outbox_state_known":             words([]outbox.State{outbox.Waiting, outbox.Dead, outbox.Acknowledged, outbox.Superseded}),
		"api_tokens_role_known":          words(lifecycle.TokenRoles()),
	} {
		def := e.Bytes(`SELECT convert_to(coalesce(string_agg(pg_get_constraintdef(oid), ''), ''), 'UTF8') FROM pg_constraint WHERE conname = $1`, constraint)
		var got []string
		for _, m := range quoted.FindAllSubmatch(def, -1) {
			got = append(got, string(m[1]))
		}
		slices.Sort(got)
		slices.Sort(want)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-Go +database):\n%s", constraint, d)
		}
	}
}

func words[T ~string](all []T) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = string(s)
	}
	return out
}

func TestTheTableOfFieldsIsTheSameInGoAndInTheDatabase(t *testing.T) {
	e := storetest.New(t)
	got := string(e.Bytes(`SELECT convert_to(string_agg(attname, ',' ORDER BY attnum), 'UTF8') FROM pg_attribute
		WHERE attrelid = 'trakr.tenant_fields'::regclass AND atttypid = 'bytea'::regtype AND attnum > 0 AND NOT attisdropped`))
	var want string
	for _, f := range words(lifecycle.Fields()) {
		want += "," + f
	}
	if d := cmp.Diff(want[1:], got); d != "" {
		t.Errorf("the columns of trakr.tenant_fields (-Go +database):\n%s", d)
	}
}
