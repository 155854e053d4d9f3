package evidence

import (
	"context"
	"net/netip"
	"time"

	"trakr/internal/check"
	"trakr/internal/store/facts"
	"trakr/internal/store/heartbeats"
	"trakr/policy"
	"trakr/reports"
)

// ControlProof is the id of the control that first installs are proven.
const ControlProof = "control.proof-of-possession"

// controls returns the self-checks of the service that a report shows.
func (r *Reporter) controls(s facts.Server) []check.Result {
	control := func(id, title string, passes bool, evidence string) check.Result {
		c := check.Result{ID: id, Title: title, State: check.Fail, Evidence: evidence}
		if passes {
			c.State = check.Pass
		}
		return c
	}
	return []check.Result{
		control(ControlProof, "A first install is accepted only after Bitbucket confirms the offered secret",
			!r.SkipProof, "TRAKR_DEV_SKIP_PROOF must be off"),
		control("control.connection-protected", "The connection to the database cannot be read on the way",
			s.TLS || s.UnixSocket || isLoopback(s.Address), "unix socket, this machine, or TLS"),
		control("control.page-checksums", "The database notices damaged pages", s.DataChecksums, "data_checksums"),
	}
}

// guards returns the controls that the database's own catalog shows.
func (r *Reporter) guards(ctx context.Context) []check.Result {
	var out []check.Result
	for _, c := range r.Inventory.Controls(ctx) {
		out = append(out, check.Result{ID: "guard." + c.ID, Title: c.Name, State: check.State(c.State), Evidence: c.Detail()})
	}
	return out
}

// jobs returns whether each scheduled job runs in time. The evidence contains no time, so
// that a report about a moment stays the same from one run to the next.
func (r *Reporter) jobs(ctx context.Context, now time.Time) []reports.JobFacts {
	if len(r.Jobs) == 0 {
		return nil
	}
	beats, err := r.Heartbeats.List(ctx)
	out := make([]reports.JobFacts, len(r.Jobs))
	for i, name := range r.Jobs {
		out[i] = reports.JobFacts{Name: name, Result: check.Result{
			ID: "job." + name, Title: "The scheduled job “" + name + "” runs in time",
			State: check.Pass, Evidence: "succeeded within twice its interval",
		}}
		switch b := heartbeats.Find(beats, name); {
		case err != nil || b.ExpectedSince.IsZero():
			out[i].State, out[i].Evidence = check.Unknown, "no running service has scheduled it"
		case b.Overdue(now):
			out[i].State, out[i].Evidence = check.Fail, "no success within twice its interval"
		}
	}
	return out
}

// observations returns what this process can see of each database store.
func (r *Reporter) observations(s facts.Server) []reports.Observation {
	where, local := "unix socket: on the machine the service runs on", true
	if !s.UnixSocket {
		where, local = "TCP to "+s.Address, isLoopback(s.Address)
		if local {
			where = "TCP on the machine the service runs on"
		}
	}
	protection := "not encrypted (TLS off)"
	if s.TLS {
		protection = "encrypted (TLS)"
	} else if s.UnixSocket {
		protection = "does not leave the machine"
	}
	checksums := "off"
	if s.DataChecksums {
		checksums = "on"
	}
	var out []reports.Observation
	for _, st := range r.Policy.Stores {
		if st.Kind != policy.StoreDatabase {
			continue
		}
		conflict := (st.Connection == "network" && local) || (st.Connection == "local" && !local)
		observed := func(what, value, setting string) reports.Observation {
			return reports.Observation{Store: st.Name, What: what, Value: value, How: "asked of the database (" + setting + ")"}
		}
		connection := observed("connection", where, "inet_server_addr")
		connection.Conflict = conflict
		out = append(out, connection,
			observed("connection's protection", protection, "pg_stat_ssl"),
			observed("server", "PostgreSQL "+s.Version, "server_version"),
			observed("page checksums", checksums, "data_checksums"))
	}
	return out
}

func isLoopback(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsLoopback()
}
