package policy

import (
	"net/netip"
	"regexp"
	"strings"
)

// Place is what the name of a host tells about where it stands.
type Place struct {
	Provider string // as Store.Provider names it
	Region   string // the provider's name of the region, as Store.Region has it
}

// placeForms are the providers' own names of hosts: the first group is the region. A
// name is read only in the form in which the provider gives it by itself; one that a
// customer made up tells nothing.
//
// DigitalOcean names a cluster db-postgresql-REGION-NUMBER unless somebody names it
// otherwise, and reaches it in the private network below private-.
var placeForms = []struct {
	provider string
	form     *regexp.Regexp
}{
	{"DigitalOcean", regexp.MustCompile(`^(?:private-)?db-postgresql-([a-z]{3}[0-9])-[0-9]+-do-user-[0-9]+-[0-9]+\.(?:[a-z0-9]+\.)?db\.ondigitalocean\.com$`)},
}

// PlaceOf reads a host's name; false when it tells nothing.
func PlaceOf(host string) (Place, bool) {
	for _, f := range placeForms {
		if m := f.form.FindStringSubmatch(HostName(host)); m != nil {
			return Place{f.provider, m[1]}, true
		}
	}
	return Place{}, false
}

// HostName is a host as names are compared: in lower case, without the dot that ends a
// whole name.
func HostName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// OwnNetwork reports whether a host is this machine ("" is its unix socket) or lies in
// the private network that the deployment makes around it: nobody else can be reached
// by such a name.
func OwnNetwork(host string) bool {
	host = HostName(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".cluster.local") || strings.HasSuffix(host, ".internal")
}

// DatabaseAt returns the store whose hosts one is among.
func (p *Policy) DatabaseAt(host string) (Store, bool) {
	host = HostName(host)
	for _, s := range p.Stores {
		for _, h := range s.Hosts {
			below, wild := strings.CutPrefix(h, "*")
			if h == host || (wild && strings.HasSuffix(host, below) && host != below[1:]) {
				return s, true
			}
		}
	}
	return Store{}, false
}

// DatabaseHost reports whether the database may be reached at a host: at one that is
// declared, or that needs no mention.
func (p *Policy) DatabaseHost(host string) bool {
	_, declared := p.DatabaseAt(host)
	return declared || OwnNetwork(host)
}
