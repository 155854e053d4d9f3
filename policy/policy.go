// Package policy loads and validates the one file (trakr.yaml) that the service acts by
// and that every public sentence is derived from: which fields are kept and who may read
// them, where each store is, how long each class of data is kept, when sweeps run, which
// scopes the app requests.
//
// It also loads the security statement (statement.yaml), which binds each public sentence
// to the checks that make it true, by id. The checks themselves are in package reports:
// the variable checks in reports/statement_checks.go lists each id beside its function.
//
// The package is pure: it reads bytes, not databases. Load returns every fault of a file
// at once, each with its line; the validate_*.go files contain the rules, part by part.
package policy

import (
	"fmt"
	"math"
	"time"

	"trakr/internal/lifecycle"
)

// Policy is the whole file. Load returns it only when it is valid, so its users need no
// checks of their own.
type Policy struct {
	Version             int            `yaml:"version"`
	App                 App            `yaml:"app"`
	Vendor              Vendor         `yaml:"vendor"`
	Fields              []FieldRule    `yaml:"fields"`
	ForbiddenCategories []string       `yaml:"forbidden_categories"` // fideslang keys, prefix match: "user.contact"
	Stores              []Store        `yaml:"stores"`
	SubProcessors       []SubProcessor `yaml:"sub_processors"`
	Egress              []Egress       `yaml:"egress"`
	PersonalData        PersonalData   `yaml:"personal_data_reporting"`
	Marketplace         Marketplace    `yaml:"marketplace"`
	Retention           []Retention    `yaml:"retention"`
	DeletionDeadline    Period         `yaml:"deletion_deadline"` // from the uninstall to deletion from live stores
	DeletionRequests    Requests       `yaml:"deletion_requests"`
	LegalHolds          LegalHolds     `yaml:"legal_holds"`
	Liveness            Liveness       `yaml:"liveness"`
	Sweeps              []Sweep        `yaml:"sweeps"`
	Jobs                []Job          `yaml:"jobs"`
	KnownPayloadKeys    []string       `yaml:"known_payload_keys"` // known in payloads and not kept; see KnownPayloadKey
	Roles               []Role         `yaml:"roles"`
	Reasons             []Reason       `yaml:"reasons"`
	NotAudited          []NotAudited   `yaml:"not_audited"` // the published list of what leaves no audit event

	hash   string
	source []byte
}

// App is what the Connect descriptor is generated from.
type App struct {
	Key         string   `yaml:"key"`
	Name        string   `yaml:"name"`
	Description string   `yaml:"description"`
	Homepage    string   `yaml:"homepage"`
	Contexts    []string `yaml:"contexts"`
	Scopes      []Scope  `yaml:"scopes"`
	Proof       Proof    `yaml:"proof"`
	ForgeAppID  string   `yaml:"forge_app_id"` // "" until the Forge successor exists
}

// Scope is one Bitbucket scope and the call that needs it.
type Scope struct {
	Name string `yaml:"name"`
	Why  string `yaml:"why"`
}

// Proof names the protected resource that proves possession of an offered secret;
// "{workspace}" is replaced by the workspace's uuid in braces, escaped.
type Proof struct {
	Resource string `yaml:"resource"`
	Scope    string `yaml:"scope"` // must be among the app's scopes
}

// Vendor is the company that publishes the app and is responsible for the data.
type Vendor struct {
	Name    string `yaml:"name"`
	URL     string `yaml:"url"`
	Contact string `yaml:"contact"` // of the role, not of a person
}

// FieldRule declares one guarded field.
type FieldRule struct {
	Name       lifecycle.Field         `yaml:"name"`
	Source     string                  `yaml:"source"`   // path in the payload, e.g. "principal.links.avatar.href"
	Label      string                  `yaml:"label"`    // its name in the Marketplace sheet
	Category   string                  `yaml:"category"` // fideslang key
	Purpose    string                  `yaml:"purpose"`
	Store      string                  `yaml:"store"`
	Retention  string                  `yaml:"retention"`  // class of Retention
	Off        bool                    `yaml:"off"`        // not stored at all; for a field whose spec is Optional
	Egress     []lifecycle.Destination `yaml:"egress"`     // where its value may be sent; empty: nowhere
	Credential bool                    `yaml:"credential"` // never released by an API
	Readers    []lifecycle.Role        `yaml:"readers"`
	Reasons    []lifecycle.ReasonCode  `yaml:"reasons"`
	DropHosts  []string                `yaml:"drop_hosts"` // values that are URLs on these hosts (or below) are not kept
}

// Kinds of stores.
const (
	StoreDatabase  = "database"
	StoreReplica   = "replica"
	StoreBackup    = "backup"
	StoreLedger    = "ledger"
	StoreLog       = "log"
	StoreTelemetry = "telemetry"
	StoreExport    = "export"
)

// StoreKinds returns the kinds. A policy declares for each where it is.
func StoreKinds() []string {
	return []string{StoreDatabase, StoreReplica, StoreBackup, StoreLedger, StoreLog, StoreTelemetry, StoreExport}
}

// Store is a place where data is stored.
type Store struct {
	Name         string   `yaml:"name"`
	Kind         string   `yaml:"kind"` // one of StoreKinds
	Purpose      string   `yaml:"purpose"`
	Provider     string   `yaml:"provider"`
	Product      string   `yaml:"product"`
	City         string   `yaml:"city"`
	Region       string   `yaml:"region"`  // provider's name of the region, e.g. "nyc3"
	Country      string   `yaml:"country"` // ISO 3166-1 alpha-2
	SubProcessor string   `yaml:"sub_processor"`
	Encryption   string   `yaml:"encryption"`
	HoldsFields  bool     `yaml:"holds_fields"` // may contain tenant values
	Connection   string   `yaml:"connection"`   // how the service reaches it: "network" or "local"; "" is not declared
	Hosts        []string `yaml:"hosts"`        // of kind database: hosts it may be reached at, "*.example.com" for any below
	Retention    string   `yaml:"retention"`    // class of Retention, of a store without tables; "" when it keeps nothing
	Tables       []Table  `yaml:"tables"`       // of kind database
	Notes        []string `yaml:"notes"`

	// Retained is what a store without tables keeps of an erased tenant. A store of kind
	// ledger always keeps something.
	Retained *Retained `yaml:"retained"`
}

// Table declares one table of a database store. After a tenant's erasure, a table with a
// tenant column must have no row of it unless Retained is set. A column that is not
// declared is a finding of the sweep, whatever it contains.
type Table struct {
	Name    string   `yaml:"name"` // as TableName returns it
	Holds   string   `yaml:"holds"`
	Columns []string `yaml:"columns"` // every column, by name
	// Categories declares what each column contains that the built-in policy does not know:
	// a fideslang key, or "system" for no customer data.
	Categories map[string]string `yaml:"categories"`
	TimeCol    string            `yaml:"time_column"` // for oldest and newest in the reports; "" when the table has none
	// AgeCol is the column that the period counts from, where it is not TimeCol. The period
	// of rows without a value in it has not begun.
	AgeCol    string    `yaml:"age_column"`
	Class     string    `yaml:"class"` // class of Retention
	Retained  *Retained `yaml:"retained"`
	HasTenant bool      `yaml:"has_tenant"`
}

// Retained declares why a table keeps rows of an erased tenant, and what they contain.
type Retained struct {
	Ground string `yaml:"ground"`
	What   string `yaml:"what"`
}

// SubProcessor is a company that stores or carries data for us.
type SubProcessor struct {
	Name    string `yaml:"name"`
	Country string `yaml:"country"`
	Purpose string `yaml:"purpose"`
	Since   string `yaml:"since"` // date, 2006-01-02
	Link    string `yaml:"link"`
}

// Egress declares one destination. Nothing is sent to a destination that is not declared.
type Egress struct {
	To       lifecycle.Destination `yaml:"to"`
	Party    string                `yaml:"party"`   // the company or person
	Country  string                `yaml:"country"` // ISO 3166-1 alpha-2
	Purpose  string                `yaml:"purpose"`
	Hosts    []string              `yaml:"hosts"`    // exact host names, this machine's excepted; empty: the destination is not used
	Carries  []string              `yaml:"carries"`  // what is sent there besides guarded fields, in words
	Details  []string              `yaml:"details"`  // of the app, for the end service: app_key, app_name
	Required bool                  `yaml:"required"` // an erasure waits for its acknowledgement
}

// PersonalData is Atlassian's duty to report accounts whose personal data an app
// stores. It applies while a field of a person is kept.
type PersonalData struct {
	MetBy string `yaml:"met_by"` // how it is met while it applies
}

// Marketplace contains the answers of the Privacy & Security sheet that no software can
// give: what lawyers and the operator decided, and which role that was.
type Marketplace struct {
	Owner            string `yaml:"owner"`   // the role that gave these answers
	Decided          string `yaml:"decided"` // date, 2006-01-02
	Controller       string `yaml:"gdpr_controller"`
	Processor        string `yaml:"gdpr_processor"`
	OutsideEEA       bool   `yaml:"transferred_outside_eea"`
	Transfer         string `yaml:"transfer_mechanism"` // "" for none
	Business         string `yaml:"ccpa_business"`
	ServiceProvider  string `yaml:"ccpa_service_provider"`
	DPA              bool   `yaml:"dpa"`
	DiskEncryption   bool   `yaml:"disk_encryption"`
	SecurityContact  string `yaml:"security_contact"`
	SecurityPolicies string `yaml:"security_policies"` // https address
}

// Role is one role that acts and what it may do.
type Role struct {
	Name lifecycle.Role `yaml:"name"`
	May  string         `yaml:"may"`
}

// Retention is the period of one class of data.
type Retention struct {
	Class      string `yaml:"class"`
	Period     Period `yaml:"period"`
	Starts     string `yaml:"starts"` // the event the period counts from
	Ground     string `yaml:"ground"`
	ExecutedBy string `yaml:"executed_by"` // what carries it out: one of the constants below
}

// What executes a period.
const (
	ByUninstall   = "uninstall"    // the callback itself deletes
	ByReplayGuard = "replay_guard" // the running service, every five minutes
	ByOperator    = "operator"     // a command, or a setting at the provider
	ByRetention   = "retention"    // the sweep of that name
	ByCanary      = "canary"       // the job that plants the next one
	ByNone        = "none"         // nothing yet; the retention sweep reports overdue rows
	ByServiceEnd  = "service_end"  // nothing: rows are kept as long as the service
)

// Requests configures how customers' deletion requests are answered.
type Requests struct {
	Due           Period        `yaml:"due"`         // from the request until it is completed
	CoolingOff    Period        `yaml:"cooling_off"` // from the approval until it is carried out
	IdentityCheck IdentityCheck `yaml:"identity_check"`
}

// IdentityCheck is who confirms that a request comes from the customer.
type IdentityCheck string

// Identity checks: the person who enters the request confirms it by the ticket, or another
// person confirms it in a step of its own.
const (
	IdentityByTicket IdentityCheck = "ticket"
	IdentitySeparate IdentityCheck = "separate"
)

// LegalHolds bounds how long a legal hold may delay a deletion.
type LegalHolds struct {
	Longest Period `yaml:"longest"` // from placing a hold to its end
}

// Liveness configures when a tenant whose uninstall never reached us is erased: after
// Bitbucket answered Suspicions times that the installation does not exist, each Apart from
// the previous answer but no more than StoryBreak times that, over at least Days days. The
// code has floors for all three.
type Liveness struct {
	Suspicions  int    `yaml:"suspicions"`
	Days        int    `yaml:"days"`
	Apart       Period `yaml:"apart"`        // in this time a tenant is probed, and a suspicion counts, once
	MaxErasures int    `yaml:"max_erasures"` // tenants erased in one pass, at most
	Batch       int    `yaml:"batch"`        // tenants probed in one pass, at most
	Parallel    int    `yaml:"parallel"`     // probes at the same time
	PerSecond   int    `yaml:"per_second"`   // probes a second, at most
}

// Longest returns the longest time from when Bitbucket no longer knows an installation
// until it is erased: each probe and its repetition may have to wait for a pass.
func (l Liveness) Longest() time.Duration {
	apart := l.Apart.Duration()
	return 2*apart + max(time.Duration(l.Days)*24*time.Hour, time.Duration(l.Suspicions-1)*apart)
}

// LongestInWords returns that time in whole days, for a sentence.
func (l Liveness) LongestInWords() string {
	days := int(math.Ceil(l.Longest().Hours() / 24))
	return fmt.Sprintf("%d days", days)
}

// Floors of Liveness. An outage at Bitbucket can last a weekend; no policy may erase a
// tenant on less evidence.
const (
	MinSuspicions = 3
	MinDays       = 3
	MinApart      = 12 * time.Hour
)

// Bounds of Liveness on erasing many. After a change of the app's scopes, or a fault at
// Bitbucket, it denies knowing many installations at once although they exist.
const (
	MassFloor   = 3  // so many may be missing at once ...
	MassPercent = 5  // ... or so many of a hundred that answered; beyond both, none is erased
	MaxErasures = 50 // in one pass, whatever the policy allows
	StoryBreak  = 3  // times Apart: after a longer pause, suspicions are counted from one again
)

// Sweep is one scheduled check.
type Sweep struct {
	Kind     string `yaml:"kind"`
	Schedule string `yaml:"schedule"` // five-field cron, UTC
	Timeout  Period `yaml:"timeout"`
}

// Job is what the service does at set times besides the sweeps. Its schedule is in the
// code; it is declared here so that nothing runs undeclared.
type Job struct {
	Name     string `yaml:"name"`
	Schedule string `yaml:"schedule"` // five-field cron, UTC
	Does     string `yaml:"does"`
}

// Reason is one reason code and what it is for.
type Reason struct {
	Code lifecycle.ReasonCode `yaml:"code"`
	For  string               `yaml:"for"`
}

// NotAudited is one thing that is deliberately not in the audit, and why.
type NotAudited struct {
	What string `yaml:"what"`
	Why  string `yaml:"why"`
}
