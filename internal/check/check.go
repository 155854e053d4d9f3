// Package check is the one form of a verdict. Every self-check, control, readiness check,
// drift comparison and statement binding returns a Result, so that doctor, /readyz, the
// sweeps and the reports cannot disagree on what a verdict is. It judges nothing itself.
package check

// State is how a check ended.
type State string

// States of a check. Unknown means that the check could not be made: it is never a pass.
const (
	Pass    State = "pass"
	Fail    State = "fail"
	Warn    State = "warn" // for the operator to decide
	Unknown State = "unknown"
)

// Result is the verdict of one check.
type Result struct {
	ID       string // stable, lower case, dotted: "guard.row-security"
	Title    string // what is true when the check passes, as a clause
	State    State
	Evidence string // what was observed; names and counts, never a tenant's value
	WayOut   string // what the operator can do; empty when the check passes
}

// Detail returns the evidence and the way out as one text.
func (r Result) Detail() string {
	switch {
	case r.WayOut == "":
		return r.Evidence
	case r.Evidence == "":
		return r.WayOut
	}
	return r.Evidence + "; " + r.WayOut
}

// rank orders the states from best to worst.
var rank = map[State]int{Pass: 0, Warn: 1, Unknown: 2, Fail: 3}

// Worst returns the worst state among the results: Fail before Unknown before Warn before
// Pass. Without results it returns Unknown, because nothing was checked.
func Worst(results ...Result) State {
	if len(results) == 0 {
		return Unknown
	}
	worst := Pass
	for _, r := range results {
		if rank[r.State] > rank[worst] {
			worst = r.State
		}
	}
	return worst
}
