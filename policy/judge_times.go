package policy

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"trakr/internal/schedule/cronspec"
)

const day = 24 * time.Hour

// classes are the classes of retention there are: the shortest period that is taken,
// whatever is written, and who executes it. What goes sooner proves nothing, or lets
// a captured callback work twice. The database has the floors of what it removes too
// (migrations 10 and 14).
var classes = map[string]struct {
	floor time.Duration
	by    string
}{
	"tenant-fields": {0, ByUninstall},
	"liveness":      {0, ByUninstall},
	"outbox":        {0, ByUninstall},
	"replay-guard":  {2 * time.Hour, ByReplayGuard}, // as long as a token can be presented
	"registry":      {365 * day, ByRetention},
	"tombstones":    {365 * day, ByRetention},
	"evidence":      {365 * day, ByRetention},
	"requests":      {365 * day, ByRetention},
	"operations":    {30 * day, ByRetention},
	"audit":         {365 * day, ByOperator},
	Backups:         {day, ByOperator},
	"logs":          {day, ByOperator},
	"canaries":      {time.Hour, ByCanary}, // a few plantings
	"ledger":        {0, ByServiceEnd},     // its chain does not let a line go
	"installation":  {0, ByServiceEnd},
}

// afterBackups is how much longer than the backups a tombstone stays: a backup
// that is restored late must not bring a tenant back.
const afterBackups = 30 * day

// floor is the shortest period of a class.
func (j *judgement) floor(class string) time.Duration {
	f := classes[class].floor
	for _, r := range j.p.Retention {
		if r.Class == Backups && (class == "tombstones" || class == "registry") {
			f = max(f, r.Period.Duration()+afterBackups)
		}
	}
	return f
}

// period: each has one unless its rows stay, none is shorter than its floor, and none
// is said to be executed by what cannot.
func (j *judgement) period(at string, r Retention) {
	left := r.Period.String() == ""
	c, known := classes[r.Class]
	switch {
	case left != (r.ExecutedBy == ByServiceEnd):
		j.fault(at+".period", "a class has a period, or is executed by %s and has none", ByServiceEnd)
	case !known:
		j.fault(at+".class", "the service knows no class of retention of this name")
	case !left && r.Period.Duration() < j.floor(r.Class):
		j.fault(at+".period", "%s is kept for at least %s", r.Class, inWords(j.floor(r.Class)))
	case c.by == ByUninstall && r.Period.Duration() > 0:
		j.fault(at+".period", "what goes with the uninstall goes at once: P0D")
	case r.ExecutedBy == ByRetention && c.by != ByRetention:
		j.fault(at+".executed_by", "the retention sweep cannot remove rows of this class")
	case r.ExecutedBy != c.by && (r.ExecutedBy != ByNobody || c.by != ByOperator):
		j.fault(at+".executed_by", "this class is executed by %s, and by nothing else", c.by)
	}
}

func inWords(d time.Duration) string {
	switch {
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}

// retention: unique classes with periods; a deadline above zero.
func (j *judgement) retention() {
	seen := map[string]bool{}
	for i, r := range j.p.Retention {
		if seen[r.Class] {
			j.fault("$.retention["+strconv.Itoa(i)+"].class", "the class %q is declared twice", r.Class)
		}
		seen[r.Class] = true
		j.period("$.retention["+strconv.Itoa(i)+"]", r)
	}
	if j.p.DeletionDeadline.Duration() <= 0 {
		j.fault("$.deletion_deadline", "the deadline must be longer than no time")
	}
	j.dates()
}

// dates: real ones of this century, and no sub-processor later than the answers that
// were given with it in view.
func (j *judgement) dates() {
	date := func(at, s string) (time.Time, bool) {
		d, err := time.Parse(time.DateOnly, s)
		switch {
		case err != nil:
			j.fault(at, "not a date")
		case d.Year() < 2000 || d.Year() > 2099:
			j.fault(at, "not a date of this century")
		default:
			return d, true
		}
		return d, false
	}
	decided, ok := date("$.marketplace.decided", j.p.Marketplace.Decided)
	for i, s := range j.p.SubProcessors {
		at := "$.sub_processors[" + strconv.Itoa(i) + "].since"
		if since, sound := date(at, s.Since); ok && sound && since.After(decided) {
			j.fault(at, "it is later than the answers under marketplace, which were decided on %s: decide anew with this one", j.p.Marketplace.Decided)
		}
	}
}

// Bounds that no policy can move.
const (
	maxDue  = 30 * 24 * time.Hour  // GDPR Art. 12(3): one month
	maxHold = 366 * 24 * time.Hour // what is held longer is looked at anew
)

// requests: completed within the law's month, after a cooling-off that leaves time
// for it; a hold ends.
func (j *judgement) requests() {
	r := j.p.DeletionRequests
	if d := r.Due.Duration(); d <= 0 || d > maxDue {
		j.fault("$.deletion_requests.due", "a request is completed within 30 days (GDPR Art. 12(3)), and not at once")
	}
	if r.CoolingOff.Duration() >= r.Due.Duration() && j.has("$.deletion_requests.due") {
		j.fault("$.deletion_requests.cooling_off", "the cooling-off must end before the request is due")
	}
	if d := j.p.LegalHolds.Longest.Duration(); d < time.Hour || d > maxHold {
		j.fault("$.legal_holds.longest", "a hold lasts between an hour and 366 days; a longer one is placed anew")
	}
}

// rests are the kinds of sweep that the service has, each with the longest time between
// two passes: evidence counts as recent for twice that.
var rests = []struct {
	kind string
	rest time.Duration
}{
	{"orphans", day}, {"erasures", time.Hour}, {"liveness", day}, {"retention", 2 * day}, {"integrity", day}, {"minimisation", 7 * day}, {"drift", day},
}

// SweepKinds lists the kinds that a policy gives a schedule.
func SweepKinds() []string {
	var out []string
	for _, r := range rests {
		out = append(out, r.kind)
	}
	return out
}

// sweeps: each kind once, often enough, and with time for a pass.
func (j *judgement) sweeps() {
	seen := map[string]bool{}
	for i, s := range j.p.Sweeps {
		at := "$.sweeps[" + strconv.Itoa(i) + "]"
		k := slices.Index(SweepKinds(), s.Kind)
		switch {
		case k < 0:
			j.fault(at+".kind", "the service has no sweep %q; there are: %s", s.Kind, And(SweepKinds()))
		case seen[s.Kind]:
			j.fault(at+".kind", "the sweep %q is scheduled twice", s.Kind)
		}
		seen[s.Kind] = true
		if rest := j.schedule(at+".schedule", s.Schedule); k >= 0 && rest > rests[k].rest {
			j.fault(at+".schedule", "it rests for as long as %s, and the sweep %s runs every %s or more often: what it found counts as recent for twice that", inWords(rest), s.Kind, inWords(rests[k].rest))
		}
		if s.Timeout.Duration() < time.Second {
			j.fault(at+".timeout", "a pass needs at least a second")
		}
	}
	for _, k := range SweepKinds() {
		if !seen[k] && j.whole("$.sweeps", "kind") {
			j.fault("$.sweeps", "the sweep %s has no schedule, so it would never run", k)
		}
	}
}

// never is a time without an occasion that no schedule has.
const never = 400 * day

// schedule: what the scheduler takes, and comes within a year. It returns the longest
// time between two occasions; 0 when it is not sound.
func (j *judgement) schedule(at, spec string) time.Duration {
	s, err := cronspec.Parse(spec)
	if err != nil {
		j.fault(at, "%v", err)
		return 0
	}
	// Any time will do; the answer must not depend on when it is asked.
	rest := cronspec.Longest(s, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if rest > never {
		j.fault(at, "the schedule %q does not come for %s on end", spec, inWords(rest))
		return 0
	}
	return rest
}

// jobs: each once, at times that come.
func (j *judgement) jobs() {
	seen := map[string]bool{}
	for i, x := range j.p.Jobs {
		at := "$.jobs[" + strconv.Itoa(i) + "]"
		if seen[x.Name] {
			j.fault(at+".name", "the job %q is declared twice", x.Name)
		}
		seen[x.Name] = true
		j.schedule(at+".schedule", x.Schedule)
	}
}

// liveness: nothing below the floors, and a pass that can end in its time.
func (j *judgement) liveness() {
	l := j.p.Liveness
	if l.Suspicions < MinSuspicions {
		j.fault("$.liveness.suspicions", "a tenant is erased after %d suspicions or more", MinSuspicions)
	}
	if l.Days < MinDays {
		j.fault("$.liveness.days", "a tenant is suspected for %d days or more before it is erased", MinDays)
	}
	if l.Apart.Duration() < MinApart {
		j.fault("$.liveness.apart", "suspicions count only when they are 12 hours apart, or more")
	}
	if l.MaxErasures > MaxErasures {
		j.fault("$.liveness.max_erasures", "one pass erases %d tenants or fewer", MaxErasures)
	}
	for i, s := range j.p.Sweeps {
		asking := time.Duration(l.Batch) * time.Second / time.Duration(max(l.PerSecond, 1))
		if s.Kind == "liveness" && asking > s.Timeout.Duration() && j.has("$.liveness.per_second") {
			j.fault("$.sweeps["+strconv.Itoa(i)+"].timeout", "a pass cannot end in this time: %d questions at %d a second", l.Batch, l.PerSecond)
		}
	}
}
