package reports

import (
	"fmt"
	"slices"
	"strings"

	"trakr/internal/check"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// statementCheck is one check that a sentence of the security statement can need.
type statementCheck struct {
	id     string // as in policy/statement.yaml
	title  string // what is true when the check passes
	decide func(*policy.Policy, Facts) SentenceCheck
}

// checks is every check, in the order of Checks, with the function that decides it.
// policy/statement.yaml binds each sentence to its checks by id.
var checks = []statementCheck{
	{"fields", "Only the declared fields are stored, and no value of a field that is switched off", onlyDeclaredFields},
	{"catalog", "Every table and column in the database is declared", catalogDeclared},
	{"no-contact-field", "No declared field is of a forbidden category", noContactField},
	{"minimisation", "No unencrypted value in the database looks like an e-mail address or a phone number, " +
		"and every encrypted value was checked before it was stored", noContactData},
	{"erasures", "Every erasure was completed within the deadline", erasuresInTime},
	{"recipients", "Every recipient of a tenant's data is notified of its erasure within the deadline", recipientsNotified},
	{"backups", "Backups are deleted after their period", backupsDeleted},
	{"orphans", "The newest sweep found no row of an erased tenant, and it found its canary, the row planted to prove that it can see",
		noOrphans},
	{"missed-uninstalls", "Bitbucket is asked which installations still exist, and none is kept that it has not known for days",
		missedUninstallsNoticed},
	{"sweeps-run", "Every scheduled check runs in time", sweepsInTime},
	{"one-place", "The stores that may contain tenant values are declared in one place", declaredInOnePlace},
	{"observed-place", "The database is observed at the declared place", observedAtDeclaredPlace},
	{"egress", "Of the guarded values, the policy releases only the client key and the UUID", egressDeclared},
	{"disclosures", "The log shows no disclosure that the policy does not release", disclosuresReleased},
	{"hosts", "Every destination of the running service is declared", hostsDeclared},
	{"policy", "The running service acts by this policy", actsByPolicy},
	{"guards", "The database's own guards are in place", guardsInPlace},
	{"integrity", "The log was verified, and nothing was changed around the service", logVerified},
	{"descriptor", "The descriptor requests only the declared scopes", descriptorScopesDeclared},
	{"scopes-needed", "Every scope is needed by a call", scopesNeeded},
	{"requests", "No deletion request is overdue or was answered late", requestsAnswered},
}

// Checks returns the ids of the checks that a sentence can be bound to.
func Checks() []string {
	out := make([]string, len(checks))
	for i, c := range checks {
		out[i] = c.id
	}
	return out
}

// runCheck evaluates the check with this id.
func runCheck(id string, p *policy.Policy, f Facts) SentenceCheck {
	for _, c := range checks {
		if c.id == id {
			out := c.decide(p, f)
			out.ID, out.Title = c.id, c.title
			return out
		}
	}
	// policy.LoadStatement refuses an id that Checks does not have.
	return SentenceCheck{Result: check.Result{ID: id, State: check.Unknown, Evidence: "there is no such check."}}
}

// recorded is the result of a check of records. Before the log began nothing was
// recorded, so nothing passes.
func (f Facts) recorded(state check.State, format string, args ...any) SentenceCheck {
	if state == check.Pass && f.Began != nil && f.AsOf.Before(*f.Began) {
		return SentenceCheck{Result: check.Result{State: check.Unknown, Evidence: "nothing was recorded yet."}}
	}
	out := SentenceCheck{Result: check.Result{State: state, Evidence: fmt.Sprintf(format, args...)}}
	if state != check.Unknown {
		out.VerifiedAt = stamp(&f.AsOf)
	}
	return out
}

// observed is the result of a check of what can be seen only while the report is made.
func (f Facts) observed(state check.State, format string, args ...any) SentenceCheck {
	if f.Past {
		return SentenceCheck{Result: check.Result{State: check.Unknown,
			Evidence: "only the present state can be observed, which proves nothing about an earlier time."}}
	}
	return f.recorded(state, format, args...)
}

// anyFinding matches every finding.
func anyFinding(FindingFacts) bool { return true }

// bySweep passes when the newest pass of a kind of sweep is recent and could see, and no
// finding of it that matches is open.
func (f Facts) bySweep(kind string, matches func(FindingFacts) bool) SentenceCheck {
	out := SentenceCheck{Result: check.Result{State: check.Unknown, Evidence: "the sweep " + kind + " is not scheduled."}}
	for _, x := range f.Sweeps {
		if x.Kind != kind {
			continue
		}
		if out.Evidence = "the sweep " + kind + " never ended."; x.RunID == "" {
			break
		}
		out.References = []string{"sweep run " + x.RunID}
		out.VerifiedAt = stamp(x.FinishedAt)
		newest := "the newest pass of the sweep " + kind
		switch {
		case x.Result == "failed":
			out.Evidence = newest + " failed."
		case x.Overdue:
			out.Evidence = newest + " is older than twice its interval."
		case x.Result == "clean":
			out.State, out.Evidence = check.Pass, newest+" found nothing."
		case x.Result == "findings":
			out.State, out.Evidence = check.Pass, newest+" found nothing of this kind."
		default:
			out.Evidence = newest + " could not see everything."
		}
	}
	open := f.findings(kind, matches)
	if len(open) == 0 || out.State == check.Unknown {
		return out
	}
	places := make([]string, len(open))
	for i, x := range open {
		places[i] = x.place()
		out.References = append(out.References, "finding "+x.ID)
	}
	out.State = check.Fail
	out.Evidence = plural(int64(len(open)), "finding", "findings") + " of the sweep " + kind + " open: " + strings.Join(places, ", ") + "."
	return out
}

func (f Facts) findings(kind string, matches func(FindingFacts) bool) (out []FindingFacts) {
	for _, x := range f.OpenFindings {
		if x.Kind == kind && matches(x) {
			out = append(out, x)
		}
	}
	return out
}

// onlyDeclaredFields decides "fields".
func onlyDeclaredFields(p *policy.Policy, f Facts) SentenceCheck {
	const table = "trakr.tenant_fields"
	i := slices.IndexFunc(f.Tables, func(t TableFacts) bool { return t.Name == table })
	if i < 0 {
		return f.observed(check.Unknown, "the table of values could not be seen.")
	}
	if u := f.Tables[i].Undeclared; len(u) > 0 {
		return f.observed(check.Fail, "the table of values has undeclared columns: %s.", strings.Join(u, ", "))
	}
	off := 0
	for _, x := range p.Fields {
		if !x.Off {
			continue
		}
		off++
		i := slices.IndexFunc(f.SwitchedOff, func(c SwitchedOffFacts) bool { return c.Field == x.Name })
		switch {
		case i < 0:
			return f.observed(check.Unknown, "the field %s is switched off, and its stored values could not be counted.", x.Name)
		case f.SwitchedOff[i].Rows > 0:
			return f.observed(check.Fail, "the field %s is switched off, and %s of it stored.",
				x.Name, plural(f.SwitchedOff[i].Rows, "value is", "values are"))
		}
	}
	if off > 0 {
		return f.observed(check.Pass, "the table of values has the declared columns and no other; of %s no value is stored.",
			plural(int64(off), "field that is switched off", "fields that are switched off"))
	}
	return f.observed(check.Pass, "the table of values has the declared columns and no other.")
}

// catalogDeclared decides "catalog".
func catalogDeclared(p *policy.Policy, f Facts) SentenceCheck {
	s := tablesDeclared(p, f)
	return f.observed(s.State, "%s", s.Evidence)
}

// noContactField decides "no-contact-field".
func noContactField(p *policy.Policy, f Facts) SentenceCheck {
	for _, x := range p.Fields {
		if !x.Off && p.Forbidden(x.Category) != "" {
			return f.observed(check.Fail, "the field %s is of the category %s.", x.Name, x.Category)
		}
	}
	return f.observed(check.Pass, "none of the %d declared fields is.", len(p.Fields))
}

// noContactData decides "minimisation". The sweep reads what is not encrypted; encrypted
// values were checked on arrival, by this version of the service or a later one.
func noContactData(_ *policy.Policy, f Facts) SentenceCheck {
	out := f.bySweep("minimisation", func(x FindingFacts) bool { return x.Topic != TopicPayloads })
	if out.State == check.Pass && f.UncheckedTenants > 0 {
		out.State = check.Unknown
		out.Evidence = "the values of " + plural(f.UncheckedTenants, "tenant", "tenants") + " were stored by a version that did " +
			"not check them; " +
			"they are checked when Bitbucket installs the tenant again, and for all tenants by: trakr keys rotate."
	}
	return out
}

// erasuresInTime decides "erasures".
func erasuresInTime(p *policy.Policy, f Facts) SentenceCheck {
	e := f.Erasures
	if e.LateLately > 0 {
		return f.recorded(check.Fail, "%s of the last %d days took longer than %s, or are older than that and not done.",
			plural(e.LateLately, "erasure", "erasures"), latelyDays, p.DeletionDeadline.Human())
	}
	return f.recorded(check.Pass, "%s recorded, none late in the last %d days; tenants under a legal hold are not counted.",
		plural(e.Total, "erasure", "erasures"), latelyDays)
}

// recipientsNotified decides "recipients".
func recipientsNotified(p *policy.Policy, f Facts) SentenceCheck {
	n := f.Notices
	switch {
	case n == nil:
		return f.recorded(check.Unknown, "the notices to the end service could not be counted.")
	case n.Late > 0:
		return f.recorded(check.Fail, "the end service has not acknowledged %s of an erasure for longer than %s.",
			plural(n.Late, "notice", "notices"), p.DeletionDeadline.Human())
	}
	return f.recorded(check.Pass, "no notice of an erasure waits longer than %s; %s.",
		p.DeletionDeadline.Human(), plural(n.Open, "is under way", "are under way"))
}

// backupsDeleted decides "backups". It never passes: the service cannot see backups.
func backupsDeleted(p *policy.Policy, f Facts) SentenceCheck {
	if _, ok := p.Period(policy.Backups); !ok {
		return f.recorded(check.Unknown, "the policy declares that there are no backups; the service cannot see them.")
	}
	return f.recorded(check.Unknown, "the period is declared, and the provider of the backups carries it out; the service cannot see them.")
}

// noOrphans decides "orphans".
func noOrphans(_ *policy.Policy, f Facts) SentenceCheck {
	rows := nothingRemains(f)
	out := f.recorded(rows.State, "%s", rows.Evidence)
	for _, x := range f.Sweeps {
		if x.Kind == "orphans" && x.RunID != "" {
			out.VerifiedAt, out.References = stamp(x.FinishedAt), []string{"sweep run " + x.RunID}
		} else if x.Kind == "orphans" {
			out.VerifiedAt = ""
		}
	}
	if canary := canarySeen(f); out.State == check.Pass && canary.State != check.Pass {
		out.State, out.Evidence = check.Unknown, canary.Evidence
	}
	return out
}

// missedUninstallsNoticed decides "missed-uninstalls". An installation that Bitbucket does
// not know may be an outage there or an uninstall that never reached the service, so it is
// kept until enough probes agree.
func missedUninstallsNoticed(p *policy.Policy, f Facts) SentenceCheck {
	out := f.bySweep("liveness", anyFinding)
	if out.State != check.Pass {
		return out
	}
	limit := p.Liveness.LongestInWords()
	switch s := f.Suspected; {
	case s == nil:
		out.State, out.Evidence = check.Unknown, "the installations that Bitbucket does not know could not be counted."
	case s.Late > 0:
		out.State = check.Fail
		out.Evidence = plural(s.Late, "installation is", "installations are") + " kept that Bitbucket has not known for longer " +
			"than " + limit + "."
	case s.Total > 0:
		out.Evidence = "Bitbucket does not know " + plural(s.Total, "installation", "installations") +
			", none for longer than " + limit + "; they are erased if its answer stays the same."
	}
	return out
}

// sweepsInTime decides "sweeps-run". It fails, and is not merely unknown, when a check is
// overdue: that checks run is what the sentence claims.
func sweepsInTime(_ *policy.Policy, f Facts) SentenceCheck {
	var late []string
	for _, x := range f.Sweeps {
		if x.Overdue {
			late = append(late, "sweep "+x.Kind)
		}
	}
	for _, j := range f.Jobs {
		switch {
		case j.State == check.Fail && !slices.Contains(late, j.Name):
			late = append(late, j.Name)
		case j.State != check.Pass && j.State != check.Fail:
			return f.observed(check.Unknown, "no running service has scheduled %s.", j.Name)
		}
	}
	switch {
	case late != nil:
		return f.observed(check.Fail, "no success within twice the interval: %s.", strings.Join(late, ", "))
	case len(f.Jobs) == 0 || len(f.Sweeps) == 0:
		return f.observed(check.Unknown, "no running service has scheduled a check.")
	}
	return f.observed(check.Pass, "%s, each within twice its interval.", plural(int64(len(f.Jobs)), "job", "jobs"))
}

// admitted is the fields that the sentence "use" admits to send to each destination. It repeats
// the table in lifecycle on purpose: a field added there is not in the sentence yet.
var admitted = map[lifecycle.Destination][]lifecycle.Field{
	lifecycle.ToEndService: {lifecycle.ClientKey},
	lifecycle.ToBitbucket:  {lifecycle.ClientKey, lifecycle.PrincipalUUID},
}

// egressDeclared decides "egress".
func egressDeclared(p *policy.Policy, f Facts) SentenceCheck {
	for _, x := range p.Fields {
		for _, to := range x.Egress {
			if !slices.Contains(admitted[to], x.Name) {
				return f.observed(check.Fail, "the policy releases %s to %s.", x.Name, to)
			}
		}
	}
	return f.observed(check.Pass, "the sentence names every value that the policy releases.")
}

// disclosuresReleased decides "disclosures".
func disclosuresReleased(p *policy.Policy, f Facts) SentenceCheck {
	if f.Disclosures == nil {
		return f.recorded(check.Unknown, "the log could not be read.")
	}
	var events int64
	for _, d := range f.Disclosures {
		events += d.Events
		n := plural(d.Events, "disclosure", "disclosures")
		if !declaredRecipient(p, d.To, d.Recipient) {
			return f.recorded(check.Fail, "%s to %s, which the policy does not declare.", n, d.Recipient)
		}
		if !d.released(p) {
			return f.recorded(check.Fail, "%s of %s to %s, which the policy does not release there.", n, d.Field, d.Recipient)
		}
	}
	return f.recorded(check.Pass, "%s of a value in the last %d days, each as "+
		"released.", plural(events, "disclosure", "disclosures"), latelyDays)
}

// declaredRecipient reports whether a destination is at a host that the policy declares
// for it, or at this machine, where simulators run.
func declaredRecipient(p *policy.Policy, to lifecycle.Destination, name string) bool {
	host := strings.Split(name, ":")[0]
	e, ok := p.Destination(to)
	return ok && (name == string(to) || slices.Contains(e.Hosts, host) || host == "localhost" || host == "127.0.0.1")
}

// released reports whether the policy permits a disclosure.
func (d DisclosureFacts) released(p *policy.Policy) bool {
	// The secret itself is never sent: the log records its use as a signing key.
	signs := d.To == lifecycle.ToBitbucket && d.Field == string(lifecycle.SharedSecret)
	return signs || p.Releases(lifecycle.Field(d.Field), d.To)
}

// guardsInPlace decides "guards".
func guardsInPlace(_ *policy.Policy, f Facts) SentenceCheck {
	for _, c := range f.Guards {
		switch c.State {
		case check.Pass:
		case check.Fail:
			return f.observed(check.Fail, "%s%s: %s.", guardTitle, c.Title, c.Detail())
		default:
			return f.observed(check.Unknown, "%s%s: could not be checked.", guardTitle, c.Title)
		}
	}
	if len(f.Guards) == 0 {
		return f.observed(check.Unknown, "the database's guards could not be seen.")
	}
	return f.observed(check.Pass, "%s of the database's catalog pass.", plural(int64(len(f.Guards)), "control", "controls"))
}

// logVerified decides "integrity".
func logVerified(_ *policy.Policy, f Facts) SentenceCheck { return f.bySweep("integrity", anyFinding) }

// descriptorScopesDeclared decides "descriptor".
func descriptorScopesDeclared(p *policy.Policy, f Facts) SentenceCheck {
	if f.Scopes == nil {
		return f.observed(check.Unknown, "the descriptor was not available.")
	}
	for _, s := range f.Scopes {
		if !slices.ContainsFunc(p.App.Scopes, func(x policy.Scope) bool { return x.Name == s.Name }) {
			return f.observed(check.Fail, "the descriptor requests %s, which the policy does not declare.", s.Name)
		}
	}
	return f.observed(check.Pass, "%s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}

// scopesNeeded decides "scopes-needed".
func scopesNeeded(_ *policy.Policy, f Facts) SentenceCheck {
	if f.Scopes == nil {
		return f.observed(check.Unknown, "the descriptor was not available.")
	}
	for _, s := range f.Scopes {
		if s.NeededBy == "" {
			return f.observed(check.Fail, "no call needs the scope %s.", s.Name)
		}
	}
	return f.observed(check.Pass, "each of %s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}

// requestsAnswered decides "requests".
func requestsAnswered(_ *policy.Policy, f Facts) SentenceCheck {
	late := int64(0)
	for _, r := range f.Requests {
		if r.Late {
			late++
		}
	}
	if late > 0 {
		return f.recorded(check.Fail, "%s overdue or answered late in the last %d days.",
			plural(late, "request is", "requests are"), latelyDays)
	}
	s := requestsInTime(f)
	return f.recorded(s.State, "%s", s.Evidence)
}
