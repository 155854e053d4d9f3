package policy

import (
	"fmt"
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
	j.stores()
	j.retention()
	j.requests()
	j.sweeps()
	j.liveness()
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

// stores: unique names; sub-processors exist; the values and the replay guard
// are declared and never outlive their tenant.
func (j *judgement) stores() {
	names, tables := map[string]bool{}, map[string]bool{}
	for i, s := range j.p.Stores {
		at := "$.stores[" + strconv.Itoa(i) + "]"
		if names[s.Name] {
			j.fault(at+".name", "the store %q is declared twice", s.Name)
		}
		names[s.Name] = true
		if s.Kind == "backup" && !j.class(Backups) {
			j.fault(at+".kind", "there are backups, and no retention class %q says how long they are kept", Backups)
		}
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
}

// kept: what a store keeps of an erased tenant has a ground and a period, and a ledger
// keeps something.
func (j *judgement) kept(at string, s Store) {
	switch {
	case s.Kind == "ledger" && s.Retained == nil:
		j.fault(at, "an erasure ledger keeps keyed digests of erased tenants: give the ground under retained")
	case (s.Retained == nil) != (s.Class == ""):
		j.fault(at+".class", "a store has a class of retention when it keeps something of an erased tenant (retained), and only then")
	case s.Retained != nil && len(s.Tables) > 0:
		j.fault(at+".retained", "of a store with tables, each table says for itself what it keeps")
	case s.Class != "" && !j.class(s.Class):
		j.fault(at+".class", "there is no retention class %q", s.Class)
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

// floors are the shortest periods that are taken, whatever is written: what goes
// sooner proves nothing. The database has them too (migrations 10 and 14). A class that is
// not here cannot be executed by the sweep.
var floors = map[string]time.Duration{
	"registry":   365 * day,
	"tombstones": 365 * day,
	"evidence":   365 * day,
	"requests":   365 * day,
	"operations": 30 * day,
	"audit":      365 * day,
}

// afterBackups is how much longer than the backups a tombstone stays: a backup
// that is restored late must not bring a tenant back.
const afterBackups = 30 * day

// floor is the shortest period of a class.
func (j *judgement) floor(class string) time.Duration {
	f := floors[class]
	for _, r := range j.p.Retention {
		if r.Class == "backups" && (class == "tombstones" || class == "registry") {
			f = max(f, r.Period.Duration()+afterBackups)
		}
	}
	return f
}

// period: each has one unless its rows stay, and none is shorter than its floor or
// executed by what cannot.
func (j *judgement) period(at string, r Retention) {
	left := r.Period.String() == ""
	switch _, swept := floors[r.Class]; {
	case left != (r.ExecutedBy == ByServiceEnd):
		j.fault(at, "a class has a period, or is executed by %s and has none", ByServiceEnd)
	case !left && r.Period.Duration() < j.floor(r.Class):
		j.fault(at+".period", "%s is kept for at least %d days", r.Class, int(j.floor(r.Class)/day))
	case r.ExecutedBy == ByRetention && (!swept || r.Class == "audit"):
		j.fault(at+".executed_by", "the retention sweep cannot remove rows of this class")
	case swept && r.Class != "audit" && r.ExecutedBy != ByRetention:
		j.fault(at+".executed_by", "this class is executed by %s, and by nothing else", ByRetention)
	}
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
