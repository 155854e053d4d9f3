// Package evidence gathers the facts of every report from the database and the running
// instances, and issues the reports that compare them with the policy. It claims no more
// than it saw: what the policy declares is shown as a declaration.
//
// Reporter.Facts gathers, one step after the other; package reports turns the facts into
// documents; Reporter.Issue records in the audit log that a document is handed out before
// it returns it.
package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/facts"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/instances"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// Reporter builds and issues reports.
type Reporter struct {
	Policy    *policy.Policy
	Statement *policy.SecurityStatement
	Inventory *facts.Store
	Sweeps    *sweep.Runner
	Now       func() time.Time
	Version   string
	SkipProof bool // the development switch is on, which fails a control

	// Jobs are the names of the jobs that a running service schedules. Each is a control
	// that its heartbeat decides when the report is made.
	Jobs       []string
	Heartbeats *heartbeats.Store // may be nil without Jobs

	// Running returns the running instances; nil when they are not known.
	Running func(ctx context.Context) ([]instances.Instance, error)
	Own     []instances.Destination // of this process's own settings
	Scopes  []reports.ScopeFacts    // that the descriptor requests
	// SwitchedOff counts the stored values of fields that the policy switches off; nil when
	// they cannot be counted.
	SwitchedOff func(ctx context.Context) (map[lifecycle.Field]int64, error)
}

// Issue returns one report in one format as of a moment (zero: now), after it recorded
// that it hands the report out. The same moment and state give the same bytes.
func (r *Reporter) Issue(ctx context.Context, a lifecycle.Access, kind, format string, asOf time.Time) ([]byte, reports.Format, error) {
	if err := a.CheckReason(); err != nil {
		return nil, "", err
	}
	f := reports.Format(format)
	if !slices.Contains(reports.Kinds(), kind) {
		return nil, "", lifecycle.Fail(lifecycle.NotFound,
			"There is no report of this kind; the kinds are: "+strings.Join(reports.Kinds(), ", ")+".")
	}
	if formats := reports.FormatsOf(kind); !slices.Contains(formats, f) {
		return nil, "", lifecycle.Fail(lifecycle.RequestInvalid, fmt.Sprintf("The format of this report is one of %v.", formats),
			lifecycle.At("/format", "not a format of this report"))
	}
	gathered, err := r.Facts(ctx, asOf)
	if err != nil {
		return nil, "", err
	}
	report, err := reports.Build(kind, r.Policy, r.Statement, gathered, r.Version)
	if err != nil {
		return nil, "", err
	}
	body, err := report.Render(f)
	if err != nil {
		return nil, "", fmt.Errorf("rendering the report: %w", err)
	}
	sum := sha256.Sum256(body)
	err = r.Inventory.Issue(ctx, a, r.Now(), facts.Issued{
		Kind: kind, Format: string(f), AsOf: gathered.AsOf, PolicyHash: r.Policy.Hash(), Digest: hex.EncodeToString(sum[:]),
	})
	if err != nil {
		return nil, "", err
	}
	return body, f, nil
}
