package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a run found, as it is written to the JSON file.
type report struct {
	At          time.Time    `json:"at"`
	Quick       bool         `json:"quick"`
	Plan        plan         `json:"plan"`
	Go          string       `json:"go"`
	System      string       `json:"system"`
	CPUs        int          `json:"cpus"`
	PostgreSQL  string       `json:"postgresql"`
	Tenants     int          `json:"tenants"`
	Comparisons []comparison `json:"comparisons"`
	Gates       []judgement  `json:"gates"`
}

// comparison is one line of the table: the ratio of the two sides' median rates,
// and the lowest and highest ratio of rounds that followed each other.
type comparison struct {
	Measure  string  `json:"measure"`
	Callers  int     `json:"callers,omitempty"`
	Unit     string  `json:"unit"`
	What     string  `json:"what"`
	Figure   figure  `json:"figure"`
	Baseline string  `json:"baseline"`
	Base     figure  `json:"baseline_figure"`
	Ratio    float64 `json:"ratio"`
	Low      float64 `json:"ratio_low"`
	High     float64 `json:"ratio_high"`
}

func newReport(p plan, quick bool, postgres string) report {
	return report{
		At: time.Now().UTC().Truncate(time.Second), Quick: quick, Plan: p, Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), PostgreSQL: postgres, Tenants: tenantCount,
	}
}

// subject is what a comparison is about.
type subject struct {
	measure string // the name of the measurement
	callers int    // at a time; 0 where there is one
	unit    string // of what the rate counts
}

// series are the figures of one side, a round each.
type series struct {
	name   string
	rounds []figure
}

// compare adds a line for two sides that took turns.
func (r *report) compare(s subject, product, baseline series) {
	c := comparison{
		Measure: s.measure, Callers: s.callers, Unit: s.unit,
		What: product.name, Figure: middle(product.rounds),
		Baseline: baseline.name, Base: middle(baseline.rounds),
	}
	c.Ratio = c.Figure.Rate / c.Base.Rate
	for i := range product.rounds {
		q := product.rounds[i].Rate / baseline.rounds[i].Rate
		c.Low, c.High = min(cmp.Or(c.Low, q), q), max(c.High, q)
	}
	r.Comparisons = append(r.Comparisons, c)
}

// print writes the tables for people.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.heading())
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{comparisonHead}, r.comparisonRows()...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	fmt.Fprintln(t)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range append([][]string{gateHead}, r.gateRows()...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func (r *report) heading() string {
	mode := ""
	if r.Quick {
		mode = "; QUICK: for a look, not for a statement"
	}
	return fmt.Sprintf("%s, %d CPUs shared by load, service and server, PostgreSQL %s with fsync, "+
		"%d connections a pool, %d tenants, %d rounds of %s%s",
		r.At.Format(time.RFC3339), r.CPUs, r.PostgreSQL, r.Plan.Connections, r.Tenants, r.Plan.Rounds, r.Plan.Length, mode)
}

var (
	comparisonHead = []string{
		"CALLERS", "MEASURED", "PER SECOND", "P50", "P99", "AGAINST", "PER SECOND", "P50", "P99", "RATIO", "OF ROUNDS",
	}
	gateHead = []string{"GATE", "NEEDED", "GOAL", "MEASURED", "VERDICT"}
)

func (r *report) comparisonRows() (rows [][]string) {
	for _, c := range r.Comparisons {
		callers := ""
		if c.Callers > 0 {
			callers = fmt.Sprint(c.Callers)
		}
		row := append([]string{callers, c.What}, c.Figure.cells(c.Unit)...)
		row = append(append(row, c.Baseline), c.Base.cells("")...)
		rows = append(rows, append(row, fmt.Sprintf("%.2f", c.Ratio), fmt.Sprintf("%.2f–%.2f", c.Low, c.High)))
	}
	return rows
}

// cells are a figure's rate and latencies; a dash where there are none.
func (f figure) cells(unit string) []string {
	latency := func(ms float64) string {
		if ms == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f ms", ms)
	}
	return []string{strings.TrimSpace(fmt.Sprintf("%.0f %s", f.Rate, unit)), latency(f.P50), latency(f.P99)}
}

func (r *report) gateRows() (rows [][]string) {
	for _, g := range r.Gates {
		rows = append(rows, []string{g.Name, g.limit(g.Need), g.limit(g.Goal), g.measured(), g.verdict()})
	}
	return rows
}

// write keeps the report beside the program as prefix.json and prefix.md.
func (r *report) write(prefix string) error {
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(prefix+".json", append(b, '\n'), 0o644), os.WriteFile(prefix+".md", []byte(r.markdown()), 0o644))
}

func (r *report) markdown() string {
	var s strings.Builder
	table := func(rows [][]string) {
		for i, row := range rows {
			fmt.Fprintf(&s, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				s.WriteString(strings.Repeat("|---", len(row)) + "|\n")
			}
		}
		s.WriteString("\n")
	}
	fmt.Fprintf(&s, "%s.\n\n", r.heading())
	table(append([][]string{comparisonHead}, r.comparisonRows()...))
	table(append([][]string{gateHead}, r.gateRows()...))
	return s.String()
}
