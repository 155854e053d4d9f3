package httpapi

import (
	"context"
	"net/http"

	"trakr/internal/lifecycle"
	"trakr/internal/sweep"
	"trakr/internal/view"
)

func (a *admin) sweepRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/sweeps", tag: tagSweeps, roles: everyone,
		summary: "List runs of sweeps with the count of every table checked",
	}, a.listSweeps)
	add(a, operation{
		method: http.MethodPost, path: "/v1/sweeps/{kind}/runs", tag: tagSweeps, roles: reviewers,
		summary: "Run a sweep now and wait for its result",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound, lifecycle.SweepRunning},
	}, a.runSweep)
	describeParam(a.api.OpenAPI().Paths["/v1/sweeps/{kind}/runs"].Post, "kind", a.Runner.Kinds())
}

type sweepsInput struct {
	Kind  string `query:"kind" maxLength:"32" doc:"only runs of this kind"`
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"20" doc:"at most this many"`
}

type runList struct {
	Runs []view.SweepRun `json:"runs" doc:"newest first"`
}

func (a *admin) listSweeps(ctx context.Context, in *sweepsInput) (*body[runList], error) {
	runs, err := a.Findings.Runs(ctx, in.Kind, in.Limit)
	if err != nil {
		return nil, err
	}
	return &body[runList]{runList{view.NewSweepRuns(runs)}}, nil
}

type runInput struct {
	Kind string `path:"kind"`
	Body *struct {
		DryRun *bool  `json:"dry_run,omitempty" doc:"count and change nothing; the default is true for a kind that deletes or erases"`
		Reason reason `json:"reason,omitempty" doc:"a person who lets a sweep delete values gives a ticket"`
	}
}

func (a *admin) runSweep(ctx context.Context, in *runInput) (*body[view.SweepRun], error) {
	var opts []sweep.Option
	var why reason
	if in.Body != nil {
		why = in.Body.Reason
		if in.Body.DryRun != nil {
			opts = append(opts, sweep.DryRun(*in.Body.DryRun))
		}
	}
	run, err := a.Runner.RunOnce(ctx, access(ctx, why, lifecycle.SystemSweep), in.Kind, sweep.ByAPI, opts...)
	if err != nil {
		return nil, err
	}
	return &body[view.SweepRun]{view.NewSweepRun(run)}, nil
}

func (a *admin) findingRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/findings", tag: tagFindings, roles: everyone,
		summary: "List findings: what should not be there, until a sweep no longer sees it",
	}, a.listFindings)
	add(a, operation{
		method: http.MethodGet, path: "/v1/findings/{id}", tag: tagFindings, roles: everyone,
		summary: "Get a finding with every step of its life",
		fails:   []lifecycle.Kind{lifecycle.NotFound},
	}, a.getFinding)
	add(a, operation{
		method: http.MethodPost, path: "/v1/findings/{id}/acknowledge", tag: tagFindings, roles: reviewers,
		summary: "Record that a person knows of a finding, and the ticket",
		detail:  "The finding stays open. The acknowledgement is audited.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound, lifecycle.RequestConflict},
	}, a.acknowledgeFinding)
}

type findingsInput struct {
	All   bool `query:"all" doc:"resolved ones too"`
	Limit int  `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"at most this many"`
}

type findingList struct {
	Findings []view.Finding `json:"findings" doc:"open ones first, the newest of each first"`
}

func (a *admin) listFindings(ctx context.Context, in *findingsInput) (*body[findingList], error) {
	found, err := a.Findings.Findings(ctx, !in.All, in.Limit)
	if err != nil {
		return nil, err
	}
	return &body[findingList]{findingList{view.NewFindings(found)}}, nil
}

// FindingPath is the path of one finding.
type FindingPath struct {
	ID string `path:"id" doc:"the finding's id"`
}

func (a *admin) getFinding(ctx context.Context, in *FindingPath) (*body[view.FindingDetail], error) {
	f, events, err := a.Findings.Finding(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[view.FindingDetail]{view.NewFindingDetail(f, events)}, nil
}

type acknowledgeInput struct {
	FindingPath

	Body struct {
		Reason reason `json:"reason" doc:"its ref is the ticket"`
	}
}

func (a *admin) acknowledgeFinding(ctx context.Context, in *acknowledgeInput) (*body[view.Finding], error) {
	f, err := a.Findings.Acknowledge(ctx, access(ctx, in.Body.Reason, ""), in.ID, a.Audit.Now())
	if err != nil {
		return nil, err
	}
	return &body[view.Finding]{view.NewFinding(f)}, nil
}
