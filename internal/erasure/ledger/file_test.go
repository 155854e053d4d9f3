package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/erasure/ledger"
)

var began = time.Date(2026, 11, 24, 10, 0, 0, 123456000, time.UTC)

// TestMain also is the other process of the tests that need one.
func TestMain(m *testing.M) {
	switch task := os.Getenv("LEDGER_TEST_TASK"); {
	case task == "":
		os.Exit(m.Run())
	case strings.HasPrefix(task, "append"):
		appendMany(os.Getenv("LEDGER_TEST_FILE"), task)
	case task == "full":
		appendUntilFull(os.Getenv("LEDGER_TEST_FILE"))
	}
}

func child(t *testing.T, task, path string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), "LEDGER_TEST_TASK="+task, "LEDGER_TEST_FILE="+path)
	c.Stderr = os.Stderr
	return c
}

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func entry(n int) ledger.Entry {
	d := fmt.Sprintf("00000001%064x", n)
	return ledger.Entry{ErasureID: uuid.NewSHA1(uuid.Nil, []byte(strconv.Itoa(n))).String(), TenantDigest: d, SubjectDigest: d, Trigger: "uninstall", At: began.Add(time.Duration(n) * time.Second)}
}

func create(t *testing.T) (*ledger.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kept", "erasures.ledger")
	l, err := ledger.CreateFile(path, began)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

// filled is the path of a closed ledger with n entries.
func filled(t *testing.T, n int) string {
	t.Helper()
	l, path := create(t)
	add(t, l, 1, n)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func add(t *testing.T, l ledger.Ledger, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		h, err := l.Append(t.Context(), entry(i))
		if err != nil || h.Seq != int64(i) {
			t.Fatalf("appending %d: %+v, %v", i, h, err)
		}
	}
}

func open(t *testing.T, path string) *ledger.File {
	t.Helper()
	l, err := ledger.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func count(t *testing.T, l ledger.Ledger) int {
	t.Helper()
	n := 0
	if err := l.Entries(t.Context(), func(e ledger.Entry) error {
		n++
		if e.Seq != int64(n) {
			return fmt.Errorf("entry %d where %d belongs", e.Seq, n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasAppendedIsThereAfterReopening(t *testing.T) {
	story(t, func() ledger.Ledger { l, _ := create(t); return l })
	l, path := create(t)
	add(t, l, 1, 3)
	head, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if got, err := again.Head(t.Context()); err != nil || got != head || count(t, again) != 3 || len(again.Notes()) != 0 {
		t.Errorf("%+v, %v, notes %q; want %+v", got, err, again.Notes(), head)
	}
	for _, p := range []string{path, path + ".head"} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, st.Mode(), err)
		}
	}
	if _, err := ledger.CreateFile(path, began); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a ledger was created over another: %v", err)
	}
}

// story is what both ledgers promise.
func story(t *testing.T, create func() ledger.Ledger) {
	t.Helper()
	l, ctx := create(), t.Context()
	add(t, l, 1, 3)
	first, err := l.Append(ctx, entry(2))
	if err != nil || first.Seq != 2 {
		t.Fatalf("an erasure that is there was not returned as it stands: %+v, %v", first, err)
	}
	if n := count(t, l); n != 3 {
		t.Errorf("%d entries after one erasure came twice", n)
	}
	head, err := l.Head(ctx)
	if err != nil || head.Seq != 3 || head.LedgerID == "" {
		t.Fatalf("%+v, %v", head, err)
	}
	prev := ""
	if err := l.Entries(ctx, func(e ledger.Entry) error {
		want := entry(int(e.Seq))
		want.Seq, want.Prev, want.Hash = e.Seq, e.Prev, e.Hash
		if e != want || (prev != "" && e.Prev != prev) {
			t.Errorf("entry %+v, want %+v", e, want)
		}
		prev = e.Hash
		if there, err := l.Contains(ctx, e.Seq, e.Hash); err != nil || !there {
			t.Errorf("entry %d is not found: %v", e.Seq, err)
		}
		there, err := l.Contains(ctx, e.Seq+1, e.Hash)
		if err != nil || there {
			t.Errorf("entry %d is found in another's place: %v", e.Seq, err)
		}
		return nil
	}); err != nil || prev != head.Hash {
		t.Errorf("the last entry's hash is not the head's: %v", err)
	}
	for name, spoil := range map[string]func(*ledger.Entry){
		"no id": func(e *ledger.Entry) { e.ErasureID = "" }, "a tenant id for a digest": func(e *ledger.Entry) { e.TenantDigest = uuid.NewString() },
		"no digest": func(e *ledger.Entry) { e.SubjectDigest = "" }, "an invented trigger": func(e *ledger.Entry) { e.Trigger = "because" }, "no time": func(e *ledger.Entry) { e.At = time.Time{} },
	} {
		e := entry(9)
		spoil(&e)
		if _, err := l.Append(ctx, e); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	stop := errors.New("enough")
	if err := l.Entries(ctx, func(ledger.Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the visitor's error was lost: %v", err)
	}
}

// hold is a step of a legal hold.
func hold(n int, s ledger.Step) ledger.Entry {
	e := entry(n)
	return ledger.Entry{TenantDigest: e.TenantDigest, At: e.At, Hold: &ledger.Hold{ID: e.ErasureID, Step: s, Ground: "legal_claim", Until: began.Add(time.Hour)}}
}

// A ledger from before it kept holds goes on with them, in the same chain.
func TestTheStepsOfAHoldAreLinesToo(t *testing.T) {
	path := filled(t, 2)
	l := open(t, path)
	steps := []ledger.Entry{hold(1, ledger.Placed), entry(3), hold(1, ledger.Released)}
	if lacks, err := l.Lacks(t.Context(), append([]ledger.Entry{entry(1)}, steps...)); err != nil || len(lacks) != 3 {
		t.Errorf("lacks %d, %v", len(lacks), err)
	}
	for range 2 { // once more changes nothing
		for i, e := range steps {
			if h, err := l.Append(t.Context(), e); err != nil || h.Seq != int64(3+i) {
				t.Fatalf("line %d: %+v, %v", 3+i, h, err)
			}
		}
	}
	if lacks, err := l.Lacks(t.Context(), steps); err != nil || len(lacks) != 0 {
		t.Errorf("lacks %d, %v", len(lacks), err)
	}
	var got []ledger.Entry
	if err := open(t, path).Entries(t.Context(), func(e ledger.Entry) error { got = append(got, e); return nil }); err != nil || len(got) != 5 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i, want := range steps {
		g := got[2+i]
		if (g.Hold == nil) != (want.Hold == nil) || g.Hold != nil && *g.Hold != *want.Hold || g.TenantDigest != want.TenantDigest || g.ErasureID != want.ErasureID || !g.At.Equal(want.At) {
			t.Errorf("line %d is %+v, want %+v", 3+i, g, want)
		}
	}
	for name, spoil := range map[string]func(*ledger.Entry){
		"no id": func(e *ledger.Entry) { e.Hold.ID = "" }, "an invented step": func(e *ledger.Entry) { e.Hold.Step = "forgotten" }, "no end": func(e *ledger.Entry) { e.Hold.Until = time.Time{} },
		"text for a ground": func(e *ledger.Entry) { e.Hold.Ground = "Ms Miller asked" }, "an erasure as well": func(e *ledger.Entry) { e.ErasureID = uuid.NewString() }, "no digest": func(e *ledger.Entry) { e.TenantDigest = "" },
	} {
		e := hold(9, ledger.Placed)
		spoil(&e)
		if _, err := l.Append(t.Context(), e); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	edit(t, path, func(b []byte) []byte { return bytes.Replace(b, []byte(`"released"`), []byte(`"released "`), 1) })
	var broken ledger.ErrBroken
	if _, err := ledger.OpenFile(path); !errors.As(err, &broken) || broken.Line != 6 {
		t.Errorf("an edited step: %v", err)
	}
}

func TestACrashInTheMiddleOfAWriteIsRepaired(t *testing.T) {
	whole := filled(t, 4)
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	last := lines[4]
	for name, torn := range map[string][]byte{"a byte": last[:1], "half": last[:len(last)/2], "all but the newline": last[:len(last)-1],
		"zeros": make([]byte, 100), "zeros before the end": append(make([]byte, 50), last[50:]...)} {
		path := filled(t, 3)
		edit(t, path, func(b []byte) []byte { return append(b, torn...) })
		l, err := ledger.OpenFile(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n := l.Notes(); len(n) != 1 || !strings.Contains(n[0], "line 5") {
			t.Errorf("%s: the repair is not told: %q", name, n)
		}
		add(t, l, 4, 5)
		if again := open(t, path); count(t, again) != 5 {
			t.Errorf("%s: after the repair %d entries", name, count(t, again))
		}
		_ = l.Close()
	}
}

func TestAWriteThatWasNotAcknowledgedCountsWhenItIsWhole(t *testing.T) {
	path := filled(t, 3)
	head, err := os.ReadFile(path + ".head")
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	add(t, l, 4, 4)
	edit(t, path+".head", func([]byte) []byte { return head }) // as if the process had died before it
	again := open(t, path)
	if count(t, again) != 4 {
		t.Error("the whole line was lost")
	}
	if now, _ := os.ReadFile(path + ".head"); bytes.Equal(now, head) {
		t.Error("the head does not count it")
	}
}

func TestWhateverIsCutOrChangedIsNamed(t *testing.T) {
	cut := func(have int64) func(error) bool {
		return func(err error) bool { return errors.Is(err, ledger.ErrCut{Have: have, Want: 5}) }
	}
	broken := func(line int64) func(error) bool {
		return func(err error) bool {
			var b ledger.ErrBroken
			return errors.As(err, &b) && b.Line == line && b.Why != ""
		}
	}
	lines := func(change func(l [][]byte) [][]byte) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Join(change(bytes.SplitAfter(b, []byte("\n"))), nil) }
	}
	same := func(b []byte) []byte { return b }
	for name, c := range map[string]struct {
		ledger, head func([]byte) []byte
		want         func(error) bool
	}{
		"one whole line cut":           {lines(func(l [][]byte) [][]byte { return l[:5] }), same, cut(4)},
		"all entries cut":              {lines(func(l [][]byte) [][]byte { return l[:1] }), same, cut(0)},
		"emptied":                      {func([]byte) []byte { return nil }, same, broken(1)},
		"the last line torn":           {func(b []byte) []byte { return b[:len(b)-1] }, same, broken(6)},
		"a line and a half cut":        {lines(func(l [][]byte) [][]byte { return append(l[:4], l[4][:10]) }), same, cut(3)},
		"torn, and no head":            {func(b []byte) []byte { return b[:len(b)-1] }, nil, broken(6)},
		"two lines swapped":            {lines(func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l }), same, broken(3)},
		"a line taken out":             {lines(func(l [][]byte) [][]byte { return append(l[:2], l[3:]...) }), same, broken(3)},
		"a line twice":                 {lines(func(l [][]byte) [][]byte { return append(l[:3], l[2:]...) }), same, broken(4)},
		"a time edited":                {func(b []byte) []byte { return bytes.Replace(b, []byte(`T10:00:02`), []byte(`T10:00:07`), 1) }, same, broken(4)},
		"the last line edited":         {func(b []byte) []byte { return bytes.Replace(b, []byte(`T10:00:05`), []byte(`T10:00:07`), 1) }, same, broken(6)},
		"a member added":               {func(b []byte) []byte { return bytes.Replace(b, []byte(`"seq":2,`), []byte(`"seq":2,"note":"x",`), 1) }, same, broken(3)},
		"the header edited":            {func(b []byte) []byte { return bytes.Replace(b, []byte("10:00:00"), []byte("10:00:09"), 1) }, same, broken(2)},
		"a later format":               {func(b []byte) []byte { return bytes.Replace(b, []byte(`{"v":1`), []byte(`{"v":2`), 1) }, same, broken(1)},
		"zeros in the middle":          {lines(func(l [][]byte) [][]byte { l[2] = append(make([]byte, 40), '\n'); return l }), same, broken(3)},
		"a line without an end":        {func(b []byte) []byte { return append(b, bytes.Repeat([]byte("x"), 1<<20)...) }, same, broken(7)},
		"the head half written":        {same, func(b []byte) []byte { return b[:len(b)/2] }, broken(0)},
		"the head emptied":             {same, func([]byte) []byte { return nil }, broken(0)},
		"the head with another hash":   {same, func(b []byte) []byte { return bytes.Replace(b, []byte(`"hash":"`), []byte(`"hash":"0`), 1) }, broken(6)},
		"the head of another ledger":   {same, func([]byte) []byte { b, _ := os.ReadFile(filled(t, 5) + ".head"); return b }, broken(1)},
		"the head counts one too many": {same, func(b []byte) []byte { return bytes.Replace(b, []byte(`"seq":5`), []byte(`"seq":6`), 1) }, func(err error) bool { return errors.Is(err, ledger.ErrCut{Have: 5, Want: 6}) }},
	} {
		path := filled(t, 5)
		if c.head == nil {
			if err := os.Remove(path + ".head"); err != nil {
				t.Fatal(err)
			}
		} else {
			edit(t, path+".head", c.head)
		}
		edit(t, path, c.ledger)
		before, _ := os.ReadFile(path)
		if _, err := ledger.OpenFile(path); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
			t.Errorf("%s: a ledger that was refused was changed", name)
		}
	}
}

// Any single byte: flipped, it must never open as if nothing had been.
func TestEachByteCounts(t *testing.T) {
	path := filled(t, 2)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 1
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := ledger.OpenFile(path); err == nil {
			_ = l.Close()
			t.Fatalf("byte %d (%q) was changed and nothing was said", i, b[i])
		}
	}
}

func TestALostHeadIsMadeAnew(t *testing.T) {
	path := filled(t, 3)
	want, _ := os.ReadFile(path + ".head")
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	if got, _ := os.ReadFile(path + ".head"); !bytes.Equal(got, want) || len(l.Notes()) != 1 {
		t.Errorf("head %q, notes %q", got, l.Notes())
	}
}

func TestALedgerThatIsNotThereIsNeverAnEmptyOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := ledger.OpenFile(path); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("no ledger: %v", err)
	}
	path = filled(t, 3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.OpenFile(path); !errors.Is(err, ledger.ErrMissing) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("a removed ledger: %v", err)
	}
	if _, err := ledger.CreateFile(path, began); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("a new ledger in the place of a removed one: %v", err)
	}
}

func TestOnlyAPrivateRegularFileIsALedger(t *testing.T) {
	path := filled(t, 1)
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	pipe := path + ".pipe"
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{link: "symbolic link", pipe: "not a regular file", filepath.Dir(path): "not a regular file"} {
		if _, err := ledger.OpenFile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.OpenFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("open to others: %v", err)
	}
}

func TestWhatHappensToAnOpenLedgerIsNoticed(t *testing.T) {
	l, path := create(t)
	add(t, l, 1, 3)
	whole, _ := os.ReadFile(path)
	lines := bytes.SplitAfter(whole, []byte("\n"))

	if err := os.Truncate(path, int64(len(lines[0])+len(lines[1]))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(4)); !errors.Is(err, ledger.ErrCut{Have: 1, Want: 3}) {
		t.Errorf("cut while open: %v", err)
	}
	edit(t, path, func([]byte) []byte { return whole })
	add(t, l, 4, 4)

	edit(t, path, func(b []byte) []byte { return bytes.Replace(b, []byte("T10:00:02"), []byte("T10:00:08"), 1) })
	var broken ledger.ErrBroken
	if err := l.Entries(t.Context(), func(ledger.Entry) error { return nil }); !errors.As(err, &broken) || broken.Line != 3 {
		t.Errorf("edited while open: %v", err)
	}

	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(5)); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("removed while open: %v", err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(5)); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("replaced while open: %v", err)
	}
	_ = l.Close()
	if _, err := l.Head(t.Context()); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
}

func TestALockThatIsNotGivenUpEndsWithTheCaller(t *testing.T) {
	l, path := create(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Append(ctx, entry(1)); !errors.Is(err, ledger.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// appendMany appends 250 entries from each of two goroutines with a ledger of their
// own, the second half of them also tried by the other process.
func appendMany(path, task string) {
	offset, err := strconv.Atoi(strings.TrimPrefix(task, "append"))
	die(err)
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			l, err := ledger.OpenFile(path)
			die(err)
			for i := range 250 {
				_, err := l.Append(context.Background(), entry(1+offset+2*i+g))
				die(err)
			}
			die(l.Close())
		})
	}
	wg.Wait()
}

func TestProcessesAppendBesideEachOther(t *testing.T) {
	_, path := create(t)
	// The second 250 of the one are the first 250 of the other.
	var cmds []*exec.Cmd
	for _, task := range []string{"append0", "append250"} {
		c := child(t, task, path)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, c)
	}
	for _, c := range cmds {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, path)
	if n := count(t, l); n != 750 || len(l.Notes()) != 0 {
		t.Errorf("%d entries, want 750; notes %q", n, l.Notes())
	}
}

// appendUntilFull meets the limit on a file's size as a full disk: the last write
// ends in the middle of its line.
func appendUntilFull(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	l, err := ledger.OpenFile(path)
	die(err)
	limit := syscall.Rlimit{Cur: 2000, Max: 2000}
	die(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	for i := 1; ; i++ {
		if _, err := l.Append(context.Background(), entry(i)); err != nil {
			if !errors.Is(err, ledger.ErrUnavailable) || i < 3 {
				die(fmt.Errorf("entry %d: %w", i, err))
			}
			fmt.Print(i - 1)
			return
		}
	}
}

func TestAFullDiskAcknowledgesNothingAndHarmsNothing(t *testing.T) {
	_, path := create(t)
	out, err := child(t, "full", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	acknowledged, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	if n := count(t, l); n != acknowledged {
		t.Errorf("%d entries after %d were acknowledged", n, acknowledged)
	}
	add(t, l, acknowledged+1, acknowledged+1)
}

func TestTwentyThousandEntriesOpenWithoutTheirHead(t *testing.T) {
	path := filled(t, 1)
	head, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.Write(head[:bytes.IndexByte(head, '\n')+1])
	ledger.WriteLines(&b, 20_000, entry)
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func([]byte) []byte { return b.Bytes() })
	l := open(t, path)
	if h, err := l.Head(t.Context()); err != nil || h.Seq != 20_000 {
		t.Errorf("%+v, %v", h, err)
	}
	add(t, l, 20_001, 20_001)
}

func TestTheVolumeIsToldApart(t *testing.T) {
	dir := t.TempDir()
	same, err := ledger.SameVolume(filepath.Join(dir, "not", "yet", "there"), dir)
	if runtime.GOOS != "linux" {
		if err == nil {
			t.Error("this system cannot tell")
		}
		return
	}
	if err != nil || !same {
		t.Errorf("%t, %v", same, err)
	}
	if same, err := ledger.SameVolume("/proc/self/status", dir); err != nil || same {
		t.Errorf("another volume: %t, %v", same, err)
	}
}

func FuzzLine(f *testing.F) {
	l, err := ledger.CreateFile(filepath.Join(f.TempDir(), "l"), began)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var b bytes.Buffer
	b.WriteString("{}\n")
	ledger.WriteLines(&b, 4, func(n int) ledger.Entry {
		if n > 2 {
			return hold(n, ledger.Placed)
		}
		return entry(n)
	})
	for _, line := range bytes.Split(b.Bytes(), []byte("\n")) {
		f.Add(line)
	}
	f.Add([]byte(`{"v":1,"seq":1e0}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if again, err := ledger.ParseLine(raw); err == nil && !bytes.Equal(again, raw) {
			t.Errorf("%q was taken for %q", raw, again)
		}
	})
}
