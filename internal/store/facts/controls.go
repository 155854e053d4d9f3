package facts

import (
	"context"

	"trakr/internal/store/guard"
)

// Controls looks at the live catalog for what the promises about the audit and the
// values rest on. A catalog that cannot be read leaves every control unknown.
func (s *Store) Controls(ctx context.Context) []guard.Control {
	controls, err := guard.Check(ctx, s.db)
	if err != nil {
		return guard.Unknown(err)
	}
	return controls
}
