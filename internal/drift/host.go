package drift

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"trakr/policy"
)

// DeclaredHost is the HostCheck by the policy's egress. This machine is nobody else
// and needs no declaration.
func DeclaredHost(p *policy.Policy, to policy.Destination, address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("the address has no host")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if ip, err := netip.ParseAddr(host); host == "localhost" || (err == nil && ip.IsLoopback()) {
		return nil
	}
	if d, ok := p.Destination(to); ok && slices.Contains(d.Hosts, host) {
		return nil
	}
	return fmt.Errorf("the policy does not declare the host %s for %s", host, to)
}
