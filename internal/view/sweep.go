package view

import (
	"time"

	"trakr/internal/store/findings"
)

// SweepRun is one pass of a sweep.
type SweepRun struct {
	RunID      string          `json:"run_id" doc:"a UUID"`
	Kind       string          `json:"kind" doc:"the kind of sweep"`
	Trigger    string          `json:"trigger" enum:"schedule,command,api" doc:"what started it"`
	DryRun     bool            `json:"dry_run" doc:"it changed nothing, the state of findings included"`
	StartedAt  time.Time       `json:"started_at" doc:"when it started"`
	FinishedAt *time.Time      `json:"finished_at,omitempty" doc:"when it ended; absent while it runs, or when it was interrupted"`
	SnapshotAt *time.Time      `json:"snapshot_at,omitempty" doc:"the time of the database snapshot that it read"`
	Result     findings.Result `json:"result,omitempty" doc:"absent while it runs, or when it was interrupted"`
	Checks     []SweepCheck    `json:"checks" doc:"the count of every table that was checked, zero included"`
	Findings   []Finding       `json:"findings" doc:"the findings that it saw"`
}

// SweepCheck is the result for one column of a table, or for a table as a whole.
type SweepCheck struct {
	Store           string               `json:"store" doc:"name of the store in the policy"`
	Table           string               `json:"table" doc:"name of the table"`
	Column          string               `json:"column" doc:"name of the column; empty for a table that no policy declares"`
	Disposition     findings.Disposition `json:"disposition" doc:"how the rows were treated; unjudged: not checked, see ground"`
	Ground          string               `json:"ground,omitempty" doc:"why rows are retained, not searched or not checked"`
	Rows            int64                `json:"count" doc:"rows that match"`
	PredicateDigest string               `json:"predicate_digest" doc:"hex SHA-256 of the SQL that counted; may be empty"`
	CheckedAt       time.Time            `json:"checked_at" doc:"when it was counted"`
	Duration        time.Duration        `json:"duration_ns" doc:"how long the count took, in nanoseconds; 0 when it was not measured"`
	Severity        findings.Severity    `json:"severity,omitempty" doc:"of the finding, when it is one"`
}

func newCheck(c findings.Check) SweepCheck {
	return SweepCheck{
		Store: c.Store, Table: c.Table, Column: c.Column, Disposition: c.Disposition, Ground: c.Ground, Rows: c.Rows,
		PredicateDigest: c.PredicateDigest, CheckedAt: c.CheckedAt, Duration: c.Duration, Severity: c.Severity,
	}
}

// NewSweepRun returns the model of r.
func NewSweepRun(r findings.Run) SweepRun {
	return SweepRun{
		RunID: r.ID, Kind: r.Kind, Trigger: r.Trigger, DryRun: r.DryRun, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		SnapshotAt: r.SnapshotAt, Result: r.Result, Checks: each(r.Checks, newCheck), Findings: NewFindings(r.Findings),
	}
}

// NewSweepRuns returns the models of a list.
func NewSweepRuns(all []findings.Run) []SweepRun { return each(all, NewSweepRun) }

// Finding is something that should not be in the database, until a sweep no longer
// sees it.
type Finding struct {
	FindingID      string            `json:"finding_id" doc:"a UUID"`
	Kind           string            `json:"kind" doc:"the kind of sweep that found it"`
	Severity       findings.Severity `json:"severity" doc:"how urgent it is"`
	Store          string            `json:"store" doc:"name of the store in the policy"`
	Table          string            `json:"table" doc:"name of the table"`
	Column         string            `json:"column" doc:"name of the column; empty for a table that no policy declares"`
	Ground         string            `json:"ground,omitempty" doc:"what was found; absent for rows of tenants that are not live"`
	Rows           int64             `json:"count" doc:"rows that were found"`
	Blind          bool              `json:"blind" doc:"it could not be checked; ground explains why"`
	OpenedAt       time.Time         `json:"opened_at" doc:"when a sweep first saw it"`
	LastSeenAt     time.Time         `json:"last_seen_at" doc:"when a sweep last saw it"`
	AcknowledgedAt *time.Time        `json:"acknowledged_at,omitempty" doc:"when a person acknowledged it"`
	AcknowledgedBy string            `json:"acknowledged_by,omitempty" doc:"opaque id of that person"`
	ReasonCode     string            `json:"reason_code,omitempty" doc:"why it was acknowledged"`
	ReasonRef      string            `json:"reason_ref,omitempty" doc:"the ticket it was acknowledged for"`
	ResolvedAt     *time.Time        `json:"resolved_at,omitempty" doc:"when a sweep no longer saw it"`
}

// NewFinding returns the model of f.
func NewFinding(f findings.Finding) Finding {
	return Finding{
		FindingID: f.ID, Kind: f.Kind, Severity: f.Severity, Store: f.Store, Table: f.Table, Column: f.Column,
		Ground: f.Ground, Rows: f.Rows, Blind: f.Blind, OpenedAt: f.OpenedAt, LastSeenAt: f.LastSeenAt,
		AcknowledgedAt: f.AcknowledgedAt, AcknowledgedBy: f.AcknowledgedBy,
		ReasonCode: f.ReasonCode, ReasonRef: f.ReasonRef, ResolvedAt: f.ResolvedAt,
	}
}

// NewFindings returns the models of a list.
func NewFindings(all []findings.Finding) []Finding { return each(all, NewFinding) }

// FindingEvent is one step in the life of a finding.
type FindingEvent struct {
	EventID     string              `json:"event_id" doc:"a UUID"`
	Transition  findings.Transition `json:"transition" doc:"what happened to the finding"`
	OccurredAt  time.Time           `json:"occurred_at" doc:"when it happened"`
	Severity    findings.Severity   `json:"severity" doc:"of the finding at that time"`
	Rows        int64               `json:"count" doc:"rows at that time"`
	RunID       string              `json:"run_id,omitempty" doc:"the sweep run that opened or resolved the finding"`
	ActorID     string              `json:"actor_id,omitempty" doc:"opaque id of the person who acknowledged it"`
	ReasonCode  string              `json:"reason_code,omitempty" doc:"why it was acknowledged"`
	ReasonRef   string              `json:"reason_ref,omitempty" doc:"the ticket it was acknowledged for"`
	DeliveredAt *time.Time          `json:"delivered_at,omitempty" doc:"when the recipient of findings accepted the notification"`
}

// FindingDetail is one finding with its life.
type FindingDetail struct {
	Finding

	Events []FindingEvent `json:"events" doc:"every step of its life, oldest first"`
}

// NewFindingDetail returns the model of f and its events.
func NewFindingDetail(f findings.Finding, events []findings.Event) FindingDetail {
	return FindingDetail{NewFinding(f), each(events, func(e findings.Event) FindingEvent {
		return FindingEvent{
			EventID: e.ID, Transition: e.Transition, OccurredAt: e.OccurredAt, Severity: e.Severity, Rows: e.Rows,
			RunID: e.RunID, ActorID: e.ActorID, ReasonCode: e.ReasonCode, ReasonRef: e.ReasonRef, DeliveredAt: e.DeliveredAt,
		}
	})}
}
