package main

import (
	"fmt"

	"trakr/internal/store/audit"
)

// gate is a bound of a specification on something measured.
type gate struct {
	Name   string  `json:"gate"`
	Need   float64 `json:"needed"`
	Goal   float64 `json:"goal,omitempty"` // 0: none beyond what is needed
	AtMost bool    `json:"at_most"`        // bounds from above
	Unit   string  `json:"unit,omitempty"`

	of    [3]string // measure, side, baseline
	value func(comparison) float64
}

// judgement is a gate and what came of it.
type judgement struct {
	gate
	Got  *float64 `json:"measured"` // null: not measured in this run
	Met  *bool    `json:"met"`
	Best *bool    `json:"goal_met,omitempty"`
}

func ratio(c comparison) float64 { return c.Ratio }
func p99(c comparison) float64   { return c.Figure.P99 }
func loss(c comparison) float64  { return 100 * (1 - c.Ratio) }
func cost(c comparison) float64  { return 1 / c.Ratio }

// gates are at 32 callers, those of exports and sweeps apart.
var gates = []gate{
	{"audited read : plain INSERT", 1.5, 2, false, "", [3]string{"reads", auditedRead, plainInsert}, ratio},
	{"audited read : un-audited SELECT", .5, .7, false, "", [3]string{"reads", auditedRead, plainSelect}, ratio},
	{"audited read, p99", 10, 3, true, "ms", [3]string{"reads", auditedRead, plainInsert}, p99},
	{"audited : un-audited, over HTTP", .65, 0, false, "", [3]string{"http", overHTTP, overHTTPPlain}, ratio},
	{"audited read over HTTP, p99", 10, 3, true, "ms", [3]string{"http", overHTTP, overHTTPPlain}, p99},
	{"export as ndjson : COPY", .6, .9, false, "", [3]string{"export", exported(audit.NDJSON), copied}, ratio},
	{"export as csv : COPY", .6, .9, false, "", [3]string{"export", exported(audit.CSV), copied}, ratio},
	{"export as ocsf : COPY", .6, .9, false, "", [3]string{"export", exported(audit.OCSF), copied}, ratio},
	{"sequencer : audited read", 3, 0, false, "", [3]string{"sequencer", sequenced, auditedRead}, ratio},
	{"slowdown by the sequencer", 15, 0, true, "%", [3]string{"sequencer", whileOn, whileOff}, loss},
	{"cost of a read at 10 million events : at 10 thousand", 1.2, 0, true, "", [3]string{"size", after(10_000_000), after(10_000)}, cost},
	{"time of the orphan sweep's check : raw anti-join", 2, 1.3, true, "", [3]string{"orphans", sweptTable, antiJoin}, cost},
	{"time of the whole orphan sweep : raw anti-join", 2, 1.3, true, "", [3]string{"orphans", sweptDeclared, antiJoin}, cost},
	{"slowdown by the orphan sweep", 15, 0, true, "%", [3]string{"orphans", whileSweeping, whileNotSweeping}, loss},
}

// judge holds the comparisons against the gates.
func (r *report) judge() {
	for _, g := range gates {
		j := judgement{gate: g}
		for _, c := range r.Comparisons {
			if g.of != [3]string{c.Measure, c.What, c.Baseline} || (c.Callers != 0 && c.Callers != gateCallers) {
				continue
			}
			v := g.value(c)
			met := g.holds(v, g.Need)
			j.Got, j.Met = &v, &met
			if g.Goal != 0 {
				best := g.holds(v, g.Goal)
				j.Best = &best
			}
		}
		r.Gates = append(r.Gates, j)
	}
}

func (g gate) holds(v, bound float64) bool {
	if g.AtMost {
		return v <= bound
	}
	return v >= bound
}

func (g gate) limit(v float64) string {
	switch {
	case v == 0:
		return "–"
	case g.AtMost:
		return "≤ " + g.text(v)
	}
	return "≥ " + g.text(v)
}

func (g gate) text(v float64) string {
	if g.Unit == "" {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f %s", v, g.Unit)
}

func (j judgement) measured() string {
	if j.Got == nil {
		return "–"
	}
	return j.text(*j.Got)
}

func (j judgement) verdict() string {
	switch {
	case j.Met == nil:
		return "not measured"
	case !*j.Met:
		return "NOT MET"
	case j.Best != nil && *j.Best:
		return "met, and the goal"
	case j.Best != nil:
		return "met, the goal not"
	}
	return "met"
}
