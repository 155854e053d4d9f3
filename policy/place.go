package policy

import (
	"net/netip"
	"regexp"
	"strings"
)

// Place is what the name of a host shows of its place.
type Place struct {
	Provider string // as Store.Provider names it
	Region   string // the provider's name of the region, as Store.Region has it
}

// placeForms are the forms of the names that providers give to hosts; the first group is
// the region. Only a name in the provider's own form counts: one that a customer chose
// shows nothing.
//
// DigitalOcean names a cluster db-postgresql-REGION-NUMBER unless the customer names it
// otherwise, and prefixes the name with private- in the private network.
var placeForms = []struct {
	provider string
	form     *regexp.Regexp
}{
	{"DigitalOcean", regexp.MustCompile(`^(?:private-)?db-postgresql-([a-z]{3}[0-9])-[0-9]+-do-user-[0-9]+-[0-9]+` +
		`\.(?:[a-z0-9]+\.)?db\.ondigitalocean\.com$`)},
}

// PlaceOf returns the place that a host's name shows; false when it shows none.
func PlaceOf(host string) (Place, bool) {
	for _, f := range placeForms {
		if m := f.form.FindStringSubmatch(HostName(host)); m != nil {
			return Place{f.provider, m[1]}, true
		}
	}
	return Place{}, false
}

// HostName returns a host as names are compared: in lower case, without a trailing dot.
func HostName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// OwnNetwork reports whether a host is this machine ("" is its unix socket) or is in the
// private network of the deployment: such a name reaches no other company.
func OwnNetwork(host string) bool {
	host = HostName(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".svc") ||
		strings.HasSuffix(host, ".cluster.local") || strings.HasSuffix(host, ".internal")
}

// DatabaseAt returns the store that declares a host.
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

// DatabaseHost reports whether the database may be reached at a host: a declared one, or
// one of OwnNetwork.
func (p *Policy) DatabaseHost(host string) bool {
	_, declared := p.DatabaseAt(host)
	return declared || OwnNetwork(host)
}
