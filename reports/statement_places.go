package reports

import (
	"strings"

	"trakr/internal/check"
	"trakr/policy"
)

// The checks behind the sentence about the place ("one-place", "observed-place",
// "policy"), and "hosts", which rests on the same reports of the running instances.

// declaredInOnePlace decides "one-place".
func declaredInOnePlace(p *policy.Policy, f Facts) SentenceCheck {
	s := onePlace(p)
	return f.observed(s.State, "%s", s.Evidence)
}

// observedAtDeclaredPlace decides "observed-place".
func observedAtDeclaredPlace(p *policy.Policy, f Facts) SentenceCheck {
	s := observedAgrees(p, f)
	return f.observed(s.State, "%s", s.Evidence)
}

// actsByPolicy decides "policy". The sentences are derived from the report's policy, so
// they claim nothing about an instance that acts by another one.
func actsByPolicy(_ *policy.Policy, f Facts) SentenceCheck {
	running := plural(int64(f.Instances), "running service", "running services")
	switch {
	case f.Instances == 0:
		return f.observed(check.Unknown, "no running service has reported its policy.")
	case f.OtherPolicy > 0:
		return f.observed(check.Unknown, "of %s %s by another policy than this one.", running, plural(int64(f.OtherPolicy), "acts", "act"))
	}
	return f.observed(check.Pass, "%s, each by the policy of this hash.", running)
}

// hostsDeclared decides "hosts". It checks the running instances, not the settings of the
// process that makes the report.
func hostsDeclared(_ *policy.Policy, f Facts) SentenceCheck {
	var undeclared []string
	for _, h := range f.Hosts {
		if !h.Declared {
			undeclared = append(undeclared, h.Host+" ("+h.Setting+")")
		}
	}
	switch {
	case undeclared != nil:
		return f.observed(check.Fail, "not declared: %s.", strings.Join(undeclared, ", "))
	case len(f.Hosts) == 0 || f.Instances == 0:
		return f.observed(check.Unknown, "no running service has reported its destinations.")
	case f.Silent > 0:
		return f.observed(check.Unknown, "%s not reported its destinations.",
			plural(int64(f.Silent), "running service has", "running services have"))
	}
	return f.observed(check.Pass, "%s, each declared or this machine itself.", plural(int64(len(f.Hosts)), "host", "hosts"))
}

// onePlace checks that the policy declares one place for all tenant values.
func onePlace(p *policy.Policy) check.Result {
	var places []string
	seen := map[string]bool{}
	for _, s := range p.Stores {
		place := s.City + ", " + s.Country + " (" + s.Provider + ")"
		if s.HoldsFields && !seen[place] {
			seen[place] = true
			places = append(places, place)
		}
	}
	r := check.Result{
		ID: "location.one-place", Title: "Tenant values are declared to be stored in one place only",
		State: check.Pass, Evidence: strings.Join(places, "; ") + ".",
	}
	if len(places) != 1 {
		r.State = check.Fail
	}
	return r
}

// observedAgrees compares what is observed of the database with the declared place. Where
// nothing observed shows the place, the result is unknown: that nothing contradicts a
// declaration does not make it true.
func observedAgrees(p *policy.Policy, f Facts) check.Result {
	r := check.Result{
		ID: "location.observed-place", State: check.Pass,
		Title: "The database is at the declared place, as the host at which it is reached shows",
	}
	var shown []string
	for _, h := range f.Databases {
		switch state, store, why := observePlace(p, h); {
		case state == check.Fail:
			r.State, r.Evidence = check.Fail, "the store “"+store+"” is declared elsewhere: "+why+"."
			return r
		case state == check.Unknown && r.State == check.Pass:
			r.State, r.Evidence = check.Unknown, "of the store “"+store+"”, "+why+"."
		case state == check.Pass:
			shown = append(shown, why)
		}
	}
	for _, o := range f.Observations {
		if o.Conflict {
			r.State, r.Evidence = check.Fail, "the store “"+o.Store+"” is declared elsewhere; its "+o.What+" is: "+o.Value+"."
			return r
		}
	}
	switch {
	case len(f.Observations) == 0:
		r.State, r.Evidence = check.Unknown, "nothing could be observed."
	case len(f.Databases) == 0 || f.Silent > 0:
		r.State, r.Evidence = check.Unknown, "a running service has not reported where it reaches the database."
	case r.State == check.Pass:
		r.Evidence = strings.Join(shown, "; ") + ". The name is the provider's claim, and does not prove where a disk is."
	}
	return r
}

// observePlace returns what the host at which a database is reached shows of its place,
// of which store, and why.
func observePlace(p *policy.Policy, h HostFacts) (state check.State, store, why string) {
	s, declared := p.DatabaseAt(h.Host)
	for _, x := range p.Stores {
		if !declared && x.Kind == policy.StoreDatabase {
			s = x // a name of the private network does not identify a store
			break
		}
	}
	place, shows := policy.PlaceOf(h.Host)
	is := place.Provider + ", " + place.Region
	host := "the host " + h.Host + " (" + h.Setting + ")"
	switch {
	case h.Host == "":
		return check.Unknown, s.Name, "a unix socket shows the service's own machine, and nothing shows where that is"
	case !h.Declared:
		return check.Fail, s.Name, "the policy does not declare " + host + " for any database"
	case !shows:
		return check.Unknown, s.Name, host + " shows no region"
	case !strings.EqualFold(place.Provider, s.Provider) || !strings.EqualFold(place.Region, s.Region):
		return check.Fail, s.Name, host + " shows " + is + ", and the policy declares " + s.Provider + ", " + s.Region
	}
	return check.Pass, s.Name, "the host " + h.Host + " shows " + is + ", as declared"
}

// placeRows returns the databases' hosts as rows of the location report's observations.
func placeRows(p *policy.Policy, f Facts) (rows [][]string) {
	how := "reported by the running service, from its settings"
	if f.Instances == 0 {
		how = "the settings of the process that made this report; no service runs"
	}
	agreement := map[check.State]string{
		check.Pass: "shows the declared place", check.Unknown: "does not show a place", check.Fail: contradicts,
	}
	for _, h := range f.Databases {
		state, store, _ := observePlace(p, h)
		place, shows := policy.PlaceOf(h.Host)
		value := h.Host
		switch {
		case h.Host == "":
			value = "unix socket"
		case shows:
			value += ": " + place.Provider + ", " + place.Region
		}
		rows = append(rows, []string{store, "host", value, how, agreement[state]})
	}
	return rows
}

// placeCaveat is what the Marketplace sheet adds to the countries when the place of the
// database is not known.
func placeCaveat(p *policy.Policy, f Facts) []string {
	switch observedAgrees(p, f).State {
	case check.Pass:
		return nil
	case check.Fail:
		return []string{"Not known: the database is not where it is declared"}
	}
	return []string{"Not verified: nothing observed shows where the database is"}
}
