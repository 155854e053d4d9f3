package app

import (
	"context"
	"sync/atomic"

	"trakr/internal/check"
	"trakr/internal/drift"
	"trakr/internal/store/census"
	"trakr/internal/store/instances"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/policy"
)

// observed gathers what really runs, for the comparison with the policy.
type observed struct {
	policy  *policy.Policy
	own     destinations // of this process's settings
	scopes  []string     // that the descriptor asks for
	mode    Mode
	door    *tenants.Door
	census  *census.Store
	running *instances.Store
	jobs    atomic.Pointer[[]drift.Job] // what is scheduled
}

// setJobs replaces the planned jobs by those of a scheduler.
func (o *observed) setJobs(jobs []drift.Job) { o.jobs.Store(&jobs) }

// settingsFacts are the facts that need no database: what the settings and the
// descriptor name, and what is scheduled.
func settingsFacts(p promises) drift.Facts {
	return drift.Facts{
		Endpoints: p.destinations.endpoints,
		Databases: p.destinations.databases,
		Scopes:    p.scopes,
		Jobs:      comparableJobs(planJobs(p.policy)),
		Sweeps:    sweep.Kinds(),
	}
}

// facts returns everything that is compared. A command is not the service: where
// services run, their destinations are what they recorded, not what the command's own
// environment names.
func (o *observed) facts(ctx context.Context) (drift.Facts, error) {
	f := drift.Facts{Endpoints: o.own.endpoints, Databases: o.own.databases, Scopes: o.scopes, Jobs: *o.jobs.Load(), Sweeps: sweep.Kinds()}
	if o.mode != Serve {
		running, err := o.running.List(ctx)
		if err != nil {
			return f, err
		}
		if len(running) > 0 {
			d := recordedDestinations(running)
			f.Endpoints, f.Databases = d.endpoints, d.databases
		}
	}
	var err error
	if f.Tables, err = o.census.Catalog(ctx); err != nil {
		return f, err
	}
	f.SwitchedOff, err = o.door.CountSwitchedOff(ctx)
	return f, err
}

// checks returns one failed check for each difference, or one that passes when there is
// none. They cover the running services and this environment, which may be another.
func (o *observed) checks(ctx context.Context) []check.Result {
	f, err := o.facts(ctx)
	if err != nil {
		return []check.Result{drift.Undetermined(err)}
	}
	f.Endpoints = append(f.Endpoints, o.own.endpoints...)
	f.Databases = append(f.Databases, o.own.databases...)
	return drift.Results(drift.Compare(o.policy, f))
}
