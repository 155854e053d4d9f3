package reports

import (
	"time"

	"trakr/internal/check"
	"trakr/internal/lifecycle"
)

// Facts is everything a report is made from. Counts come from one database snapshot and,
// where rows record their own time, are as of AsOf; Observations, Controls, Guards and
// Jobs describe the moment the facts were gathered. Times are UTC.
type Facts struct {
	AsOf          time.Time  // the moment the report is about
	Past          bool       // AsOf is too long ago for the present state to prove anything about it
	Began         *time.Time // when the log began: no record is older; nil when that is not known
	Tables        []TableFacts
	LiveTenants   int64
	ErasedTenants int64
	Erasures      ErasureFacts
	Sweeps        []SweepFacts
	OpenFindings  []FindingFacts
	Observations  []Observation

	Controls []check.Result // of the service itself
	Guards   []check.Result // of the database's catalog
	Jobs     []JobFacts     // the scheduled jobs

	OrphanChecks    []ColumnFacts  // of the newest pass of the orphan sweep that ended
	Requests        []RequestFacts // deletion requests, newest first
	RequestsLeftOut bool           // there are more requests than Requests has
	Holds           []HoldFacts    // legal holds in force, newest first

	Disclosures      []DisclosureFacts  // in the period Lately before AsOf; nil when the log could not be read
	Scopes           []ScopeFacts       // requested by the descriptor; nil when that is not known
	UncheckedTenants int64              // tenants whose values were stored by a version that did not check what they look like
	SwitchedOff      []SwitchedOffFacts // stored values of fields that the policy switches off; nil when they were not counted
	Suspected        *SuspectedFacts    // nil when they were not counted
	Notices          *NoticeFacts       // nil when they were not counted

	Instances   int         // running instances of the service
	OtherPolicy int         // of these, instances that act by another policy than the report's
	Silent      int         // of these, instances that do not report their destinations
	Hosts       []HostFacts // destinations of the running instances; nil when none reported any
	Databases   []HostFacts // where they reach the database; without an instance, where this process does
}

// Lately is the period in which the statement counts late erasures and disclosures.
const Lately = 90 * 24 * time.Hour

// TableFacts is one table of the live catalog. Tables that the policy does not declare are
// listed too, with Declared false.
type TableFacts struct {
	Name       string // as policy.TableName returns it
	Declared   bool
	Undeclared []string // of a declared table, the columns that the policy does not declare
	Uncounted  string   // why the rows could not be counted; "" when they were
	Rows       int64
	Undated    int64      // of these, rows whose age is not known
	Oldest     *time.Time // nil when the table is empty or has no time column
	Newest     *time.Time
	Due        *time.Time // the oldest value of the column that the period counts from; nil when no row has one
	Unaged     int64      // rows without such a value, except those whose period has not begun
}

// ErasureFacts sums up the tombstones.
type ErasureFacts struct {
	Total      int64
	Oldest     *time.Time
	Newest     *time.Time
	LongestLag time.Duration // of all tombstones: the longest time from the request (uninstall) to deletion from live stores
	Late       int64         // erasures past the policy's deletion deadline, done or not
	LateLately int64         // of these, requested in the period Lately or not done; without those under a legal hold
	Open       int64         // begun, and not yet deleted from live stores
}

// SweepFacts is the newest pass of one kind of sweep that ended, failed or not.
type SweepFacts struct {
	Kind       string
	RunID      string // "" when no pass ever ended
	FinishedAt *time.Time
	Result     string     // clean, findings, blind, failed; "" when no pass ever ended
	Succeeded  *time.Time // when the newest pass that did not fail ended
	Tables     int64      // columns checked
	Unchecked  int64      // columns and undeclared tables that could not be checked
	Rows       int64      // rows found that should not exist
	Interval   time.Duration
	Overdue    bool // no pass ended without failing within twice the interval before AsOf
}

// ColumnFacts is what one pass of the orphan sweep counted for one column.
type ColumnFacts struct {
	Table, Column, Disposition, Ground string
	Rows                               int64
	Predicate                          string // hex SHA-256 of the SQL; "" when nothing could be counted
	CheckedAt                          time.Time
}

// FindingFacts is one open finding.
type FindingFacts struct {
	ID           string
	Kind         string // of the sweep
	Table        string
	Column       string // "" for the table as a whole
	Ground       string // "" for rows of tenants that are no longer registered
	Count        *int64 // nil when it could not be counted
	OpenedAt     time.Time
	Topic        Topic
	Acknowledged bool // a person named a ticket for it; the finding stays open
}

// Topic is what a finding is about, where that is not a row or column of a tenant.
type Topic string

// Topics of findings; "" is for rows and columns.
const (
	TopicPayloads   Topic = "payloads"   // an unknown member of Bitbucket's payloads; none of it is stored
	TopicDeliveries Topic = "deliveries" // what the end service did not accept
)

// JobFacts is whether one scheduled job runs in time.
type JobFacts struct {
	Name string // as the scheduler knows it: "sweep orphans"
	check.Result
}

// Observation is what the running system could see of a store's place, as opposed to what
// the policy declares.
type Observation struct {
	Store    string // its name in the policy
	What     string // e.g. "connection", "server"
	Value    string // e.g. "unix socket: on the machine the service runs on", "PostgreSQL 15.18"
	How      string // how it was learned
	Conflict bool   // contradicts the declaration
}

// RequestFacts is a customer's deletion request as of AsOf.
type RequestFacts struct {
	ID, Ticket, TenantID string // TenantID is "" when no tenant was known
	State                string
	Open, Overdue        bool
	Late                 bool      // overdue, or answered after its due time in the period Lately
	MovedAt              time.Time // when it entered State
	Submitted, Received  time.Time
	Due                  time.Time
	DeletedAt            *time.Time // when the values were deleted from live stores
	BackupsClear         *time.Time
	CertificateID        string
}

// HoldFacts is one legal hold.
type HoldFacts struct {
	ID, TenantID, Ground, Ticket string
	PlacedAt, Until              time.Time
}

// DisclosureFacts is how often the log records one field as disclosed to one recipient.
type DisclosureFacts struct {
	To               lifecycle.Destination // the role in which the recipient received it
	Recipient, Field string
	Events           int64
}

// ScopeFacts is one scope of the descriptor and the call that needs it, "" for none.
type ScopeFacts struct{ Name, NeededBy string }

// SwitchedOffFacts is how many values of a field that the policy switches off are stored.
type SwitchedOffFacts struct {
	Field lifecycle.Field
	Rows  int64
}

// SuspectedFacts counts the installations that Bitbucket no longer knows and that are
// still stored, except those under a legal hold.
type SuspectedFacts struct {
	Total int64
	Late  int64 // of these, suspected for longer than it takes to erase them
}

// NoticeFacts counts the notices of erasures that the end service has not acknowledged,
// for tenants that it had been notified of.
type NoticeFacts struct {
	Open int64
	Late int64 // of these, waiting longer than the policy's deletion deadline
}

// HostFacts is a host that a setting names.
type HostFacts struct {
	Setting, Host string // Host is "" for a database at a unix socket of the service's machine
	Declared      bool   // by the policy, or the host is this machine; a database may also be in the private network
	Database      bool   // a database is reached there
}
