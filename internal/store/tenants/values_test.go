package tenants_test

import (
	"slices"
	"strings"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

// The table of the fields in lifecycle, the columns that the SQL lists and those of the
// live catalog are the same, in the same order.
func TestTheColumnsAreTheTableOfTheFields(t *testing.T) {
	e := storetest.New(t)
	fields := lifecycle.Fields()
	var names []string
	for _, f := range fields {
		names = append(names, string(f))
	}
	if got := strings.Split(tenants.ValueColumns, ", "); !slices.Equal(got, names) {
		t.Errorf("the SQL lists %v, the table of the fields %v", got, names)
	}
	if len(fields) != tenants.MaxFields {
		t.Errorf("%d fields, and room for %d", len(fields), tenants.MaxFields)
	}
	columns := string(e.Bytes(`SELECT convert_to(string_agg(attname, ', ' ORDER BY attnum), 'UTF8') FROM pg_attribute
		WHERE attrelid = 'trakr.tenant_fields'::regclass AND attnum > 0 AND NOT attisdropped AND atttypid = 'bytea'::regtype`))
	if columns != tenants.ValueColumns {
		t.Errorf("the table has %s, the SQL lists %s", columns, tenants.ValueColumns)
	}
}

// Each value is read back from the column of its own name.
func TestEachValueIsInTheColumnOfItsName(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("columns")
	id := e.Install(values, "in")
	for _, f := range lifecycle.Fields() {
		b := e.Bytes(`SELECT ` + string(f) + ` FROM trakr.tenant_fields`)
		if v, err := e.Keys.Decrypt(id, f, b); err != nil || v != values[f] {
			t.Errorf("%s: %v", f, err)
		}
	}
}
