package view_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	deletion "trakr/internal/requests"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// filled returns a value of a store's type in which every field is set.
func filled[T any]() T {
	var out T
	fill(reflect.ValueOf(&out).Elem())
	return out
}

func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 24, 12, 0, 0, 123456000, time.UTC)))
		return
	case uuid.UUID, lifecycle.TenantID:
		v.Set(reflect.ValueOf(uuid.MustParse("01a20e98-a0d9-7be0-acd3-8cea525129a5")).Convert(v.Type()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8:
		v.SetUint(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	default:
		panic(fmt.Sprintf("a %s cannot be filled", v.Type()))
	}
}

// The keys and values are what other programs read: a change here changes the API
// and the command line's --json.
func TestTheModelsAreEncodedAsBefore(t *testing.T) {
	window := 35 * 24 * time.Hour
	got := map[string]any{}
	for name, v := range map[string]any{
		"tenant":   view.NewTenant(filled[tenants.Tenant]()),
		"erasure":  view.NewErasure(filled[erasures.Erasure](), window),
		"request":  view.NewRequestDetail(filled[deletion.Shown]()),
		"requests": view.NewListedRequests(filled[[]deletion.Listed]()),
		"holds":    view.NewHolds(filled[[]holds.Hold]()),
		"run":      view.NewSweepRun(filled[findings.Run]()),
		"finding":  view.NewFindingDetail(filled[findings.Finding](), filled[[]findings.Event]()),

		"a live tenant":       view.NewTenant(tenants.Tenant{}),
		"an erasure begun":    view.NewErasure(erasures.Erasure{}, window),
		"a request received":  view.NewRequestDetail(deletion.Shown{}),
		"a run not finished":  view.NewSweepRun(findings.Run{}),
		"a finding just seen": view.NewFindingDetail(findings.Finding{}, []findings.Event{}),
	} {
		got[name] = v
	}
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/views.golden.json"
	if *update {
		if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(b)+"\n"); d != "" {
		t.Errorf("go test ./internal/view -update rewrites the file (-want +got):\n%s", d)
	}
}
