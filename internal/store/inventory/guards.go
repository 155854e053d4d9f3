package inventory

import (
	"context"
	"fmt"

	"trakr/internal/store/internal/pg"
)

// Guard is one thing in the database that the promises rest on.
type Guard struct {
	Name string
	OK   bool
}

// Guards looks at the live catalog for what keeps the audit append-only and the
// door safe. A guard that was dropped or switched off is not OK.
func (s *Store) Guards(ctx context.Context) ([]Guard, error) {
	var row struct{ Rows, Table, Append, Read, Commit bool }
	err := pg.Bun(s.db).NewRaw(`SELECT
		EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'trakr.audit_events'::regclass AND tgname = 'audit_events_rows_stay' AND tgenabled = 'A') AS rows,
		EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'trakr.audit_events'::regclass AND tgname = 'audit_events_table_stays' AND tgenabled = 'A') AS "table",
		EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid = to_regprocedure('door.append(bytea[])') AND prosecdef AND proconfig @> ARRAY['search_path=pg_catalog, pg_temp']) AS append,
		EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid = to_regprocedure('door.read(bytea[])') AND prosecdef AND proconfig @> ARRAY['search_path=pg_catalog, pg_temp']) AS read,
		current_setting('synchronous_commit') <> 'off' AS commit`).Scan(ctx, &row)
	if err != nil {
		return nil, fmt.Errorf("looking at the guards: %w", pg.Map(err))
	}
	return []Guard{
		{"audit events cannot be changed or deleted", row.Rows},
		{"the audit cannot be emptied", row.Table},
		{"the append function is in place and safe", row.Append},
		{"the read function is in place and safe", row.Read},
		{"a commit is durable when confirmed", row.Commit},
	}, nil
}
