package main

import (
	"context"

	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/schedule"
	"trakr/internal/store/instances"
	"trakr/internal/sweep"
)

// settled are the facts that need no database: what the settings and the descriptor
// say, and what is scheduled.
func (s *service) settled() (drift.Facts, error) {
	f := drift.Facts{Jobs: s.scheduled, Sweeps: sweep.Kinds()}
	var err error
	if f.Endpoints, f.Databases, err = talksTo(s.cfg, s.environ); err != nil {
		return f, err
	}
	if f.Jobs == nil { // not scheduled yet, or by another process of this version
		for _, j := range s.jobs() {
			f.Jobs = append(f.Jobs, drift.Job{Name: j.Name, Schedule: j.Spec})
		}
	}
	d, err := connect.Descriptor(s.policy, s.cfg.BaseURL)
	if err != nil {
		return f, err
	}
	f.Scopes, err = connect.Scopes(d)
	return f, err
}

// noteScheduled keeps what a scheduler really has, for the comparison while it runs.
func (s *service) noteScheduled(jobs *schedule.Scheduler) {
	s.scheduled = nil
	for _, j := range jobs.Jobs() {
		s.scheduled = append(s.scheduled, drift.Job{Name: j.Name, Schedule: j.Spec})
	}
}

// facts are all of them. A command is not the service: where services run, whom they
// talk to is what they say, not what the command's own environment does.
func (s *service) facts(ctx context.Context) (drift.Facts, error) {
	f, err := s.settled()
	if err != nil {
		return f, err
	}
	if !s.serving {
		running, err := instances.New(s.db).List(ctx)
		if err != nil {
			return f, err
		}
		if len(running) > 0 {
			f.Endpoints, f.Databases = said(running)
		}
	}
	if f.Tables, err = s.census.Catalog(ctx); err != nil {
		return f, err
	}
	f.SwitchedOff, err = s.door.CountSwitchedOff(ctx)
	return f, err
}

// asDeclared refuses to start with what the policy does not declare.
func (s *service) asDeclared(f drift.Facts) error {
	return drift.Refusal(s.policy, drift.Compare(s.policy, f))
}

// driftChecks are doctor's: one for each difference, or one that says that there is none.
// They judge the services that run and, which may be another, this environment.
func (s *service) driftChecks(ctx context.Context) []finding {
	const name = "what runs is what the policy declares"
	f, err := s.facts(ctx)
	if err != nil {
		return []finding{{name, "unknown", err.Error()}}
	}
	own, err := s.settled()
	if err != nil {
		return []finding{{name, "unknown", err.Error()}}
	}
	f.Endpoints, f.Databases = append(f.Endpoints, own.Endpoints...), append(f.Databases, own.Databases...)
	var out []finding
	for _, d := range drift.Compare(s.policy, f) {
		out = append(out, finding{name, "fail", d.String()})
	}
	if out == nil {
		out = []finding{{name, "pass", ""}}
	}
	return out
}
