package egress

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Host refuses a URL whose host the policy does not declare for a destination. This
// machine is no other recipient and needs no declaration. The error names the host, never the
// rest of the URL, which may be a secret.
func Host(p *policy.Policy, to lifecycle.Destination, address string) error {
	if ThisMachine(address) {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("the address of %s has no host", to)
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if d, ok := p.Destination(to); ok && slices.ContainsFunc(d.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return nil
	}
	return fmt.Errorf("the policy does not declare the host %s for %s", host, to)
}

// ThisMachine reports whether the URL's host is this machine itself.
func ThisMachine(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback()
}

// HostOf is an address's host, "" when it has none; the rest of it may be a secret.
func HostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
