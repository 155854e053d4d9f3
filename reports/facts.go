// Package reports turns policy (what we promise) and facts (what the database
// holds) into documents a compliance reviewer can forward: JSON, CSV and
// self-contained printable HTML.
//
// The package is pure: the same policy, facts and version give the same bytes.
// It never sees a tenant's value; Facts has no place for one.
package reports

import (
	"time"

	"trakr/internal/lifecycle"
)

// Facts is what was found. Counts are of one database snapshot and, where the rows
// tell when they were recorded, as of AsOf; Observations and Controls are of the
// moment the facts were gathered. Times are UTC.
type Facts struct {
	AsOf          time.Time  // the moment the report speaks about
	Past          bool       // it lies so far back that what can be seen only now says nothing of it
	Began         *time.Time // when the log began: nothing beside it is older; nil when that cannot be told
	Tables        []TableFacts
	LiveTenants   int64
	ErasedTenants int64
	Erasures      ErasureFacts
	Sweeps        []SweepFacts
	OpenFindings  []FindingFacts
	Observations  []Observation
	Controls      []Control

	OrphanChecks    []CheckFacts   // of the newest pass of the orphan sweep that ended
	Requests        []RequestFacts // deletion requests, newest first
	RequestsLeftOut bool           // there are more than the list has
	Holds           []HoldFacts    // legal holds in force, newest first

	Disclosures []DisclosureFacts  // of the time Lately before AsOf; nil when the log could not be asked
	Scopes      []ScopeFacts       // that the descriptor asks for; nil when that is not known
	Unjudged    int64              // tenants whose values were stored by a version that did not judge what they look like
	SwitchedOff []SwitchedOffFacts // values of fields that the policy switches off; nil when they were not counted
	Unknown     *UnknownFacts      // installations that Bitbucket does not know any more; nil when they were not counted
	Notices     *NoticeFacts       // of erasures, to the end service; nil when that is not known

	Services    int         // that run
	OtherPolicy int         // of these, the ones that act by another policy than the report is made with
	Silent      int         // of these, the ones that do not say whom they talk to
	Hosts       []HostFacts // whom those that run talk to; nil when none said it
	Databases   []HostFacts // where they reach the database; when none runs, where this report's maker did
}

// SwitchedOffFacts is how many values are stored of a field that the policy switches off.
type SwitchedOffFacts struct {
	Field lifecycle.Field
	Rows  int64
}

// UnknownFacts are installations that Bitbucket does not know any more, and that are
// here. What a legal hold keeps is not among them.
type UnknownFacts struct {
	Suspected int64
	Late      int64 // of these, the ones that should have been erased: suspected longer than that takes
}

// NoticeFacts are the notices of erasures that the end service, which was told of the
// tenant before, has not acknowledged.
type NoticeFacts struct {
	Open int64
	Late int64 // of these, the ones that wait longer than the policy's deletion deadline
}

// Lately is the time in which the statement counts late erasures and disclosures.
const Lately = 90 * 24 * time.Hour

// DisclosureFacts is how often the log has one field disclosed to one recipient.
type DisclosureFacts struct {
	To               lifecycle.Destination // as what it was told
	Recipient, Field string
	Events           int64
}

// HostFacts is a host that a setting names.
type HostFacts struct {
	Setting, Host string // of a database Host is "" for a unix socket of the service's machine
	Declared      bool   // by the policy, or it is this machine; of a database also: it lies in the private network
	Database      bool   // a database is reached there
}

// ScopeFacts is one scope of the descriptor and the call that needs it, "" for none.
type ScopeFacts struct{ Name, NeededBy string }

// CheckFacts is what one pass said of one column.
type CheckFacts struct {
	Table, Column, Disposition, Ground string
	Rows                               int64
	Predicate                          string // hex SHA-256 of the SQL; "" when nothing could be counted
	CheckedAt                          time.Time
}

// RequestFacts is a customer's deletion request as it stood at the moment.
type RequestFacts struct {
	ID, Ticket, TenantID string // TenantID "" when no tenant was known
	State                string
	Open, Overdue        bool
	Late                 bool      // overdue, or answered after its due time in the time Lately before the moment
	MovedAt              time.Time // into that state
	Submitted, Received  time.Time
	Due                  time.Time
	DeletedAt            *time.Time // gone from live stores
	BackupsClear         *time.Time
	CertificateID        string
}

// HoldFacts is one legal hold.
type HoldFacts struct {
	ID, TenantID, Ground, Ticket string
	PlacedAt, Until              time.Time
}

// TableFacts is one table as it really is. A table of the database that policy
// does not declare is in the list too, with Declared false.
type TableFacts struct {
	Name       string // as policy.TableName gives it
	Declared   bool
	Undeclared []string // columns that policy does not declare, of a declared table
	Uncounted  string   // why it could not be counted; "" when it was
	Rows       int64
	Undated    int64      // of these, rows whose age is not known
	Oldest     *time.Time // nil when the table is empty or has no time column
	Newest     *time.Time
	Due        *time.Time // the oldest by the column its period counts from; nil when no row has one
	Unaged     int64      // rows of which it is not known, other than those whose period has not begun
}

// ErasureFacts sums up the tombstones.
type ErasureFacts struct {
	Total      int64
	Oldest     *time.Time
	Newest     *time.Time
	LongestLag time.Duration // longest time from the request (uninstall) to gone from live, of all tombstones
	Late       int64         // erasures that exceeded policy's deletion deadline, done or not
	LateLately int64         // of these, the ones requested in the time Lately before AsOf or not done, without those a legal hold keeps
	Open       int64         // begun, and not gone from live stores yet
}

// SweepFacts is the newest finished pass of one kind, failed or not.
type SweepFacts struct {
	Kind       string
	RunID      string // "" when it never finished
	FinishedAt *time.Time
	Result     string     // clean, findings, blind, failed; "" when it never finished
	Succeeded  *time.Time // when the newest pass that did not fail finished
	Tables     int64      // columns checked
	Unjudged   int64      // columns, and undeclared tables, about which nothing can be said
	Rows       int64      // rows found that should not be there
	Interval   time.Duration
	Overdue    bool // none that did not fail finished within twice its interval before AsOf
}

// FindingFacts is one open finding.
type FindingFacts struct {
	ID       string
	Kind     string
	Table    string
	Column   string // "" for a table as such
	Ground   string // "" for rows of tenants that are no longer registered
	Count    *int64 // nil when it could not be counted
	OpenedAt time.Time
	Topic    Topic
	Known    bool // acknowledged by a person, who named a ticket; it is open all the same
}

// Topic is what a finding is about, where that is no row or column of a tenant's.
type Topic string

// The topics; "" for rows and columns.
const (
	OfPayloads   Topic = "payloads"   // a member's name in Bitbucket's payloads; nothing of it is kept
	OfDeliveries Topic = "deliveries" // what the end service did not take
)

// Observation is what the running system itself could see about where a store
// lies, as opposed to what policy declares.
type Observation struct {
	Store    string // name in policy
	What     string // e.g. "database connection", "server version"
	Value    string // e.g. "unix socket on this machine", "PostgreSQL 15.18"
	How      string // how it was learned
	Conflict bool   // contradicts the declaration
}

// JobControl begins the ids of the controls that say whether scheduled jobs run.
const JobControl = "job: "

// Control is one self-check with its state: "pass", "fail" or "unknown".
type Control struct {
	ID     string
	Title  string
	State  string
	Detail string
}
