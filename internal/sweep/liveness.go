package sweep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"trakr/internal/bitbucket"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/liveness"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

// Bitbucket is asked about one installation.
type Bitbucket interface {
	Probe(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) bitbucket.Probed
	Host() string
}

// Installations releases what Bitbucket is asked with.
type Installations interface {
	Installation(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID) (tenants.Installation, error)
}

// Gone is a tenant that Bitbucket no longer knows.
type Gone struct {
	Version tenants.Version // of the tenant before it was asked about: erase only while it stands
	At      time.Time       // when that was certain enough
}

// Eraser erases a tenant with the trigger probe. A tenant that is erased already is
// no error; one that changed since is tenants.ErrChanged, one under legal hold is
// lifecycle.OnHold.
type Eraser interface {
	EraseGone(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, g Gone) error
}

// probeEraser is the Eraser of a running service.
type probeEraser struct{ *erasure.Eraser }

// EraseGone implements Eraser. The erasures sweep finishes an erasure that has begun; only
// a legal hold is an error.
func (e probeEraser) EraseGone(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, g Gone) error {
	out, err := e.Erase(ctx, a, id, erasure.Order{Trigger: lifecycle.TriggerProbe, RequestedAt: g.At, Delivery: tenants.Delivery{Version: g.Version}})
	if err == nil && errors.Is(out.Delay, lifecycle.OnHold) {
		return out.Delay
	}
	return err
}

// controls is how many tenants are asked besides when nobody answered as alive.
const controls = 3

// LivenessPass asks Bitbucket about each tenant, and erases one that it does not know
// any more: after as many suspicions over as many days as the policy says, and only
// beside another tenant that is alive in the same pass. Without that control a
// suspicion is not even counted, because an outage says 404 as well; nor is one when
// too many are gone at once, because a change of the app's scopes says 403 to all who
// have not granted it yet.
type LivenessPass struct {
	store     *liveness.Store
	policy    *policy.Policy
	door      Installations
	bitbucket Bitbucket
	eraser    Eraser
}

// NewLiveness returns the pass.
func NewLiveness(s *liveness.Store, p *policy.Policy, door Installations, b Bitbucket, e Eraser) *LivenessPass {
	return &LivenessPass{s, p, door, b, e}
}

// Kind implements Pass.
func (*LivenessPass) Kind() string { return Liveness }

// Destructive implements Pass: it erases.
func (*LivenessPass) Destructive() bool { return true }

// answers is what came back in one pass.
type answers struct {
	mu       sync.Mutex
	asked    []lifecycle.TenantID
	alive    int64
	suspects []liveness.State
	silent   int64
	busy     bool // Bitbucket asked us to slow down: nothing more is asked
	err      error
}

// Look implements Pass. A dry run asks as well, which the audit shows, and keeps
// nothing of the answers.
func (p *LivenessPass) Look(ctx context.Context, o Order) (Found, error) {
	rule := p.policy.Liveness
	// The sweep's own access, whoever started it: no person may have the secret.
	o.Access.Caller = lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep:" + Liveness, Role: lifecycle.RoleScheduler}
	o.Access.Reason, o.Access.CorrelationID = lifecycle.Reason{Code: lifecycle.SystemSweep}, o.RunID
	due, err := p.store.Due(ctx, o.Now.Add(-rule.Apart.Duration()), o.Now, rule.Batch)
	if err != nil {
		return Found{}, err
	}
	got := &answers{}
	if err := p.ask(ctx, o, due, got); err != nil {
		return Found{}, err
	}
	if len(got.suspects) > 0 && got.alive == 0 && !got.busy {
		others, err := p.store.Controls(ctx, got.asked, controls)
		if err != nil {
			return Found{}, err
		}
		if err := p.ask(ctx, o, others, got); err != nil {
			return Found{}, err
		}
	}
	lately, err := p.store.Lately(ctx, o.Now.Add(-p.story()))
	if err != nil {
		return Found{}, err
	}
	many := worst(lately, liveness.Lately{Answered: got.alive + int64(len(got.suspects)), Gone: int64(len(got.suspects))})
	var v verdicts
	if !tooMany(many) {
		if v, err = p.judge(ctx, o, got); err != nil {
			return Found{}, err
		}
	}
	counts, err := p.store.Count(ctx, o.Now.Add(-days(rule.Days)))
	if err != nil {
		return Found{}, err
	}
	return Found{Checks: p.checks(o, got, counts, int64(len(due)), many, v), SnapshotAt: counts.At}, nil
}

// story is the longest pause between two answers that belong together.
func (p *LivenessPass) story() time.Duration {
	return policy.StoryBreak * p.policy.Liveness.Apart.Duration()
}

// tooMany reports whether so many are gone at once that the fault is more likely
// ours or Bitbucket's. The bounds are in code: no policy may lift them.
func tooMany(l liveness.Lately) bool {
	return l.Gone > max(policy.MassFloor, l.Answered*policy.MassPercent/100)
}

// worst picks what is judged: this pass, or all that was answered lately, because
// tenants that are asked in many small passes are gone at once just as well.
func worst(lately, now liveness.Lately) liveness.Lately {
	if lately.Answered == 0 || tooMany(now) && !tooMany(lately) {
		return now
	}
	return lately
}

// ask asks about each tenant, some at once, at the policy's pace, until Bitbucket
// asks for rest or something of ours fails. A crash loses no more than the answers
// under way; those tenants are the first of the next pass.
func (p *LivenessPass) ask(ctx context.Context, o Order, list []liveness.State, got *answers) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pace := rate.NewLimiter(rate.Limit(p.policy.Liveness.PerSecond), 1)
	next := make(chan liveness.State)
	var wg sync.WaitGroup
	for range p.policy.Liveness.Parallel {
		wg.Go(func() {
			for t := range next {
				if err := p.one(ctx, o, t, got); err != nil {
					got.fail(err)
					cancel()
				}
			}
		})
	}
	for _, t := range list {
		if err := pace.Wait(ctx); err != nil {
			got.fail(fmt.Errorf("asking Bitbucket: %w", err))
			break
		}
		if got.resting() {
			break
		}
		next <- t
	}
	close(next)
	wg.Wait()
	return got.err
}

// one asks about one tenant. What was disclosed is recorded even when the pass's
// time is up.
func (p *LivenessPass) one(ctx context.Context, o Order, t liveness.State, got *answers) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	with, err := p.door.Installation(ctx, o.Access, t.ID)
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return nil // meanwhile
	}
	if err != nil {
		return err
	}
	said := p.bitbucket.Probe(ctx, with.WorkspaceUUID, with.ClientKey, with.Secret)
	givenUp := ctx.Err()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	q := liveness.Asked{Recipient: p.bitbucket.Host(), Detail: said.Detail(), Answered: said.Answer != bitbucket.CannotTell, Alive: said.Answer == bitbucket.Alive}
	if err := p.store.Note(ctx, o.Access, t.ID, q, o.Now, o.DryRun); err != nil {
		return err
	}
	got.take(t, said)
	return givenUp
}

func (g *answers) take(t liveness.State, said bitbucket.Probed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, t.ID)
	switch said.Answer {
	case bitbucket.Alive:
		g.alive++
	case bitbucket.Suspected:
		g.suspects = append(g.suspects, t)
	default:
		g.silent++
	}
	g.busy = g.busy || said.Busy()
}

func (g *answers) resting() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.busy || g.err != nil }

func (g *answers) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// verdicts is what came of those that are gone for long enough and are still here.
type verdicts struct {
	left    int64 // the run is dry
	held    int64 // a legal hold keeps them
	waiting int64 // the pass erased as many as it may
}

// judge counts the suspicions and erases who is gone. One failure does not keep the
// rest; what was erased stays erased.
func (p *LivenessPass) judge(ctx context.Context, o Order, got *answers) (v verdicts, err error) {
	if got.alive == 0 {
		return v, nil
	}
	rule := p.policy.Liveness
	may := min(rule.MaxErasures, policy.MaxErasures)
	var errs []error
	for _, t := range got.suspects {
		s := suspected(t, o.Now, rule.Apart.Duration(), p.story())
		if !o.DryRun {
			// A crash after this and before the erasure: the next pass that suspects
			// the tenant finds it ripe.
			if err := p.store.Suspect(ctx, t.ID, s); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if s.Count < max(rule.Suspicions, policy.MinSuspicions) || s.Last.Sub(s.First) < days(max(rule.Days, policy.MinDays)) {
			continue
		}
		if o.DryRun {
			v.left++
			continue
		}
		if may <= 0 {
			v.waiting++ // ripe when it is asked again
			continue
		}
		err := p.eraser.EraseGone(ctx, o.Access, t.ID, Gone{Version: t.Version, At: o.Now})
		switch {
		case err == nil:
			may--
		case errors.Is(err, lifecycle.OnHold):
			v.held++
		case errors.Is(err, tenants.ErrChanged), errors.Is(err, lifecycle.TenantErased), errors.Is(err, lifecycle.TenantUnknown):
			// installed anew or erased meanwhile
		default:
			may-- // it may have begun
			errs = append(errs, fmt.Errorf("erasing a tenant that is gone at Bitbucket: %w", err))
		}
	}
	return v, errors.Join(errs...)
}

// suspected adds an answer that says gone. It begins anew after an install that was
// accepted since the first one, and after a pause since the last counted that is too
// long for one story; one too soon after the last counted does not count.
func suspected(t liveness.State, now time.Time, apart, story time.Duration) liveness.Suspicion {
	s := t.Suspicion
	switch {
	case s.Count == 0 || t.UpdatedAt.After(s.First) || s.Last.After(now), now.Sub(s.Last) > story:
		return liveness.Suspicion{Count: 1, First: now, Last: now}
	case now.Sub(s.Last) < apart:
		return s
	}
	return liveness.Suspicion{Count: s.Count + 1, First: s.First, Last: now}
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// checks says what the answers amount to.
func (p *LivenessPass) checks(o Order, got *answers, c liveness.Counts, due int64, many liveness.Lately, v verdicts) []findings.Check {
	rule := p.policy.Liveness
	check := func(what string, rows int64, d findings.Disposition, ground, predicate string) findings.Check {
		sum := sha256.Sum256([]byte(predicate))
		return findings.Check{Store: "database", Table: "trakr.tenant_liveness", Column: what, Rows: rows, Disposition: d, Ground: ground,
			PredicateDigest: hex.EncodeToString(sum[:]), CheckedAt: c.At}
	}
	asking := "GET " + p.policy.App.Proof.Resource + " answers "
	suspects := int64(len(got.suspects))
	if o.DryRun { // nothing was kept: what this pass saw counts too
		c.Suspected = max(c.Suspected, suspects)
	}

	alive := check("alive", got.alive, findings.Retained, "Bitbucket answered that the app is installed", asking+"2xx")
	suspicion := check("suspected", c.Suspected, findings.Retained, fmt.Sprintf("Bitbucket answered that it does not know the app there; erased after %d such answers over %d days", rule.Suspicions, rule.Days), liveness.CountSQL)
	gone := check("gone", v.left, findings.Checked, "", asking+"401, 403 or 404")
	silent := check("silent", got.silent, findings.Retained, "Bitbucket gave no clear answer; neither suspected nor cleared, and asked again", asking+"anything else")
	unheard := check("unheard", 0, findings.Checked, "", liveness.CountSQL)
	mass := check("too_many", 0, findings.Checked, "", liveness.LatelySQL)
	switch {
	case tooMany(many):
		mass.Rows, mass.Severity = many.Gone, findings.Critical
		mass.Ground = fmt.Sprintf("too many at once: %d of %d that answered are gone, so no suspicion was counted and nothing erased; look at the app's scopes and at Bitbucket's status. "+
			"Who is known to be gone can be erased by a deletion request", many.Gone, many.Answered)
		suspicion = check("suspected", many.Gone, findings.Unjudged, "too many at once to be believed: no suspicion was counted and nothing erased", asking+"401, 403 or 404")
	case many.Answered == 0 && c.Live > 0:
		mass.Disposition, mass.Ground = findings.Unjudged, "nobody answered lately, so nobody knows how many are gone"
	case suspects > 0 && got.alive == 0 && c.Live <= 1:
		suspicion = check("suspected", suspects, findings.Unjudged, "there is only one tenant and none to compare it with: it is never erased by a probe", asking+"401, 403 or 404")
	case suspects > 0 && got.alive == 0:
		suspicion = check("suspected", suspects, findings.Unjudged, "no other tenant answered that it is alive, so Bitbucket itself may be out: no suspicion was counted and nothing erased", asking+"401, 403 or 404")
	}
	switch {
	case tooMany(many):
		gone.Disposition, gone.Ground = findings.Unjudged, suspicion.Ground
	case v.left > 0:
		gone.Ground = "gone at Bitbucket and still held; a run that is not dry erases them"
	case c.Live == 1:
		gone.Ground = "with a single tenant there is no control: it is never erased by a probe"
	}
	switch {
	case got.busy:
		silent = check("silent", due-got.alive-suspects, findings.Unjudged, "Bitbucket asked to slow down (429): the rest is asked in a later pass", asking+"429")
		silent.Rows = max(silent.Rows, got.silent)
	case got.silent > 0 && got.alive+suspects == 0:
		silent.Disposition, silent.Ground = findings.Unjudged, "Bitbucket gave no clear answer about anyone"
	}
	if c.Unheard > 0 {
		unheard.Rows, unheard.Disposition = c.Unheard, findings.Unjudged
		unheard.Ground = fmt.Sprintf("no clear answer for %d days or more: whether the app is still installed there is not known", rule.Days)
	}
	out := []findings.Check{alive, suspicion, gone, mass, silent, unheard}
	if v.waiting > 0 {
		out = append(out, check("waiting", v.waiting, findings.Retained, fmt.Sprintf("gone at Bitbucket; this pass erased the %d it may, the others are erased when they are asked again", min(rule.MaxErasures, policy.MaxErasures)), asking+"401, 403 or 404"))
	}
	if v.held > 0 {
		out = append(out, check("held", v.held, findings.Retained, "gone at Bitbucket; a legal hold keeps the data", asking+"401, 403 or 404"))
	}
	return out
}
