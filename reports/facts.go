// Package reports turns policy (what we promise) and facts (what the database
// holds) into documents a compliance reviewer can forward: JSON, CSV and
// self-contained printable HTML.
//
// The package is pure: the same policy, facts and version give the same bytes.
// It never sees a tenant's value; Facts has no place for one.
package reports

import "time"

// Facts is what was found, gathered in one database snapshot. Times are UTC.
type Facts struct {
	AsOf          time.Time // the moment the report speaks about
	Tables        []TableFacts
	LiveTenants   int64
	ErasedTenants int64
	Erasures      ErasureFacts
	Sweeps        []SweepFacts
	OpenFindings  []FindingFacts
	Observations  []Observation
	Controls      []Control
}

// TableFacts is one table as it really is. A table of the database that policy
// does not declare is in the list too, with Declared false.
type TableFacts struct {
	Name     string // schema.table
	Declared bool
	Rows     int64
	Oldest   *time.Time // nil when the table is empty or has no time column
	Newest   *time.Time
}

// ErasureFacts sums up the tombstones.
type ErasureFacts struct {
	Total      int64
	Oldest     *time.Time
	Newest     *time.Time
	LongestLag time.Duration // longest time from the request (uninstall) to gone from live, of all tombstones
	Late       int64         // tombstones that exceeded policy's deletion deadline
}

// SweepFacts is the last finished pass of one kind.
type SweepFacts struct {
	Kind       string
	RunID      string // "" when it never ran
	FinishedAt *time.Time
	Result     string // clean, findings, failed; "" when it never ran
	Tables     int64  // tables checked
	Rows       int64  // rows found that should not be there
	Interval   time.Duration
	Overdue    bool // did not finish within twice its interval before AsOf
}

// FindingFacts is one open finding.
type FindingFacts struct {
	ID       string
	Kind     string
	Table    string
	Column   string
	Count    int64
	OpenedAt time.Time
}

// Observation is what the running system itself could see about where a store
// lies, as opposed to what policy declares.
type Observation struct {
	Store    string // name in policy
	What     string // e.g. "database connection", "server version"
	Value    string // e.g. "unix socket on this machine", "PostgreSQL 15.18"
	How      string // how it was learned
	Conflict bool   // contradicts the declaration
}

// Control is one self-check with its state: "pass", "fail" or "unknown".
type Control struct {
	ID     string
	Title  string
	State  string
	Detail string
}
