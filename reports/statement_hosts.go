package reports

import (
	"strings"

	"trakr/policy"
)

// actsByPolicy: what a sentence says comes from the policy that the report is made with.
// Of a service that acts by another one, it would say nothing.
func actsByPolicy(_ *policy.Policy, f Facts) Bound {
	switch {
	case f.Services == 0:
		return f.seen(NotVerified, "no running service has said by which policy it acts.")
	case f.OtherPolicy > 0:
		return f.seen(NotVerified, "of %s %s by another policy than this one.", plural(int64(f.Services), "running service", "running services"), plural(int64(f.OtherPolicy), "acts", "act"))
	}
	return f.seen(True, "%s, each by the policy of this hash.", plural(int64(f.Services), "running service", "running services"))
}

// hostsDeclared judges the services that run, not the settings of whoever asks.
func hostsDeclared(_ *policy.Policy, f Facts) Bound {
	var bad []string
	for _, h := range f.Hosts {
		if !h.Declared {
			bad = append(bad, h.Host+" ("+h.Setting+")")
		}
	}
	switch {
	case bad != nil:
		return f.seen(False, "not declared: %s.", strings.Join(bad, ", "))
	case len(f.Hosts) == 0 || f.Services == 0:
		return f.seen(NotVerified, "no running service has said what it talks to.")
	case f.Silent > 0:
		return f.seen(NotVerified, "%s not said what it talks to.", plural(int64(f.Silent), "running service has", "running services have"))
	}
	return f.seen(True, "%s, each declared or this machine itself.", plural(int64(len(f.Hosts)), "host", "hosts"))
}

// observedAgrees sets what is observed of the database against the declared place. Where
// nothing observed shows the place, it cannot tell: that nothing contradicts a
// declaration does not make it true.
func observedAgrees(p *policy.Policy, f Facts) Statement {
	s := Statement{Text: "The database is at the declared place, as the host at which it is reached shows", State: Holds}
	var shown []string
	for _, h := range f.Databases {
		switch state, store, why := placeSeen(p, h); {
		case state == Fails:
			s.State, s.Why = Fails, "the store “"+store+"” is declared elsewhere: "+why+"."
			return s
		case state == CannotTell && s.State == Holds:
			s.State, s.Why = CannotTell, "of the store “"+store+"”, "+why+"."
		case state == Holds:
			shown = append(shown, why)
		}
	}
	for _, o := range f.Observations {
		if o.Conflict {
			s.State, s.Why = Fails, "the store “"+o.Store+"” is declared elsewhere; its "+o.What+" is: "+o.Value+"."
			return s
		}
	}
	switch {
	case len(f.Observations) == 0:
		s.State, s.Why = CannotTell, "nothing could be observed."
	case len(f.Databases) == 0 || f.Silent > 0:
		s.State, s.Why = CannotTell, "a running service has not said where it reaches the database."
	case s.State == Holds:
		s.Why = strings.Join(shown, "; ") + ". The name is the provider's word, and no proof of where a disk stands."
	}
	return s
}

// placeSeen tells what the host at which a database is reached shows of its place, of
// which store, and why.
func placeSeen(p *policy.Policy, h HostFacts) (state State, store, why string) {
	s, declared := p.DatabaseAt(h.Host)
	for _, x := range p.Stores {
		if !declared && x.Kind == policy.StoreDatabase {
			s = x // by an own network's name no store is told from another
			break
		}
	}
	place, shows := policy.PlaceOf(h.Host)
	is := place.Provider + ", " + place.Region
	switch {
	case h.Host == "":
		return CannotTell, s.Name, "a unix socket shows the service's own machine, and nothing shows where that stands"
	case !h.Declared:
		return Fails, s.Name, "the policy does not declare the host " + h.Host + " (" + h.Setting + ") for any database"
	case !shows:
		return CannotTell, s.Name, "the host " + h.Host + " (" + h.Setting + ") shows no region"
	case !strings.EqualFold(place.Provider, s.Provider) || !strings.EqualFold(place.Region, s.Region):
		return Fails, s.Name, "the host " + h.Host + " (" + h.Setting + ") shows " + is + ", and the policy declares " + s.Provider + ", " + s.Region
	}
	return Holds, s.Name, "the host " + h.Host + " shows " + is + ", as declared"
}

// placeRows are the hosts among what was observed.
func placeRows(p *policy.Policy, f Facts) (rows [][]string) {
	how := "put down by the running service, of its settings"
	if f.Services == 0 {
		how = "the settings of whoever made this report; no service runs"
	}
	for _, h := range f.Databases {
		state, store, _ := placeSeen(p, h)
		place, shows := policy.PlaceOf(h.Host)
		value := h.Host
		switch {
		case h.Host == "":
			value = "unix socket"
		case shows:
			value += ": " + place.Provider + ", " + place.Region
		}
		agrees := map[State]string{Holds: "shows the declared place", CannotTell: "does not show a place", Fails: contradicts}[state]
		rows = append(rows, []string{store, "host", value, how, agrees})
	}
	return rows
}

// notWhereDeclared is what the sheet says of the countries when the place is not known.
func notWhereDeclared(p *policy.Policy, f Facts) []string {
	switch s := observedAgrees(p, f); s.State {
	case Holds:
		return nil
	case Fails:
		return []string{"Not known: the database is not where it is declared"}
	}
	return []string{"Not verified: nothing observed shows where the database is"}
}
