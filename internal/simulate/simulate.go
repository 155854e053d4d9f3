// Package simulate acts as Bitbucket Cloud against a running service: invented
// workspaces install, install again with a new secret, are replayed, forged and
// uninstalled, and some uninstalls are never delivered. It brings a Bitbucket API
// of its own, so that the service's proof of possession is real.
//
// It only talks to this machine, its numbers are bounded, and what it prints are
// names of steps and counts, never a value. It proves nothing about the real
// Bitbucket; its payloads have the captured form.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"trakr/internal/lifecycle"
)

// Config is the story to play.
type Config struct {
	Target      string           // public address of the service
	Admin       string           // private address, for reads
	Token       lifecycle.Secret // of role service, for reads
	API         string           // host:port where the simulated Bitbucket API answers
	Installs    int
	Uninstalls  int // of the installed
	Reads       int
	Tokens      int // tokens to call Bitbucket with, each used once
	Repeats     int // installs again, signed, with a new secret
	Replays     int // deliveries sent twice
	Forgeries   int // callbacks that must be refused
	Drops       int // uninstalls never delivered
	Answers     []Answer
	Stay        time.Duration // how long the API keeps answering after the story, so that a sweep can ask
	Staying     func(Summary) // called with the summary before
	Concurrency int
	Progress    io.Writer
	Terminal    bool // draw a progress bar
}

// Answer is the API's answer about one workspace after the story, whatever it knows.
type Answer struct {
	Workspace int // from 1, in the order of the installs
	Status    int
	For       time.Duration // 0: as long as the API answers
}

var answerForm = regexp.MustCompile(`^([0-9]{1,6})=([1-5][0-9]{2})(?:@(.+))?$`)

// ParseAnswer reads N=STATUS or N=STATUS@DURATION, such as 3=500 or 2=404@24h.
func ParseAnswer(s string) (Answer, error) {
	m := answerForm.FindStringSubmatch(s)
	if m == nil {
		return Answer{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"--answer is WORKSPACE=STATUS or WORKSPACE=STATUS@DURATION, such as 3=500 or 2=404@24h.")
	}
	var a Answer
	var err1, err2, err3 error
	a.Workspace, err1 = strconv.Atoi(m[1])
	a.Status, err2 = strconv.Atoi(m[2])
	if m[3] != "" {
		a.For, err3 = time.ParseDuration(m[3])
	}
	if err := errors.Join(err1, err2, err3); err != nil || a.For < 0 || a.Status < 200 {
		return Answer{}, lifecycle.Fail(lifecycle.RequestInvalid, "--answer takes a status from 200 and a duration such as 90m or 24h.")
	}
	return a, nil
}

const maxSteps = 100_000

func (c Config) check() error {
	for name, s := range map[string]string{"--target": c.Target, "--admin": c.Admin, "--api": "http://" + c.API} {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return lifecycle.Fail(lifecycle.RequestInvalid, name+" is an address such as http://127.0.0.1:8080.")
		}
		ip, err := netip.ParseAddr(u.Hostname())
		if u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
			return lifecycle.Fail(lifecycle.RequestInvalid,
				name+" must be on this machine: the simulation forges callbacks and makes load.")
		}
	}
	for _, n := range []int{c.Installs, c.Uninstalls, c.Reads, c.Tokens, c.Repeats, c.Replays, c.Forgeries, c.Drops} {
		if n < 0 || n > maxSteps {
			return lifecycle.Fail(lifecycle.RequestInvalid, fmt.Sprintf("Each number lies between 0 and %d.", maxSteps))
		}
	}
	if c.Uninstalls+c.Drops > c.Installs {
		return lifecycle.Fail(lifecycle.RequestInvalid, "--uninstalls and --drops together cannot exceed --installs.")
	}
	for _, a := range c.Answers {
		if a.Workspace < 1 || a.Workspace > c.Installs {
			return lifecycle.Fail(lifecycle.RequestInvalid, "--answer names a workspace by its number, from 1 to --installs.")
		}
	}
	if c.Installs == 0 && c.Reads+c.Tokens+c.Repeats+c.Replays > 0 {
		return lifecycle.Fail(lifecycle.RequestInvalid, "Without --installs there is nobody to read, call for, repeat or replay.")
	}
	return nil
}

// Step is one kind of act and what came of it.
type Step struct {
	Name     string  `json:"name"`
	Expected string  `json:"expected"` // accepted or refused
	Sent     int     `json:"sent"`
	Accepted int     `json:"accepted"`
	Refused  int     `json:"refused"`
	Failed   int     `json:"failed"` // no answer, or 5xx
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`

	times []time.Duration
}

// Summary is what the service did.
type Summary struct {
	Steps       []*Step  `json:"steps"`
	Live        int      `json:"live"`        // workspaces that should be live now
	Uninstalled int      `json:"uninstalled"` // delivered
	Dropped     int      `json:"dropped"`     // uninstalled at Bitbucket, never delivered
	LiveTenant  string   `json:"live_tenant"` // the service's id of one that is live and was read; "" when none is
	Unexpected  []string `json:"unexpected"`
	Seconds     float64  `json:"seconds"`
}

// OK reports whether everything was accepted and refused as it should be.
func (s Summary) OK() bool { return len(s.Unexpected) == 0 }

// WriteTable prints the summary for people.
func (s Summary) WriteTable(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "STEP\tEXPECTED\tSENT\tACCEPTED\tREFUSED\tFAILED\tP50 ms\tP95 ms\t")
	for _, x := range s.Steps {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t\n", x.Name, x.Expected, x.Sent, x.Accepted, x.Refused, x.Failed, x.P50, x.P95)
	}
	_ = t.Flush() // to a terminal or a buffer
	fmt.Fprintf(w, "\n%d workspaces live, %d uninstalled, %d whose uninstall was never delivered; %.1f s\n",
		s.Live, s.Uninstalled, s.Dropped, s.Seconds)
	if s.OK() {
		fmt.Fprintln(w, "Everything was accepted and refused as it should be.")
	}
	if s.LiveTenant != "" {
		fmt.Fprintf(w, "A tenant that is live, to try: trakr tenant show %s\n", s.LiveTenant)
	}
	for _, u := range s.Unexpected {
		fmt.Fprintln(w, "UNEXPECTED:", u)
	}
}

// simulation is one run.
type simulation struct {
	Config
	service *service
	api     *api
	bar     *progressbar.ProgressBar

	mu  sync.Mutex
	sum Summary
}

// Run plays the whole story and returns what the service did. An error means
// that it could not be played to the end.
func Run(ctx context.Context, c Config) (Summary, error) {
	if err := c.check(); err != nil {
		return Summary{}, err
	}
	c.Concurrency = min(max(c.Concurrency, 1), 64)
	begin := time.Now()
	s := &simulation{Config: c, sum: Summary{Unexpected: []string{}, Steps: []*Step{}}}
	var err error
	if s.service, err = meet(ctx, c); err != nil {
		return Summary{}, err
	}
	if s.api, err = startAPI(ctx, c.API, s.service.appKey); err != nil {
		return Summary{}, err
	}
	defer s.api.stop()
	if c.Terminal {
		total := c.Installs + c.Repeats + c.Reads + c.Tokens + 2*c.Replays + c.Forgeries + 2*c.Uninstalls
		s.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(c.Progress),
			progressbar.OptionClearOnFinish(), progressbar.OptionShowCount())
	}
	err = s.story(ctx)
	for _, x := range s.sum.Steps {
		x.quantiles()
	}
	s.sum.Seconds = time.Since(begin).Seconds()
	if err == nil && c.Stay > 0 {
		if c.Staying != nil {
			c.Staying(s.sum)
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.Stay):
		}
	}
	return s.sum, err
}

// story is what happens, in order.
func (s *simulation) story(ctx context.Context) error {
	all := make([]*workspace, s.Installs)
	for i := range all {
		all[i] = invent()
	}
	s.each(ctx, "install", "accepted", len(all), func(i int) answer { return s.install(ctx, all[i], false) })
	s.each(ctx, "install again", "accepted", s.Repeats, func(i int) answer { return s.install(ctx, all[i%len(all)], true) })
	s.each(ctx, "replay", "accepted", s.Replays, func(i int) answer { return s.replay(ctx, all[i%len(all)]) })
	s.each(ctx, "read", "accepted", s.Reads, func(i int) answer { return s.read(ctx, all[i%len(all)]) })
	s.each(ctx, "call Bitbucket", "accepted", s.Tokens, func(i int) answer { return s.call(ctx, all[i%len(all)], i%2 == 0) })
	s.each(ctx, "forgery", "refused", s.Forgeries, func(i int) answer { return s.forge(ctx, i, all) })
	gone, lost := all[:s.Uninstalls], all[s.Uninstalls:s.Uninstalls+s.Drops]
	s.each(ctx, "uninstall", "accepted", len(gone), func(i int) answer { return s.uninstall(ctx, gone[i]) })
	s.each(ctx, "uninstall again", "accepted", len(gone), func(i int) answer { return s.service.deliver(ctx, gone[i].last) })
	if s.Reads > 0 {
		s.each(ctx, "read erased", "refused", len(gone), func(i int) answer { return s.read(ctx, gone[i]) })
	}
	for _, w := range lost {
		s.api.forget(w)
	}
	for _, a := range s.Answers {
		s.api.say(all[a.Workspace-1], a)
	}
	for _, w := range all[s.Uninstalls+s.Drops:] {
		if w.tenant != "" {
			s.sum.LiveTenant = w.tenant
		}
	}
	s.sum.Uninstalled, s.sum.Dropped, s.sum.Live = len(gone), len(lost), len(all)-len(gone)
	return ctx.Err()
}

// each runs one step n times, some at once, and counts what came of it.
func (s *simulation) each(ctx context.Context, name, expected string, n int, act func(i int) answer) {
	if n == 0 || ctx.Err() != nil {
		return
	}
	step := &Step{Name: name, Expected: expected}
	s.sum.Steps = append(s.sum.Steps, step)
	next := make(chan int)
	var wg sync.WaitGroup
	for range s.Concurrency {
		wg.Go(func() {
			for i := range next {
				begin := time.Now()
				a := act(i)
				s.count(step, a, time.Since(begin))
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
}

func (s *simulation) count(step *Step, a answer, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step.Sent++
	step.times = append(step.times, took)
	got := "failed"
	switch {
	case a.err == nil && a.status/100 == 2:
		step.Accepted++
		got = "accepted"
	case a.err == nil && a.status/100 == 4:
		step.Refused++
		got = "refused"
	default:
		step.Failed++
	}
	if (got != step.Expected || a.note != "") && len(s.sum.Unexpected) < 20 {
		why := a.note
		if why == "" {
			why = fmt.Sprintf("%s instead of %s (status %d)", got, step.Expected, a.status)
		}
		if a.err != nil {
			why = "no answer"
		}
		s.sum.Unexpected = append(s.sum.Unexpected, step.Name+a.kind+": "+why)
	}
	if s.bar != nil {
		_ = s.bar.Add(1)
	}
}

func (x *Step) quantiles() {
	slices.Sort(x.times)
	at := func(q float64) float64 {
		if len(x.times) == 0 {
			return 0
		}
		return float64(x.times[int(q*float64(len(x.times)-1))].Microseconds()) / 1000
	}
	x.P50, x.P95 = at(.5), at(.95)
}

// errNoService names the command that starts what is missing.
func errNoService(target string) error {
	return errors.New("no service answers at " + target + "; start it first: make run")
}

// randomName returns a slug that no workspace has.
func randomName() string { return fmt.Sprintf("ws-%016x", rand.Uint64()) }
