package tenants

// ValueColumns is valueColumns, for the test that compares it with the catalog.
const ValueColumns = valueColumns
