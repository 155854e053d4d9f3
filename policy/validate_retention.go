package policy

import (
	"fmt"
	"time"
)

const day = 24 * time.Hour

// classes are the classes of retention: the shortest period that a policy may declare,
// and what executes it. Anything shorter proves nothing, or lets a captured callback
// work twice. The database enforces the floors of what its functions remove, too.
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
	"ledger":        {0, ByServiceEnd},     // its chain of hashes needs every line
	"installation":  {0, ByServiceEnd},
}

// afterBackups is how much longer than the backups a tombstone is kept: a backup that is
// restored late must not bring a tenant back.
const afterBackups = 30 * day

// floor returns the shortest period of a class.
func (v *validator) floor(class string) time.Duration {
	f := classes[class].floor
	for _, r := range v.p.Retention {
		if r.Class == Backups && (class == "tombstones" || class == "registry") {
			f = max(f, r.Period.Duration()+afterBackups)
		}
	}
	return f
}

// retention checks that classes are unique, each period, and the deletion deadline.
func (v *validator) retention() {
	seen := map[string]bool{}
	for i, r := range v.p.Retention {
		at := entry("$.retention", i)
		if seen[r.Class] {
			v.fault(at+".class", "the class %q is declared twice", r.Class)
		}
		seen[r.Class] = true
		v.period(at, r)
	}
	if v.p.DeletionDeadline.Duration() <= 0 {
		v.fault("$.deletion_deadline", "the deadline must be longer than zero")
	}
}

// period checks that a class has a period unless its rows are kept as long as the service,
// that it is not shorter than its floor, and that what executes it can do so.
func (v *validator) period(at string, r Retention) {
	none := r.Period.String() == ""
	c, known := classes[r.Class]
	switch {
	case none != (r.ExecutedBy == ByServiceEnd):
		v.fault(at+".period", "a class has a period, or is executed by %s and has none", ByServiceEnd)
	case !known:
		v.fault(at+".class", "the service has no retention class of this name")
	case !none && r.Period.Duration() < v.floor(r.Class):
		v.fault(at+".period", "%s is kept for at least %s", r.Class, inWords(v.floor(r.Class)))
	case c.by == ByUninstall && r.Period.Duration() > 0:
		v.fault(at+".period", "the uninstall deletes this class at once: P0D")
	case r.ExecutedBy == ByRetention && c.by != ByRetention:
		v.fault(at+".executed_by", "the retention sweep cannot remove rows of this class")
	case r.ExecutedBy != c.by && (r.ExecutedBy != ByNone || c.by != ByOperator):
		v.fault(at+".executed_by", "this class is executed by %s only", c.by)
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

// dates checks that dates exist and are of this century, and that no sub-processor was
// added after the Marketplace answers were decided.
func (v *validator) dates() {
	date := func(at, s string) (time.Time, bool) {
		d, err := time.Parse(time.DateOnly, s)
		switch {
		case err != nil:
			v.fault(at, "not a date")
		case d.Year() < 2000 || d.Year() > 2099:
			v.fault(at, "not a date of this century")
		default:
			return d, true
		}
		return d, false
	}
	decided, ok := date("$.marketplace.decided", v.p.Marketplace.Decided)
	for i, s := range v.p.SubProcessors {
		at := entry("$.sub_processors", i) + ".since"
		if since, sound := date(at, s.Since); ok && sound && since.After(decided) {
			v.fault(at, "it is later than the answers under marketplace, which were decided on %s: review them with this sub-processor",
				v.p.Marketplace.Decided)
		}
	}
}

// Bounds that no policy can change.
const (
	maxDue  = 30 * 24 * time.Hour  // GDPR Art. 12(3): one month
	maxHold = 366 * 24 * time.Hour // a longer legal hold must be reviewed
)

// requests checks that a deletion request is completed within the law's month, that the
// cooling-off leaves time for it, and that a legal hold ends.
func (v *validator) requests() {
	r := v.p.DeletionRequests
	if d := r.Due.Duration(); d <= 0 || d > maxDue {
		v.fault("$.deletion_requests.due", "a request is completed within 30 days (GDPR Art. 12(3)), and not at once")
	}
	if r.CoolingOff.Duration() >= r.Due.Duration() && v.has("$.deletion_requests.due") {
		v.fault("$.deletion_requests.cooling_off", "the cooling-off must end before the request is due")
	}
	if d := v.p.LegalHolds.Longest.Duration(); d < time.Hour || d > maxHold {
		v.fault("$.legal_holds.longest", "a hold lasts between an hour and 366 days; for a longer one, place another hold")
	}
}
