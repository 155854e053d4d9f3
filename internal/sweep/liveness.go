package sweep

import (
	"context"
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

// Missing is a tenant whose installation Bitbucket does not know.
type Missing struct {
	Version tenants.Version // of the tenant before Bitbucket was asked: erase only while it is current
	At      time.Time       // when the suspicions sufficed
}

// Eraser erases a tenant with the trigger probe. A tenant that is erased already is
// no error; one that changed since is tenants.ErrChanged, one under legal hold is
// lifecycle.OnHold.
type Eraser interface {
	EraseMissing(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, m Missing) error
}

// probeEraser is the Eraser of a running service.
type probeEraser struct{ *erasure.Eraser }

// EraseMissing implements Eraser. The erasures sweep finishes an erasure that has begun;
// only a legal hold is an error.
func (e probeEraser) EraseMissing(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, m Missing) error {
	out, err := e.Erase(ctx, a, id, erasure.Order{Trigger: lifecycle.TriggerProbe, RequestedAt: m.At,
		Delivery: tenants.Delivery{Version: m.Version}})
	if err == nil && errors.Is(out.Delay, lifecycle.OnHold) {
		return out.Delay
	}
	return err
}

// controls is how many more tenants are asked when no answer was alive.
const controls = 3

// LivenessPass asks Bitbucket about each tenant, and erases a tenant whose installation
// Bitbucket does not know: after the number of suspicions over the number of days that
// the policy requires, and only when another tenant is alive in the same pass. Without
// that control a suspicion is not even counted, because Bitbucket answers 404 in an outage
// as well. Nor is it counted when too many tenants are missing at once, because after a
// change of the app's scopes Bitbucket answers 403 for every workspace that has not
// granted it yet.
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

// answers is Bitbucket's answers of one pass.
type answers struct {
	mu       sync.Mutex
	asked    []lifecycle.TenantID
	alive    int64
	suspects []liveness.State
	silent   int64
	busy     bool // Bitbucket answered 429: nothing more is asked
	err      error
}

// Look implements Pass. A dry run asks as well, which the audit records, and stores none
// of the answers.
func (p *LivenessPass) Look(ctx context.Context, o Order) (Found, error) {
	rule := p.policy.Liveness
	// The sweep's own access, whatever started it: no person may have the secret.
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
	lately, err := p.store.Lately(ctx, o.Now.Add(-p.longestGap()))
	if err != nil {
		return Found{}, err
	}
	r := round{answers: got, due: int64(len(due)),
		recent: worst(lately, liveness.Lately{Answered: got.alive + int64(len(got.suspects)), Gone: int64(len(got.suspects))})}
	if !tooMany(r.recent) {
		if r.outcome, err = p.act(ctx, o, got); err != nil {
			return Found{}, err
		}
	}
	if r.stored, err = p.store.Count(ctx, o.Now.Add(-days(rule.Days))); err != nil {
		return Found{}, err
	}
	if o.DryRun { // nothing was stored: what this pass saw counts too
		r.stored.Suspected = max(r.stored.Suspected, int64(len(got.suspects)))
	}
	return Found{Checks: p.checks(r), SnapshotAt: r.stored.At}, nil
}

// round is everything that one pass learned.
type round struct {
	*answers
	outcome
	due    int64           // tenants that were to be asked about
	recent liveness.Lately // what decides whether too many are missing at once
	stored liveness.Counts
}

// longestGap is the longest pause between two answers that count together.
func (p *LivenessPass) longestGap() time.Duration {
	return policy.StoryBreak * p.policy.Liveness.Apart.Duration()
}

// tooMany reports whether so many tenants are missing at once that the cause is more
// likely ours or Bitbucket's. The bounds are in code: no policy may lift them.
func tooMany(l liveness.Lately) bool {
	return l.Gone > max(policy.MassFloor, l.Answered*policy.MassPercent/100)
}

// worst returns the worse of this pass and of all recent answers, because tenants that are
// asked about in many small passes can be missing at once just as well.
func worst(lately, now liveness.Lately) liveness.Lately {
	if lately.Answered == 0 || tooMany(now) && !tooMany(lately) {
		return now
	}
	return lately
}

// ask asks about each tenant, some at once, at the policy's pace, until Bitbucket
// answers 429 or an error of ours ends the pass. A crash loses no more than the answers
// under way; the next pass asks about those tenants first.
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

// one asks about one tenant. The disclosure is recorded even when the pass's timeout has
// passed.
func (p *LivenessPass) one(ctx context.Context, o Order, t liveness.State, got *answers) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	with, err := p.door.Installation(ctx, o.Access, t.ID)
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return nil // erased meanwhile
	}
	if err != nil {
		return err
	}
	answer := p.bitbucket.Probe(ctx, with.WorkspaceUUID, with.ClientKey, with.Secret)
	ended := ctx.Err()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	q := liveness.Asked{
		Tenant: t.ID, At: o.Now, Recipient: p.bitbucket.Host(), Detail: answer.Detail(),
		Answered: answer.Answer != bitbucket.CannotTell, Alive: answer.Answer == bitbucket.Alive,
	}
	note := p.store.Note
	if o.DryRun {
		note = p.store.NoteDry
	}
	if err := note(ctx, o.Access, q); err != nil {
		return err
	}
	got.add(t, answer)
	return ended
}

func (g *answers) add(t liveness.State, answer bitbucket.Probed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, t.ID)
	switch answer.Answer {
	case bitbucket.Alive:
		g.alive++
	case bitbucket.Suspected:
		g.suspects = append(g.suspects, t)
	default:
		g.silent++
	}
	g.busy = g.busy || answer.Busy()
}

func (g *answers) resting() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.busy || g.err != nil }

func (g *answers) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// outcome counts the tenants that have been missing for long enough and are not erased.
type outcome struct {
	ripe    int64 // the run is dry
	onHold  int64 // a legal hold keeps them
	waiting int64 // the pass erased as many as it may
}

// act counts the suspicions, and erases the tenants that have been missing for long
// enough. One failure does not stop the rest.
func (p *LivenessPass) act(ctx context.Context, o Order, got *answers) (v outcome, err error) {
	if got.alive == 0 {
		return v, nil
	}
	rule := p.policy.Liveness
	may := min(rule.MaxErasures, policy.MaxErasures)
	var errs []error
	for _, t := range got.suspects {
		s := suspected(t, o.Now, rule.Apart.Duration(), p.longestGap())
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
			v.ripe++
			continue
		}
		if may <= 0 {
			v.waiting++ // the next answer finds it ripe again
			continue
		}
		err := p.eraser.EraseMissing(ctx, o.Access, t.ID, Missing{Version: t.Version, At: o.Now})
		switch {
		case err == nil:
			may--
		case errors.Is(err, lifecycle.OnHold):
			v.onHold++
		case errors.Is(err, tenants.ErrChanged), errors.Is(err, lifecycle.TenantErased), errors.Is(err, lifecycle.TenantUnknown):
			// installed again or erased meanwhile
		default:
			may-- // it may have begun
			errs = append(errs, fmt.Errorf("erasing a tenant that Bitbucket does not know: %w", err))
		}
	}
	return v, errors.Join(errs...)
}

// suspected adds an answer that the installation is missing. The count restarts after an
// install that was accepted since the first suspicion, and after a pause longer than
// longestGap; an answer sooner than apart after the last suspicion does not count.
func suspected(t liveness.State, now time.Time, apart, longestGap time.Duration) liveness.Suspicion {
	s := t.Suspicion
	switch {
	case s.Count == 0 || t.UpdatedAt.After(s.First) || s.Last.After(now), now.Sub(s.Last) > longestGap:
		return liveness.Suspicion{Count: 1, First: now, Last: now}
	case now.Sub(s.Last) < apart:
		return s
	}
	return liveness.Suspicion{Count: s.Count + 1, First: s.First, Last: now}
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// The answers that the results are about. A result's digest covers its request and answer.
const (
	answersAlive   = "2xx"
	answersMissing = "401, 403 or 404"
	answersBusy    = "429"
	answersOther   = "anything else"
)

// check returns one result of the pass.
func (p *LivenessPass) check(what, predicate string, at time.Time) findings.Check {
	c := checked("trakr.tenant_liveness", what, at)
	c.PredicateDigest = findings.Digest(predicate)
	return c
}

// asking is the predicate of a result about one kind of answer.
func (p *LivenessPass) asking(answer string) string {
	return "GET " + p.policy.App.Proof.Resource + " answers " + answer
}

// retained returns a result that is no finding, with its ground.
func retained(c findings.Check, rows int64, ground string) findings.Check {
	c.Rows, c.Disposition, c.Ground = rows, findings.Retained, ground
	return c
}

// unchecked returns a result that could not be determined, with the reason.
func unchecked(c findings.Check, rows int64, why string) findings.Check {
	c.Rows, c.Disposition, c.Ground = rows, findings.Unjudged, why
	return c
}

// checks returns the results of the pass.
func (p *LivenessPass) checks(r round) []findings.Check {
	at := r.stored.At
	alive := retained(p.check("alive", p.asking(answersAlive), at), r.alive, "Bitbucket answered that the app is installed")
	suspicion := p.suspicions(r)
	out := []findings.Check{alive, suspicion, p.missing(r, suspicion.Ground), p.mass(r), p.silence(r), p.unheard(r)}
	missing := p.asking(answersMissing)
	if r.waiting > 0 {
		out = append(out, retained(p.check("waiting", missing, at), r.waiting,
			fmt.Sprintf("Bitbucket does not know them; this pass erased the %d that it may, and a later one erases the others",
				min(p.policy.Liveness.MaxErasures, policy.MaxErasures))))
	}
	if r.onHold > 0 {
		out = append(out, retained(p.check("held", missing, at), r.onHold, "Bitbucket does not know them; a legal hold keeps the data"))
	}
	return out
}

// suspicions counts the suspected tenants, or reports why no suspicion counts.
func (p *LivenessPass) suspicions(r round) findings.Check {
	suspects, c := int64(len(r.suspects)), p.check("suspected", p.asking(answersMissing), r.stored.At)
	switch {
	case tooMany(r.recent):
		return unchecked(c, r.recent.Gone, "too many at once to be believed: no suspicion was counted and nothing erased")
	case r.recent.Answered == 0 && r.stored.Live > 0: // reported as too_many
	case suspects > 0 && r.alive == 0 && r.stored.Live <= 1:
		return unchecked(c, suspects, "there is only one tenant and none to compare it with: it is never erased by a probe")
	case suspects > 0 && r.alive == 0:
		return unchecked(c, suspects, "no other tenant answered that it is alive, so Bitbucket itself may be out: "+
			"no suspicion was counted and nothing erased")
	}
	rule := p.policy.Liveness
	return retained(p.check("suspected", liveness.CountSQL, r.stored.At), r.stored.Suspected,
		fmt.Sprintf("Bitbucket answered that it does not know the app there; erased after %d such answers over %d days",
			rule.Suspicions, rule.Days))
}

// missing counts the tenants that a run which is not dry erases.
func (p *LivenessPass) missing(r round, whySuspected string) findings.Check {
	c := p.check("gone", p.asking(answersMissing), r.stored.At)
	c.Rows = r.ripe
	switch {
	case tooMany(r.recent):
		c.Disposition, c.Ground = findings.Unjudged, whySuspected
	case r.ripe > 0:
		c.Ground = "Bitbucket does not know them, and their data is stored; a run that is not dry erases them"
	case r.stored.Live == 1:
		c.Ground = "with a single tenant there is no control: it is never erased by a probe"
	}
	return c
}

// mass reports whether too many tenants are missing at once.
func (p *LivenessPass) mass(r round) findings.Check {
	c := p.check("too_many", liveness.LatelySQL, r.stored.At)
	switch {
	case tooMany(r.recent):
		c.Rows, c.Severity = r.recent.Gone, findings.Critical
		c.Ground = fmt.Sprintf("too many at once: %d of %d that answered are missing, so no suspicion was counted and nothing erased; "+
			"look at the app's scopes and at Bitbucket's status. A tenant that is known to be missing can be erased by a deletion request",
			r.recent.Gone, r.recent.Answered)
	case r.recent.Answered == 0 && r.stored.Live > 0:
		return unchecked(c, 0, "there was no recent answer, so how many are missing is not known")
	}
	return c
}

// silence counts the tenants without a clear answer in this pass.
func (p *LivenessPass) silence(r round) findings.Check {
	clear := r.alive + int64(len(r.suspects))
	if r.busy {
		return unchecked(p.check("silent", p.asking(answersBusy), r.stored.At), max(r.due-clear, r.silent),
			"Bitbucket asked to slow down (429): the rest is asked in a later pass")
	}
	c := p.check("silent", p.asking(answersOther), r.stored.At)
	if r.silent > 0 && clear == 0 {
		return unchecked(c, r.silent, "Bitbucket gave no clear answer about any tenant")
	}
	return retained(c, r.silent, "Bitbucket gave no clear answer; neither suspected nor cleared, and asked again")
}

// unheard counts the tenants without a clear answer for days.
func (p *LivenessPass) unheard(r round) findings.Check {
	c := p.check("unheard", liveness.CountSQL, r.stored.At)
	if r.stored.Unheard > 0 {
		return unchecked(c, r.stored.Unheard, fmt.Sprintf("no clear answer for %d days or more: "+
			"whether the app is still installed there is not known", p.policy.Liveness.Days))
	}
	return c
}
