package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The stories of this file end processes and fill disks. What they promise: every
// value that left the service has its event, the log verifies, nothing is double,
// and the service comes back by itself.

// tour is a running service with tenants and a token, and what clients got of it.
type tour struct {
	*machine
	tenants []string
	token   string

	mu       sync.Mutex
	released []string // event ids of answers that held a value
	refused  map[int]int
	slowest  time.Duration
	noRetry  int // 503 without Retry-After
	leaked   int // answers that are not 200 and hold a value
}

func newTour(m *machine, installs int) *tour {
	m.t.Helper()
	p := &tour{machine: m, refused: map[int]int{}}
	m.trakr(exitClean, "simulate", "--installs", strconv.Itoa(installs), "--uninstalls", "0", "--drops", "0", "--reads", "0", "--tokens", "0", "--repeats", "0", "--replays", "0", "--forgeries", "0",
		"--target", "http://"+m.pub, "--admin", "http://"+m.priv, "--api", m.api)
	var list struct {
		Events []struct {
			TenantID string `json:"tenant_id"`
		}
	}
	m.jsonOf(&list, "audit", "list", "--action", "tenant.install", "--outcome", "success", "--limit", "100", "--json")
	for _, e := range list.Events {
		p.tenants = append(p.tenants, e.TenantID)
	}
	if len(p.tenants) != installs {
		m.t.Fatalf("%d tenants, want %d", len(p.tenants), installs)
	}
	var made struct{ Token string }
	m.jsonOf(&made, "token", "create", "--role", "service", "--label", "faults", "--json")
	p.token = made.Token
	return p
}

func (m *machine) jsonOf(v any, args ...string) {
	m.t.Helper()
	out := m.trakr(exitClean, args...)
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), v); err != nil {
		m.t.Fatalf("trakr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// callers reads from n goroutines until ctx ends.
func (p *tour) callers(ctx context.Context, n int) *sync.WaitGroup {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for k := i; ctx.Err() == nil; k++ {
				p.read(ctx, client, p.tenants[k%len(p.tenants)])
			}
			client.CloseIdleConnections()
		})
	}
	return &wg
}

func (p *tour) read(ctx context.Context, client *http.Client, tenant string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.priv+"/v1/tenants/"+tenant+"/reads",
		strings.NewReader(`{"fields":["username"],"reason":{"code":"service_operation"}}`))
	if err != nil {
		p.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+p.token)
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		time.Sleep(2 * time.Millisecond) // the service is gone; do not spin
		return
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return // a broken answer: the caller has no value
	}
	var got struct {
		EventID string `json:"event_id"`
	}
	_ = json.Unmarshal(b, &got)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slowest = max(p.slowest, time.Since(begin))
	if resp.StatusCode == http.StatusOK {
		p.released = append(p.released, got.EventID)
		return
	}
	p.refused[resp.StatusCode]++
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		p.noRetry++
	}
	if bytes.Contains(b, []byte(`"fields"`)) {
		p.leaked++
	}
}

// settle checks the promises once the service runs again.
func (p *tour) settle() {
	p.t.Helper()
	p.trakr(exitClean, "audit", "export", "--format", "ndjson", "--out", "all.ndjson")
	b, err := os.ReadFile(filepath.Join(p.dir, "all.ndjson"))
	if err != nil {
		p.t.Fatal(err)
	}
	seen := map[string]int{}
	for line := range bytes.Lines(b) {
		var e struct {
			EventID string `json:"event_id"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			p.t.Fatalf("a line of the export is no JSON: %v", err)
		}
		if e.EventID != "" {
			seen[e.EventID]++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lost, twice := 0, 0
	for _, id := range p.released {
		if seen[id] == 0 {
			lost++
		}
	}
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	if lost+twice+p.leaked+p.noRetry > 0 || len(p.released) == 0 {
		p.t.Errorf("of %d values that left, %d have no event; %d events stand twice; %d refusals held a value, %d 503s no Retry-After", len(p.released), lost, twice, p.leaked, p.noRetry)
	}
	p.t.Logf("%d values left, %d events, refusals %v, slowest answer %s", len(p.released), len(seen), p.refused, p.slowest.Round(time.Millisecond))
	p.trakr(exitClean, "audit", "verify")
}

// killRounds is how often something is killed; the issue's own number.
const killRounds = 20

func TestKilledUnderLoadEveryValueThatLeftHasItsEvent(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	service, out := m.serve()
	p := newTour(m, 8)
	ctx, cancel := context.WithCancel(t.Context())
	wg := p.callers(ctx, 64)
	for round := range killRounds {
		before := p.count()
		for deadline := time.Now().Add(30 * time.Second); p.count() < before+100; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the service does not answer any more:\n%s", round, tail(out.String()))
			}
		}
		time.Sleep(time.Duration(round*17%50) * time.Millisecond)
		if round%2 == 0 { // the service; whoever starts it again finds its database
			if err := service.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_, _ = service.Process.Wait()
			service, out = m.serve()
			continue
		}
		if err := syscall.Kill(m.postmaster(), syscall.SIGKILL); err != nil { // the database; the service starts it again
			t.Fatal(err)
		}
	}
	before := p.count()
	for deadline := time.Now().Add(30 * time.Second); p.count() < before+100 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	p.settle()
}

func (p *tour) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.released)
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// TestAStoppedDatabaseIsRefusedInTime freezes the database instead of killing it,
// which no connection notices, for longer than the time budget of a read.
func TestAFrozenDatabaseIsRefusedInTimeAndComesBack(t *testing.T) {
	m := usedMachine(t)
	_, _ = m.serve()
	p := newTour(m, 4)
	ctx, cancel := context.WithCancel(t.Context())
	wg := p.callers(ctx, 16)
	time.Sleep(300 * time.Millisecond)
	frozen := family(t, m.postmaster())
	for _, pid := range frozen {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	time.Sleep(12 * time.Second)
	before := p.count()
	for _, pid := range frozen {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	for deadline := time.Now().Add(30 * time.Second); p.count() < before+200 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	if p.refused[http.StatusServiceUnavailable] == 0 || len(p.refused) != 1 {
		t.Errorf("refusals: %v, want 503 only", p.refused)
	}
	if p.slowest > 12*time.Second {
		t.Errorf("an answer took %s", p.slowest)
	}
	if p.count() < before+200 {
		t.Error("the service did not come back by itself")
	}
	p.settle()
}

// family lists a process and its children.
func family(t *testing.T, pid int) []int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-o", "pid=", "--ppid", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	all := []int{pid}
	for _, f := range strings.Fields(string(out)) {
		if n, err := strconv.Atoi(f); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// TestAFullDiskRefusesAndLosesNothing puts the data on a small file system of its
// own and fills it. Only root can mount one.
func TestAFullDiskRefusesAndLosesNothing(t *testing.T) {
	m := newMachine(t)
	disk := filepath.Join(m.dir, "disk")
	if err := os.Mkdir(disk, 0o711); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=260m,mode=0711")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("this user may not mount a small file system here (root in a container without CAP_SYS_ADMIN may not either); no disk can be filled")
	}
	if err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	m.env = append(m.env, "TRAKR_DATA_DIR="+filepath.Join(disk, "data"))
	_, out := m.serve()
	p := newTour(m, 4)
	ctx, cancel := context.WithCancel(t.Context())
	wg := p.callers(ctx, 16)
	time.Sleep(300 * time.Millisecond)
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	for deadline := time.Now().Add(60 * time.Second); p.refusals() < 50 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if p.refusals() < 50 {
		t.Errorf("a full disk was not noticed: %v\n%s", p.refused, tail(out.String()))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	before := p.count()
	for deadline := time.Now().Add(60 * time.Second); p.count() < before+200 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	if p.count() < before+200 {
		t.Errorf("the service did not come back by itself:\n%s", tail(out.String()))
	}
	p.settle()
}

func (p *tour) refusals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused[http.StatusServiceUnavailable]
}

// fill writes until nothing fits any more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 1; size /= 16 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if err := f.Close(); err != nil {
		t.Log(fmt.Errorf("closing the filler: %w", err))
	}
}
