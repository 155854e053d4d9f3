package evidence

import (
	"context"
	"slices"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/instances"
	"trakr/policy"
	"trakr/reports"
)

// addInstances adds what the running instances report of themselves: their destinations,
// where they reach the database, and how many act by another policy than the report's.
// The environment of the process that makes a report proves nothing about them. Only
// without a running instance the database's host is that of this process, which can
// still contradict the policy.
func (r *Reporter) addInstances(ctx context.Context, f *reports.Facts) error {
	var running []instances.Instance
	if r.Running != nil {
		var err error
		if running, err = r.Running(ctx); err != nil {
			return err
		}
	}
	f.Instances = len(running)
	for _, x := range running {
		if x.PolicyHash != r.Policy.Hash() {
			f.OtherPolicy++
		}
		if len(x.Destinations) == 0 { // of a version that does not report them
			f.Silent++
		}
		f.Hosts = r.appendHosts(f.Hosts, x.Destinations)
	}
	hosts := f.Hosts
	if len(running) == 0 {
		hosts = r.appendHosts(hosts, r.Own)
	}
	for _, h := range hosts {
		if h.Database {
			f.Databases = append(f.Databases, h)
		}
	}
	return nil
}

// appendHosts appends each host once: replicas report the same ones.
func (r *Reporter) appendHosts(list []reports.HostFacts, destinations []instances.Destination) []reports.HostFacts {
	for _, x := range destinations {
		if h := hostFacts(r.Policy, x); !slices.Contains(list, h) {
			list = append(list, h)
		}
	}
	return list
}

func hostFacts(p *policy.Policy, x instances.Destination) reports.HostFacts {
	h := reports.HostFacts{Setting: x.Setting, Host: policy.HostName(x.Host), Database: x.Name == instances.Database}
	if h.Database {
		h.Declared = drift.DeclaredDatabaseHost(p, x.Host)
	} else {
		h.Declared = drift.DeclaredHost(p, lifecycle.Destination(x.Name), x.Host)
	}
	return h
}
