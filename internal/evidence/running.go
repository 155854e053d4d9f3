package evidence

import (
	"context"
	"net"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/instances"
	"trakr/policy"
	"trakr/reports"
)

// running tells what the services that run say of themselves: whom they talk to, where
// they reach the database, and how many act by another policy than the report is made
// with. The environment of whoever makes a report says nothing of them. Only where none
// runs is the database's host that at which this process reached it: it can contradict
// the policy all the same.
func (r *Reporter) running(ctx context.Context, f *reports.Facts) error {
	var running []instances.Instance
	if r.Running != nil {
		var err error
		if running, err = r.Running(ctx); err != nil {
			return err
		}
	}
	f.Services = len(running)
	for _, h := range running {
		if h.PolicyHash != r.Policy.Hash() {
			f.OtherPolicy++
		}
		if len(h.Destinations) == 0 { // of a version that does not say it
			f.Silent++
		}
		for _, p := range h.Destinations {
			f.Hosts = add(f.Hosts, hostFacts(r.Policy, p))
		}
	}
	said := f.Hosts
	if len(running) == 0 {
		for _, p := range r.Own {
			said = add(said, hostFacts(r.Policy, p))
		}
	}
	for _, h := range said {
		if h.Database {
			f.Databases = append(f.Databases, h)
		}
	}
	return nil
}

// add keeps each only once: replicas say the same.
func add(list []reports.HostFacts, h reports.HostFacts) []reports.HostFacts {
	for _, x := range list {
		if x == h {
			return list
		}
	}
	return append(list, h)
}

func hostFacts(p *policy.Policy, x instances.Destination) reports.HostFacts {
	h := reports.HostFacts{Setting: x.Setting, Host: policy.HostName(x.Host), Database: x.Name == instances.Database}
	if h.Database {
		h.Declared = p.DatabaseHost(x.Host)
	} else {
		h.Declared = egress.Host(p, lifecycle.Destination(x.Name), "https://"+net.JoinHostPort(x.Host, "443")) == nil
	}
	return h
}
