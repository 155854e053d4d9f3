package sweep

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"trakr/internal/check"
	"trakr/internal/proof/merkle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/guard"
)

// WholeEvery is how often the log is verified from its first position on; in
// between only what is new.
const WholeEvery = 7 * 24 * time.Hour

// IntegrityPass verifies the log from where the last pass ended, all of it once a
// week, and compares the database's guards with what they should be.
type IntegrityPass struct {
	db       *store.DB
	log      *audit.Log
	findings *findings.Store
	kept     Kept
}

// Kept reads the checkpoints that are kept outside the database: all of them, or
// the newest of each place.
type Kept func(ctx context.Context, all bool) ([]audit.Outside, error)

// NewIntegrity returns the pass.
func NewIntegrity(db *store.DB, l *audit.Log, s *findings.Store, kept Kept) *IntegrityPass {
	return &IntegrityPass{db: db, log: l, findings: s, kept: kept}
}

// Kind implements Pass.
func (*IntegrityPass) Kind() string { return Integrity }

// Destructive implements Pass: it only looks, and records how far.
func (*IntegrityPass) Destructive() bool { return false }

const (
	eventsTable      = "trakr.audit_events"
	checkpointsTable = "trakr.audit_checkpoints"
	keptElsewhere    = "kept elsewhere"
)

// Look implements Pass.
func (p *IntegrityPass) Look(ctx context.Context, o Order) (Found, error) {
	last, whole, err := p.findings.LastVerified(ctx)
	if err != nil {
		return Found{}, err
	}
	opts := audit.VerifyOptions{LogOnly: true, Progress: o.Progress}
	// A clock that was moved back must not put the whole verification off.
	opts.Whole = last == nil || o.Now.Sub(whole) >= WholeEvery || whole.After(o.Now.Add(WholeEvery))
	if last != nil {
		opts.Known = &audit.Known{Size: last.Size, Root: merkle.Hash(last.Root)}
	}
	// Read before the snapshot: the running sequencer publishes newer ones.
	if opts.Outside, err = p.kept(ctx, opts.Whole); err != nil {
		return Found{}, fmt.Errorf("reading the checkpoints kept elsewhere: %w", err)
	}
	v, err := p.log.Verify(ctx, opts)
	if err != nil {
		return Found{}, err
	}
	checks := append(faults(v, o.Now), elsewhere(v, o.Now))
	if len(v.Faults) == 0 && v.Size > 0 && !o.DryRun {
		if err := p.note(ctx, v, o.Now); err != nil {
			return Found{}, err
		}
	}
	controls, err := guard.Check(ctx, p.db)
	if ctx.Err() != nil {
		return Found{}, err
	}
	if err != nil {
		controls = guard.Unknown(err)
	}
	return Found{Checks: append(checks, guards(controls, o.Now)...), SnapshotAt: o.Now}, nil
}

func (p *IntegrityPass) note(ctx context.Context, v audit.Verification, now time.Time) error {
	root, err := base64.StdEncoding.DecodeString(v.Root)
	if err != nil {
		return fmt.Errorf("recording what was verified: %w", err)
	}
	return p.findings.NoteVerified(ctx, findings.Verified{Size: v.Size, Root: root, At: now, Whole: v.From == 0})
}

// faults returns one result for each kind of fault, zero included. Its ground names the
// kind and the position.
func faults(v audit.Verification, now time.Time) []findings.Check {
	var out []findings.Check
	for _, k := range audit.Kinds() {
		c := checked(eventsTable, "log: "+string(k), now)
		c.Rows, c.Severity = v.Counts[k], findings.Critical
		c.Duration, c.Ground = time.Duration(v.Seconds*float64(time.Second)), fmt.Sprintf("verified from position %d to %d", v.From, v.Size)
		for _, f := range v.Faults {
			if f.Kind != k {
				continue
			}
			c.Ground = string(k) + ", at no position"
			if f.Position >= 0 {
				c.Ground = fmt.Sprintf("%s, first at position %d", k, f.Position)
			}
			c.Ground += "; see: trakr audit verify"
			break
		}
		out = append(out, c)
	}
	return out
}

// elsewhere reports whether a truncated log would have been noticed: it then does not begin
// with a checkpoint that is kept outside the database.
func elsewhere(v audit.Verification, now time.Time) findings.Check {
	c := checked(checkpointsTable, keptElsewhere, now)
	c.Severity, c.Ground = findings.Critical, fmt.Sprintf("the log begins with the %d events of a checkpoint kept elsewhere", v.Outside)
	switch {
	case v.Counts[audit.CutTail] > 0:
		c.Rows, c.Ground = v.Counts[audit.CutTail], "the log does not begin with what was kept elsewhere or verified before"
	case v.Outside < 0 && v.Size > 0:
		c.Disposition, c.Ground = findings.Unjudged, "no checkpoint is kept elsewhere, so a truncated log would not show: "+
			"see TRAKR_CHECKPOINT_FILE"
	case v.Outside < 0:
		c.Ground = "the log is empty"
	}
	return c
}

// guards returns one result for each control of the database.
func guards(controls []guard.Control, now time.Time) []findings.Check {
	var out []findings.Check
	for _, x := range controls {
		c := checked("database", "control: "+x.ID, now)
		c.Severity, c.Ground = findings.Medium, x.Name
		if x.Required {
			c.Severity = findings.Critical
		}
		switch x.State {
		case check.Pass:
		case check.Fail:
			c.Rows, c.Ground = int64(max(len(x.Differences), 1)), x.Detail()
		default:
			c.Disposition, c.Ground = findings.Unjudged, "the control is unknown: "+x.Detail()
		}
		out = append(out, c)
	}
	return out
}
