package reports

import (
	"slices"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/policy"
)

// whatever is every finding.
func whatever(FindingFacts) bool { return true }

// bySweep is true when the newest pass of a kind is not old, could see, and nothing that
// it found of what the check is about is open.
func bySweep(kind string, about func(FindingFacts) bool) func(*policy.Policy, Facts) Bound {
	return func(_ *policy.Policy, f Facts) Bound {
		b := Bound{State: NotVerified, Why: "the sweep " + kind + " is not scheduled."}
		for _, x := range f.Sweeps {
			if x.Kind != kind {
				continue
			}
			if b.Why = "the sweep " + kind + " never finished."; x.RunID == "" {
				break
			}
			b.evidence = []string{"sweep run " + x.RunID}
			b.VerifiedAt = stamp(x.FinishedAt)
			switch {
			case x.Result == "failed":
				b.Why = "the newest pass of the sweep " + kind + " failed."
			case x.Overdue:
				b.Why = "the newest pass of the sweep " + kind + " is older than twice its interval."
			case x.Result == "clean":
				b.State, b.Why = True, "the newest pass of the sweep "+kind+" found nothing."
			case x.Result == "findings":
				b.State, b.Why = True, "the newest pass of the sweep "+kind+" found nothing of this."
			default:
				b.Why = "the newest pass of the sweep " + kind + " could not see everything."
			}
		}
		if open := f.findings(kind, about); len(open) > 0 && b.State != NotVerified {
			b.State, b.Why = False, plural(int64(len(open)), "finding", "findings")+" of the sweep "+kind+" open: "+subjects(open)+"."
			b.evidence = append(b.evidence, ids(open)...)
		}
		return b
	}
}

// nothingLikeContact: the sweep reads what lies in clear; what is sealed was judged when
// it came, by this version or a later one.
func nothingLikeContact(p *policy.Policy, f Facts) Bound {
	b := bySweep("minimisation", func(x FindingFacts) bool { return x.Topic != OfPayloads })(p, f)
	if b.State == True && f.Unjudged > 0 {
		b.State, b.Why = NotVerified, "the values of "+plural(f.Unjudged, "tenant", "tenants")+" were stored before values were judged; each is judged when Bitbucket installs it again, and all are by: trakr keys rotate."
	}
	return b
}

// uninstallsNoticed: an installation that Bitbucket does not know any more may be an
// outage there, or an uninstall that never reached us; it is kept only so long as it
// takes to tell.
func uninstallsNoticed(p *policy.Policy, f Facts) Bound {
	b := bySweep("liveness", whatever)(p, f)
	switch {
	case b.State != True:
	case f.Unknown == nil:
		b.State, b.Why = NotVerified, "the installations that Bitbucket does not know any more could not be counted."
	case f.Unknown.Late > 0:
		b.State, b.Why = False, plural(f.Unknown.Late, "installation is", "installations are")+" kept that Bitbucket has not known for longer than "+p.Liveness.Spoken()+"."
	case f.Unknown.Suspected > 0:
		b.Why = "Bitbucket does not know " + plural(f.Unknown.Suspected, "installation", "installations") + " any more, none for longer than " + p.Liveness.Spoken() + "; erased when it keeps saying so."
	}
	return b
}

func (f Facts) findings(kind string, about func(FindingFacts) bool) (out []FindingFacts) {
	for _, x := range f.OpenFindings {
		if x.Kind == kind && about(x) {
			out = append(out, x)
		}
	}
	return out
}

func subjects(list []FindingFacts) string {
	var out []string
	for _, x := range list {
		out = append(out, strings.TrimSuffix(x.Table+"."+x.Column, "."))
	}
	return strings.Join(out, ", ")
}

func ids(list []FindingFacts) (out []string) {
	for _, x := range list {
		out = append(out, "finding "+x.ID)
	}
	return out
}

func fieldsKept(p *policy.Policy, f Facts) Bound {
	const table = "trakr.tenant_fields"
	i := slices.IndexFunc(f.Tables, func(t TableFacts) bool { return t.Name == table })
	if i < 0 {
		return f.seen(NotVerified, "the table of values could not be seen.")
	}
	if u := f.Tables[i].Undeclared; len(u) > 0 {
		return f.seen(False, "the table of values has columns that nobody declared: %s.", strings.Join(u, ", "))
	}
	off := 0
	for _, x := range p.Fields {
		if !x.Off {
			continue
		}
		off++
		i := slices.IndexFunc(f.SwitchedOff, func(h SwitchedOffFacts) bool { return h.Field == x.Name })
		switch {
		case i < 0:
			return f.seen(NotVerified, "the field %s is switched off, and it could not be told whether values of it are stored.", x.Name)
		case f.SwitchedOff[i].Rows > 0:
			return f.seen(False, "the field %s is switched off, and %s of it stored.", x.Name, plural(f.SwitchedOff[i].Rows, "value is", "values are"))
		}
	}
	if off > 0 {
		return f.seen(True, "the table of values has the declared columns and no other; of %s no value is stored.", plural(int64(off), "field that is switched off", "fields that are switched off"))
	}
	return f.seen(True, "the table of values has the declared columns and no other.")
}

func noContactField(p *policy.Policy, f Facts) Bound {
	for _, x := range p.Fields {
		if !x.Off && p.Forbidden(x.Category) != "" {
			return f.seen(False, "the field %s is of the category %s.", x.Name, x.Category)
		}
	}
	return f.seen(True, "of %d declared fields none is.", len(p.Fields))
}

func erasuresInTime(p *policy.Policy, f Facts) Bound {
	e := f.Erasures
	if e.LateLately > 0 {
		return f.verdict(False, "%s of the last %d days took longer than %s, or are not done and older than that.", plural(e.LateLately, "erasure", "erasures"), int(Lately/(24*time.Hour)), p.DeletionDeadline.Human())
	}
	return f.verdict(True, "%s on record, none of the last %d days late; a tenant under a legal hold is not counted.", plural(e.Total, "erasure", "erasures"), int(Lately/(24*time.Hour)))
}

// recipientsTold: what the end service was told and not told to forget is not deleted.
func recipientsTold(p *policy.Policy, f Facts) Bound {
	n := f.Notices
	switch {
	case n == nil:
		return f.verdict(NotVerified, "what waits for the end service could not be counted.")
	case n.Late > 0:
		return f.verdict(False, "%s for longer than %s that the end service takes notice of an erasure.", plural(n.Late, "tenant waits", "tenants wait"), p.DeletionDeadline.Human())
	}
	return f.verdict(True, "no notice of an erasure waits longer than %s; %s.", p.DeletionDeadline.Human(), plural(n.Open, "is under way", "are under way"))
}

// backupsGone is never true: a backup lies outside of what the service can see.
func backupsGone(p *policy.Policy, f Facts) Bound {
	if _, ok := p.Period(policy.Backups); !ok {
		return f.verdict(NotVerified, "that there are none is declared; the service cannot see backups.")
	}
	return f.verdict(NotVerified, "the period is declared and kept by whoever makes them; the service cannot see backups.")
}

func requestsAnswered(_ *policy.Policy, f Facts) Bound {
	late := int64(0)
	for _, r := range f.Requests {
		if r.Late {
			late++
		}
	}
	s := requestsInTime(f)
	if late > 0 {
		return f.verdict(False, "%s overdue or answered late in the last %d days.", plural(late, "request is", "requests are"), int(Lately/(24*time.Hour)))
	}
	return f.verdict(s.State.truth(), "%s", s.Why)
}

func orphansGone(_ *policy.Policy, f Facts) Bound {
	rows := nothingRemains(f)
	b := f.verdict(rows.State.truth(), "%s", rows.Why)
	for _, x := range f.Sweeps {
		if x.Kind == "orphans" && x.RunID != "" {
			b.VerifiedAt, b.evidence = stamp(x.FinishedAt), []string{"sweep run " + x.RunID}
		} else if x.Kind == "orphans" {
			b.VerifiedAt = ""
		}
	}
	if canary := canarySeen(f); b.State == True && canary.State != Holds {
		b.State, b.Why = NotVerified, canary.Why
	}
	return b
}

// everySweepRuns is false, not merely unknown, when a check stands still: that it runs
// is what the sentence says.
func everySweepRuns(_ *policy.Policy, f Facts) Bound {
	var late []string
	for _, x := range f.Sweeps {
		if x.Overdue {
			late = append(late, "sweep "+x.Kind)
		}
	}
	jobs := 0
	for _, c := range f.Controls {
		job, ok := strings.CutPrefix(c.ID, JobControl)
		if !ok {
			continue
		}
		if jobs++; c.State == "fail" && !slices.Contains(late, job) {
			late = append(late, job)
		} else if c.State != "pass" && c.State != "fail" {
			return f.seen(NotVerified, "no running service has scheduled %s.", job)
		}
	}
	switch {
	case late != nil:
		return f.seen(False, "no success within twice the interval: %s.", strings.Join(late, ", "))
	case jobs == 0 || len(f.Sweeps) == 0:
		return f.seen(NotVerified, "no running service has scheduled a check.")
	}
	return f.seen(True, "%s, each within twice its interval.", plural(int64(jobs), "job", "jobs"))
}

// spoken are the fields that the statement admits to send anywhere. The list repeats
// lifecycle's table on purpose: a field added there is not in the sentence yet.
var spoken = map[lifecycle.Destination][]lifecycle.Field{
	lifecycle.ToEndService: {lifecycle.ClientKey},
	lifecycle.ToBitbucket:  {lifecycle.ClientKey, lifecycle.PrincipalUUID},
}

func egressDeclared(p *policy.Policy, f Facts) Bound {
	for _, x := range p.Fields {
		for _, to := range x.Egress {
			if !slices.Contains(spoken[to], x.Name) {
				return f.seen(False, "the policy lets %s go to %s.", x.Name, to)
			}
		}
	}
	return f.seen(True, "what the policy releases is named in the sentence.")
}

func disclosuresAllowed(p *policy.Policy, f Facts) Bound {
	if f.Disclosures == nil {
		return f.verdict(NotVerified, "the log could not be asked.")
	}
	var events int64
	for _, d := range f.Disclosures {
		events += d.Events
		if !declaredRecipient(p, d.To, d.Recipient) {
			return f.verdict(False, "%s to %s, which the policy does not declare.", plural(d.Events, "disclosure", "disclosures"), d.Recipient)
		}
		if !d.asReleased(p) {
			return f.verdict(False, "%s of %s to %s, which the policy does not release there.", plural(d.Events, "disclosure", "disclosures"), d.Field, d.Recipient)
		}
	}
	return f.verdict(True, "%s of a value in the last %d days, each as released.", plural(events, "disclosure", "disclosures"), int(Lately/(24*time.Hour)))
}

// declaredRecipient reports whether a destination is at a host: one that the policy
// declares for it, or this machine, where simulators are.
func declaredRecipient(p *policy.Policy, to lifecycle.Destination, name string) bool {
	host := strings.Split(name, ":")[0]
	e, ok := p.Destination(to)
	return ok && (name == string(to) || slices.Contains(e.Hosts, host) || host == "localhost" || host == "127.0.0.1")
}

// asReleased reports whether a disclosure is one that the policy lets happen.
func (d DisclosureFacts) asReleased(p *policy.Policy) bool {
	// The secret itself never leaves: its use is recorded where it signs.
	signs := d.To == lifecycle.ToBitbucket && d.Field == string(lifecycle.SharedSecret)
	return signs || p.Releases(lifecycle.Field(d.Field), d.To)
}

func guardsInPlace(_ *policy.Policy, f Facts) Bound {
	n := 0
	b := f.seen(NotVerified, "the database's guards could not be seen.")
	for _, c := range f.Controls {
		if !strings.HasPrefix(c.ID, "guard: ") {
			continue
		}
		n++
		switch {
		case c.State == "fail":
			return f.seen(False, "%s: %s.", c.Title, c.Detail)
		case c.State != "pass":
			return f.seen(NotVerified, "%s: could not be told.", c.Title)
		}
	}
	if n > 0 {
		b = f.seen(True, "%s of the database's catalog pass.", plural(int64(n), "control", "controls"))
	}
	return b
}

func descriptorScopes(p *policy.Policy, f Facts) Bound {
	if f.Scopes == nil {
		return f.seen(NotVerified, "the descriptor was not at hand.")
	}
	for _, s := range f.Scopes {
		if !slices.ContainsFunc(p.App.Scopes, func(x policy.Scope) bool { return x.Name == s.Name }) {
			return f.seen(False, "the descriptor asks for %s, which the policy does not declare.", s.Name)
		}
	}
	return f.seen(True, "%s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}

func scopesNeeded(_ *policy.Policy, f Facts) Bound {
	if f.Scopes == nil {
		return f.seen(NotVerified, "the descriptor was not at hand.")
	}
	for _, s := range f.Scopes {
		if s.NeededBy == "" {
			return f.seen(False, "no call needs the scope %s.", s.Name)
		}
	}
	return f.seen(True, "each of %s.", plural(int64(len(f.Scopes)), "scope", "scopes"))
}
