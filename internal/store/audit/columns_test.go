package audit

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"trakr/internal/proof/auditfile"
)

// tags returns the names that a struct's fields have in a tag, in their order.
func tags(v any, tag string) (out []string) {
	for f := range fieldsOf(reflect.TypeOf(v)) {
		if name, _, _ := strings.Cut(f.Tag.Get(tag), ","); name != "" && !strings.Contains(name, ":") {
			out = append(out, name)
		}
	}
	return out
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// What Query selects, the API shows and a file can show are the columns of the one list,
// with what only the database knows of an event beside them.
func TestEveryListOfColumnsIsTheOneList(t *testing.T) {
	if !slices.IsSorted(columnNames()) {
		t.Error("the list is not in the order of a canonical record")
	}
	for name, c := range map[string]struct{ got, beside []string }{
		"row":       {tags(row{}, "bun"), []string{"id", "recorded_at", "epoch", "xid"}},
		"View":      {tags(View{}, "json"), []string{"recorded_at", "log_index"}},
		"auditfile": {auditfile.Members(), nil},
	} {
		want := slices.Sorted(slices.Values(append(columnNames(), c.beside...)))
		if got := slices.Sorted(slices.Values(c.got)); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
}
