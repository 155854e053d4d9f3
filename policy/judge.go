package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"trakr/internal/lifecycle"
)

// judge checks what a schema cannot say: that the parts of the file agree with
// each other and with what the code can do.
func judge(p *Policy, lines lineIndex) []Fault {
	j := &judgement{p: p, lines: lines}
	j.fields()
	j.sources()
	j.stores()
	j.egress()
	j.retention()
	j.requests()
	j.sweeps()
	j.jobs()
	j.liveness()
	j.roles()
	j.reasons()
	j.app()
	return j.faults
}

type judgement struct {
	p      *Policy
	lines  lineIndex
	faults []Fault
}

func (j *judgement) fault(path, format string, args ...any) {
	j.faults = append(j.faults, Fault{Line: j.lines.at(path), Path: path, Text: fmt.Sprintf(format, args...)})
}

// fields: each guarded value exactly once, none besides; no forbidden category;
// a credential has no readers and every other field has.
func (j *judgement) fields() {
	seen := map[lifecycle.Field]bool{}
	for i, f := range j.p.Fields {
		at := "$.fields[" + strconv.Itoa(i) + "]"
		switch {
		case !f.Name.Valid():
			j.fault(at+".name", "the service keeps no field of this name")
		case seen[f.Name]:
			j.fault(at+".name", "%s is declared twice", f.Name)
		}
		seen[f.Name] = true
		for _, c := range j.p.ForbiddenCategories {
			if f.Category == c || strings.HasPrefix(f.Category, c+".") {
				j.fault(at+".category", "data of the category %s must not be kept", c)
			}
		}
		if f.Credential != (f.Name == lifecycle.SharedSecret) {
			j.fault(at+".credential", "shared_secret is a credential, and nothing else is")
		}
		if f.Credential && len(f.Readers)+len(f.Reasons) > 0 {
			j.fault(at+".readers", "a credential is released to nobody")
		}
		for _, r := range f.Readers {
			if !slices.Contains(lifecycle.TokenRoles(), r) {
				j.fault(at+".readers", "%q is not a role of an API token", r)
			}
		}
		for _, r := range f.Reasons {
			if !slices.Contains(lifecycle.ReasonCodes(), r) {
				j.fault(at+".reasons", "%q is not a reason code", r)
			}
		}
		if f.Off && !canBeOff(f.Name) {
			j.fault(at+".off", "the service cannot do without %s", f.Name)
		}
		j.released(at, f)
		s, ok := j.store(f.Store)
		if !ok {
			j.fault(at+".store", "there is no store %q", f.Store)
		} else if !s.HoldsFields {
			j.fault(at+".store", "the store %q does not hold tenant values", f.Store)
		}
		if !j.class(f.Retention) {
			j.fault(at+".retention", "there is no retention class %q", f.Retention)
		}
	}
	for _, f := range lifecycle.Fields() {
		if !seen[f] {
			j.fault("$.fields", "%s is kept by the service and not declared", f)
		}
	}
}

// sourceForm is a path of plain names, as deep as the decoder goes.
var sourceForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,39}(\.[A-Za-z_][A-Za-z0-9_-]{0,39}){0,7}$`)

// callbackKeys are the payload's members that name the callback and are not kept.
var callbackKeys = []string{"key", "eventType"}

// sources: each field comes from a place of its own, which the decoder can read and
// the policy does not say is left out.
func (j *judgement) sources() {
	for i, f := range j.p.Fields {
		at := "$.fields[" + strconv.Itoa(i) + "].source"
		lower := strings.ToLower(f.Source)
		switch {
		case !sourceForm.MatchString(f.Source):
			j.fault(at, "a source is a path in the payload of up to eight plain names, such as principal.uuid")
			continue
		case strings.Contains(lower, "mail") || strings.Contains(lower, "phone"):
			j.fault(at, "no e-mail address and no telephone number is read")
		}
		for _, k := range callbackKeys {
			if overlap(f.Source, k) {
				j.fault(at, "%s names the callback itself", k)
			}
		}
		for _, other := range j.p.Fields[:i] {
			if overlap(f.Source, other.Source) {
				j.fault(at, "it is, or lies on the way to, what %s is read from", other.Name)
			}
		}
		for _, k := range j.p.KnownPayloadKeys {
			if !strings.HasSuffix(k, "*") && (f.Source == k || strings.HasPrefix(f.Source, k+".")) {
				j.fault(at, "known_payload_keys says that %s is not kept", k)
			}
		}
	}
}

// overlap reports whether one path is the other or lies below it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}

// canBeOff reports whether the service works without a field.
func canBeOff(f lifecycle.Field) bool { return f == lifecycle.Username || f == lifecycle.AvatarURL }

// disclosable are the fields that the code can send anywhere, and where. Whatever a
// policy says, a person's data and a credential go nowhere.
var disclosable = map[lifecycle.Field][]Destination{
	lifecycle.ClientKey:     {ToBitbucket, ToEndService},
	lifecycle.PrincipalUUID: {ToBitbucket},
}

// released: a field goes only where the code can send it, to a destination that is
// declared and used.
func (j *judgement) released(at string, f FieldRule) {
	for i, to := range f.Egress {
		at := at + ".egress[" + strconv.Itoa(i) + "]"
		e, ok := j.p.Destination(to)
		switch {
		case !ok:
			j.fault(at, "there is no destination %q under egress", to)
		case !slices.Contains(disclosable[f.Name], to):
			j.fault(at, "%s is never sent to %s", f.Name, to)
		case len(e.Hosts) == 0:
			j.fault(at, "the destination %s has no host, so nothing can be sent there", to)
		case f.Off:
			j.fault(at, "%s is off and cannot be sent", f.Name)
		}
	}
}

// egress: each destination once; details and acknowledgement are the end service's.
func (j *judgement) egress() {
	seen := map[Destination]bool{}
	for i, e := range j.p.Egress {
		at := "$.egress[" + strconv.Itoa(i) + "]"
		if seen[e.To] {
			j.fault(at+".to", "the destination %s is declared twice", e.To)
		}
		seen[e.To] = true
		if e.To != ToEndService && (len(e.Details) > 0 || e.Required) {
			j.fault(at, "details and required are for %s only", ToEndService)
		}
	}
	if b, ok := j.p.Destination(ToBitbucket); !ok || len(b.Hosts) == 0 {
		j.fault("$.egress", "the destination bitbucket and its hosts must be declared: every install asks there")
	}
}

// roles: each role of the service exactly once.
func (j *judgement) roles() {
	seen := map[lifecycle.Role]bool{}
	for i, r := range j.p.Roles {
		at := "$.roles[" + strconv.Itoa(i) + "].name"
		switch {
		case !slices.Contains(lifecycle.Roles(), r.Name):
			j.fault(at, "%q is not a role of the service", r.Name)
		case seen[r.Name]:
			j.fault(at, "%s is declared twice", r.Name)
		}
		seen[r.Name] = true
	}
	for _, r := range lifecycle.Roles() {
		if !seen[r] {
			j.fault("$.roles", "%s acts in the service and is not declared", r)
		}
	}
}

// stores: each kind, unique names; sub-processors and classes exist; the values and
// the replay guard are declared and never outlive their tenant.
func (j *judgement) stores() {
	names, tables, kinds := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, s := range j.p.Stores {
		at := "$.stores[" + strconv.Itoa(i) + "]"
		if names[s.Name] {
			j.fault(at+".name", "the store %q is declared twice", s.Name)
		}
		names[s.Name], kinds[s.Kind] = true, true
		j.kind(at, s)
		if !slices.ContainsFunc(j.p.SubProcessors, func(x SubProcessor) bool { return x.Name == s.SubProcessor }) && s.SubProcessor != "" {
			j.fault(at+".sub_processor", "there is no sub-processor of this name")
		}
		j.kept(at, s)
		for k, t := range s.Tables {
			at := at + ".tables[" + strconv.Itoa(k) + "]"
			if tables[t.Name] {
				j.fault(at+".name", "the table %s is declared twice", t.Name)
			}
			tables[t.Name] = true
			if !j.class(t.Class) {
				j.fault(at+".class", "there is no retention class %q", t.Class)
			}
			j.columns(at, t)
			if t.Retained != nil && !t.HasTenant {
				j.fault(at+".retained", "only a table with a tenant can outlive one")
			}
			if t.Name == "trakr.tenant_fields" || t.Name == "trakr.replay_guard" {
				if t.Retained != nil || !t.HasTenant {
					j.fault(at, "the rows of %s go with their tenant: has_tenant: true and no retained", t.Name)
				}
			}
			if t.Name == canaries && t.Retained == nil {
				j.fault(at, "the rows of %s are no finding: give the ground under retained", t.Name)
			}
		}
	}
	for _, t := range []string{"trakr.tenants", "trakr.tenant_fields", "trakr.replay_guard", "trakr.erasures", "trakr.audit_events", canaries} {
		if !tables[t] {
			j.fault("$.stores", "the table %s is not declared", t)
		}
	}
	for _, k := range StoreKinds() {
		if !kinds[k] {
			j.fault("$.stores", "no store of the kind %s says where such data lies", k)
		}
	}
}

// kind: what only a database has, where values may lie, and what ends by a period.
func (j *judgement) kind(at string, s Store) {
	if s.Kind != StoreDatabase && (len(s.Tables) > 0 || len(s.Hosts) > 0 || s.Connection != "") {
		j.fault(at, "tables, hosts and connection are for a %s only", StoreDatabase)
	}
	switch s.Kind {
	case StoreDatabase, StoreReplica:
	case StoreBackup:
		if !j.class(Backups) {
			j.fault(at+".kind", "there are backups, and no retention class %q says how long they are kept", Backups)
		}
	default:
		if s.HoldsFields {
			j.fault(at+".holds_fields", "the service puts no tenant value into a store of the kind %s", s.Kind)
		}
	}
	if s.Retention != "" && !j.class(s.Retention) {
		j.fault(at+".retention", "there is no retention class %q", s.Retention)
	}
	if s.Retention == "" && (s.Kind == StoreBackup || s.Kind == StoreLog || s.Kind == StoreTelemetry) {
		j.fault(at, "a store of the kind %s needs a retention class", s.Kind)
	}
}

// kept: what a store keeps of an erased tenant has a ground and a period, and a ledger
// keeps something.
func (j *judgement) kept(at string, s Store) {
	switch {
	case s.Kind == StoreLedger && s.Retained == nil:
		j.fault(at, "an erasure ledger keeps keyed digests of erased tenants: give the ground under retained")
	case s.Retained != nil && s.Retention == "":
		j.fault(at+".retention", "what a store keeps of an erased tenant has a class of retention")
	case s.Retained != nil && len(s.Tables) > 0:
		j.fault(at+".retained", "of a store with tables, each table says for itself what it keeps")
	}
}

// columns: what tells a row's age is one of them, and a tenant's column is owned up to.
func (j *judgement) columns(at string, t Table) {
	if t.TimeCol != "" && !slices.Contains(t.Columns, t.TimeCol) {
		j.fault(at+".time_column", "%s is not among the table's columns", t.TimeCol)
	}
	if t.AgeCol != "" && !slices.Contains(t.Columns, t.AgeCol) {
		j.fault(at+".age_column", "%s is not among the table's columns", t.AgeCol)
	}
	if tenant := slices.ContainsFunc(t.Columns, CarriesTenant); tenant != t.HasTenant {
		j.fault(at+".has_tenant", "has_tenant is %t, and of a column that carries a tenant the list of columns says %t", t.HasTenant, tenant)
	}
}

// canaries is where the orphan sweep's own orphan lies.
const canaries = "trakr.sweep_canaries"

const day = 24 * time.Hour

// classes are the classes of retention there are: the shortest period that is taken,
// whatever is written, and who executes it. What goes sooner proves nothing, or lets
// a captured callback work twice. The database has the floors of what it removes too
// (migrations 10 and 14).
var classes = map[string]struct {
	floor time.Duration
	by    string
}{
	"tenant-fields": {0, ByUninstall},
	"liveness":      {0, ByUninstall},
	"outbox":        {0, ByUninstall},
	"replay-guard":  {2 * time.Hour, ByReplayGuard}, // as long as a token can be presented
	"registry":      {365 * day, ByRetention},
	"tombstones":    {365 * day, ByRetention},
	"evidence":      {365 * day, ByRetention},
	"requests":      {365 * day, ByRetention},
	"operations":    {30 * day, ByRetention},
	"audit":         {365 * day, ByOperator},
	Backups:         {day, ByOperator},
	"logs":          {day, ByOperator},
	"canaries":      {time.Hour, ByCanary}, // a few plantings
	"ledger":        {0, ByServiceEnd},     // its chain does not let a line go
	"installation":  {0, ByServiceEnd},
}

// afterBackups is how much longer than the backups a tombstone stays: a backup
// that is restored late must not bring a tenant back.
const afterBackups = 30 * day

// floor is the shortest period of a class.
func (j *judgement) floor(class string) time.Duration {
	f := classes[class].floor
	for _, r := range j.p.Retention {
		if r.Class == Backups && (class == "tombstones" || class == "registry") {
			f = max(f, r.Period.Duration()+afterBackups)
		}
	}
	return f
}

// period: each has one unless its rows stay, none is shorter than its floor, and none
// is said to be executed by what cannot.
func (j *judgement) period(at string, r Retention) {
	left := r.Period.String() == ""
	c, known := classes[r.Class]
	switch {
	case left != (r.ExecutedBy == ByServiceEnd):
		j.fault(at, "a class has a period, or is executed by %s and has none", ByServiceEnd)
	case !known:
		j.fault(at+".class", "the service knows no class of retention of this name")
	case !left && r.Period.Duration() < j.floor(r.Class):
		j.fault(at+".period", "%s is kept for at least %s", r.Class, atLeast(j.floor(r.Class)))
	case c.by == ByUninstall && r.Period.Duration() > 0:
		j.fault(at+".period", "what goes with the uninstall goes at once: P0D")
	case r.ExecutedBy == ByRetention && c.by != ByRetention:
		j.fault(at+".executed_by", "the retention sweep cannot remove rows of this class")
	case r.ExecutedBy != c.by && (r.ExecutedBy != ByNobody || c.by != ByOperator):
		j.fault(at+".executed_by", "this class is executed by %s, and by nothing else", c.by)
	}
}

func atLeast(d time.Duration) string {
	if d < day {
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/day))
}

// retention: unique classes with periods; a deadline above zero.
func (j *judgement) retention() {
	seen := map[string]bool{}
	for i, r := range j.p.Retention {
		if seen[r.Class] {
			j.fault("$.retention["+strconv.Itoa(i)+"].class", "the class %q is declared twice", r.Class)
		}
		seen[r.Class] = true
		j.period("$.retention["+strconv.Itoa(i)+"]", r)
	}
	if j.p.DeletionDeadline.Duration() <= 0 {
		j.fault("$.deletion_deadline", "the deadline must be longer than no time")
	}
	if _, err := time.Parse(time.DateOnly, j.p.Marketplace.Decided); err != nil {
		j.fault("$.marketplace.decided", "not a date")
	}
	for i, s := range j.p.SubProcessors {
		if _, err := time.Parse(time.DateOnly, s.Since); err != nil {
			j.fault("$.sub_processors["+strconv.Itoa(i)+"].since", "not a date")
		}
	}
}

// Bounds that no policy can move.
const (
	maxDue  = 30 * 24 * time.Hour  // GDPR Art. 12(3): one month
	maxHold = 366 * 24 * time.Hour // what is held longer is looked at anew
)

// requests: completed within the law's month, after a cooling-off that leaves time
// for it; a hold ends.
func (j *judgement) requests() {
	r := j.p.DeletionRequests
	if d := r.Due.Duration(); d <= 0 || d > maxDue {
		j.fault("$.deletion_requests.due", "a request is completed within 30 days (GDPR Art. 12(3)), and not at once")
	}
	if r.CoolingOff.Duration() >= r.Due.Duration() {
		j.fault("$.deletion_requests.cooling_off", "the cooling-off must end before the request is due")
	}
	if d := j.p.LegalHolds.Longest.Duration(); d < time.Hour || d > maxHold {
		j.fault("$.legal_holds.longest", "a hold lasts between an hour and 366 days; a longer one is placed anew")
	}
}

func (j *judgement) sweeps() {
	seen := map[string]bool{}
	for i, s := range j.p.Sweeps {
		at := "$.sweeps[" + strconv.Itoa(i) + "]"
		if seen[s.Kind] {
			j.fault(at+".kind", "the sweep %q is scheduled twice", s.Kind)
		}
		seen[s.Kind] = true
		if s.Timeout.Duration() < time.Second {
			j.fault(at+".timeout", "a pass needs at least a second")
		}
	}
}

// jobs: each once.
func (j *judgement) jobs() {
	seen := map[string]bool{}
	for i, x := range j.p.Jobs {
		if seen[x.Name] {
			j.fault("$.jobs["+strconv.Itoa(i)+"].name", "the job %q is declared twice", x.Name)
		}
		seen[x.Name] = true
	}
}

// liveness: nothing below the floors, and a pass that can end in its time.
func (j *judgement) liveness() {
	l := j.p.Liveness
	if l.Suspicions < MinSuspicions {
		j.fault("$.liveness.suspicions", "a tenant is erased after %d suspicions or more", MinSuspicions)
	}
	if l.Days < MinDays {
		j.fault("$.liveness.days", "a tenant is suspected for %d days or more before it is erased", MinDays)
	}
	if l.Apart.Duration() < MinApart {
		j.fault("$.liveness.apart", "suspicions count only when they are 12 hours apart, or more")
	}
	if l.MaxErasures > MaxErasures {
		j.fault("$.liveness.max_erasures", "one pass erases %d tenants or fewer", MaxErasures)
	}
	for i, s := range j.p.Sweeps {
		asking := time.Duration(l.Batch) * time.Second / time.Duration(max(l.PerSecond, 1))
		if s.Kind == "liveness" && asking > s.Timeout.Duration() {
			j.fault("$.sweeps["+strconv.Itoa(i)+"].timeout", "a pass cannot end in this time: %d questions at %d a second", l.Batch, l.PerSecond)
		}
	}
}

// reasons: each code of the service exactly once.
func (j *judgement) reasons() {
	seen := map[lifecycle.ReasonCode]bool{}
	for i, r := range j.p.Reasons {
		at := "$.reasons[" + strconv.Itoa(i) + "].code"
		switch {
		case !slices.Contains(lifecycle.ReasonCodes(), r.Code):
			j.fault(at, "%q is not a reason code", r.Code)
		case seen[r.Code]:
			j.fault(at, "%s is declared twice", r.Code)
		}
		seen[r.Code] = true
	}
	for _, c := range lifecycle.ReasonCodes() {
		if !seen[c] {
			j.fault("$.reasons", "%s is recorded by the service and not declared", c)
		}
	}
}

func (j *judgement) app() {
	if !slices.ContainsFunc(j.p.App.Scopes, func(s Scope) bool { return s.Name == j.p.App.Proof.Scope }) {
		j.fault("$.app.proof.scope", "the proof's scope is not among the app's scopes")
	}
}

func (j *judgement) store(name string) (Store, bool) {
	i := slices.IndexFunc(j.p.Stores, func(s Store) bool { return s.Name == name })
	if i < 0 {
		return Store{}, false
	}
	return j.p.Stores[i], true
}

func (j *judgement) class(name string) bool {
	return slices.ContainsFunc(j.p.Retention, func(r Retention) bool { return r.Class == name })
}
