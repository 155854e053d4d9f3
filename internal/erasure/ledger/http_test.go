package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"trakr/internal/erasure/ledger"
	"trakr/internal/lifecycle"
)

// bucket is an object store that honours If-None-Match, until told otherwise.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	token   string
	before  func(w http.ResponseWriter, r *http.Request) bool // true: it answered
	after   func(r *http.Request)
	careful bool // honours If-None-Match
	exists  int  // the status for an object that is there
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+b.token {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if b.before != nil && b.before(w, r) {
		return
	}
	switch old, there := b.objects[r.URL.Path]; {
	case r.Method == http.MethodGet && there:
		_, _ = w.Write(old)
	case r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPut && there && b.careful && r.Header.Get("If-None-Match") == "*":
		w.WriteHeader(b.exists)
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		b.objects[r.URL.Path] = body
		w.WriteHeader(http.StatusCreated)
	}
	if b.after != nil {
		b.after(r)
	}
}

func (b *bucket) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func object(n int) string { return fmt.Sprintf("/bucket/ledger/%012d", n) }

func newBucket(t *testing.T) (*bucket, ledger.HTTPConfig) {
	t.Helper()
	b := &bucket{objects: map[string][]byte{}, token: "marker-token", careful: true, exists: http.StatusPreconditionFailed}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	return b, ledger.HTTPConfig{URL: srv.URL + "/bucket/ledger/", Token: lifecycle.NewSecret("marker-token")}
}

func createHTTP(t *testing.T, c ledger.HTTPConfig) *ledger.HTTP {
	t.Helper()
	l, err := ledger.CreateHTTP(t.Context(), c, began)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestALedgerOverHTTPIsALedger(t *testing.T) {
	story(t, func() ledger.Ledger { _, c := newBucket(t); return createHTTP(t, c) })
	b, c := newBucket(t)
	b.exists = http.StatusConflict
	l := createHTTP(t, c)
	add(t, l, 1, 40)
	again, err := ledger.OpenHTTP(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, again); n != 40 {
		t.Errorf("%d entries after reopening", n)
	}
	if _, err := ledger.CreateHTTP(t.Context(), c, began); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a ledger was created over another: %v", err)
	}
	// The objects, one after the other, are the file.
	var whole bytes.Buffer
	for n := range 41 {
		whole.Write(b.objects[object(n)])
	}
	path := filled(t, 0)
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func([]byte) []byte { return whole.Bytes() })
	if file := open(t, path); count(t, file) != 40 {
		t.Error("the objects do not make a file")
	}
}

func TestServicesAppendOverHTTPBesideEachOther(t *testing.T) {
	_, c := newBucket(t)
	createHTTP(t, c)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			l, err := ledger.OpenHTTP(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 50 {
				if _, err := l.Append(t.Context(), entry(1+25*g+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l, err := ledger.OpenHTTP(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, l); n != 125 {
		t.Errorf("%d entries, want 125", n)
	}
}

func TestAStoreThatFailsIsNeverAnEmptyLedger(t *testing.T) {
	status := func(n int) func(*bucket) {
		return func(b *bucket) {
			b.before = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(n); return true }
		}
	}
	for name, fault := range map[string]func(*bucket){
		"forbidden": func(b *bucket) { b.token = "another" }, "error": status(500), "busy": status(503), "gone": status(410), "no content": status(204), "no such method": status(405),
		"a redirect": func(b *bucket) {
			b.before = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
				return true
			}
		},
		"a broken connection": func(b *bucket) {
			b.before = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		},
	} {
		b, c := newBucket(t)
		l := createHTTP(t, c)
		add(t, l, 1, 3)
		b.set(func() { fault(b) })
		_, open := ledger.OpenHTTP(t.Context(), c)
		_, created := ledger.CreateHTTP(t.Context(), c, began)
		_, head := l.Head(t.Context())
		_, appended := l.Append(t.Context(), entry(4))
		_, contains := l.Contains(t.Context(), 1, "")
		entries := l.Entries(t.Context(), func(ledger.Entry) error { return nil })
		for what, err := range map[string]error{"open": open, "create": created, "head": head, "append": appended, "contains": contains, "entries": entries} {
			if !errors.Is(err, ledger.ErrUnavailable) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
			if err != nil && (strings.Contains(err.Error(), "marker") || strings.Contains(err.Error(), "127.0.0.1")) {
				t.Errorf("%s: the error tells the token or the address: %v", name, err)
			}
		}
		if len(b.objects) != 4 {
			t.Errorf("%s: %d objects", name, len(b.objects))
		}
	}
	_, c := newBucket(t)
	if _, err := ledger.OpenHTTP(t.Context(), c); !errors.Is(err, ledger.ErrMissing) {
		t.Errorf("no ledger: %v", err)
	}
}

func TestALineRemovedOrChangedInTheStoreIsNamed(t *testing.T) {
	b, c := newBucket(t)
	l := createHTTP(t, c)
	add(t, l, 1, 5)
	kept := b.objects[object(5)]
	b.set(func() { delete(b.objects, object(5)) })
	if _, err := l.Append(t.Context(), entry(6)); !errors.Is(err, ledger.ErrCut{Have: 4, Want: 5}) {
		t.Errorf("cut while open: %v", err)
	}
	var broken ledger.ErrBroken
	b.set(func() { b.objects[object(5)] = bytes.Replace(kept, []byte("T10:00:05"), []byte("T10:00:06"), 1) })
	if _, err := l.Head(t.Context()); !errors.As(err, &broken) || broken.Line != 6 {
		t.Errorf("changed while open: %v", err)
	}
	b.set(func() { b.objects[object(5)] = kept; delete(b.objects, object(3)) })
	if _, err := ledger.OpenHTTP(t.Context(), c); !errors.As(err, &broken) || broken.Line != 4 {
		t.Errorf("a gap: %v", err)
	}
	b.set(func() { b.objects[object(3)] = []byte("<html>sign in</html>\n") })
	if _, err := ledger.OpenHTTP(t.Context(), c); !errors.As(err, &broken) || broken.Line != 4 {
		t.Errorf("not a line: %v", err)
	}
}

func TestAStoreThatOverwritesIsRefused(t *testing.T) {
	b, c := newBucket(t)
	b.careful = false
	if _, err := ledger.CreateHTTP(t.Context(), c, began); err == nil || !strings.Contains(err.Error(), "If-None-Match") {
		t.Errorf("%v", err)
	}
}

// The store keeps the line and the answer is lost: the second try finds it.
func TestALostAnswerIsNoSecondEntry(t *testing.T) {
	b, c := newBucket(t)
	l := createHTTP(t, c)
	b.set(func() {
		b.after = func(r *http.Request) {
			if r.Method == http.MethodPut {
				panic(http.ErrAbortHandler)
			}
		}
	})
	if _, err := l.Append(t.Context(), entry(1)); !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatalf("an append without an answer: %v", err)
	}
	b.set(func() { b.after = nil })
	add(t, l, 1, 2)
	if n := count(t, l); n != 2 {
		t.Errorf("%d entries", n)
	}
}

// The store says yes and keeps nothing.
func TestAnEntryThatCannotBeReadBackIsNotAcknowledged(t *testing.T) {
	b, c := newBucket(t)
	l := createHTTP(t, c)
	b.set(func() {
		b.before = func(_ http.ResponseWriter, r *http.Request) bool { return r.Method == http.MethodPut } // 200, kept nowhere
	})
	if _, err := l.Append(t.Context(), entry(1)); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestOnlyASafeAddressIsTaken(t *testing.T) {
	for _, bad := range []string{"", "ledger", "http://ledger.example.com/x", "https://user:marker@ledger.example.com/x", "https://ledger.example.com/x?sig=marker", "ftp://ledger.example.com", "http://127.0.0.1.example.com/x"} {
		_, err := ledger.OpenHTTP(t.Context(), ledger.HTTPConfig{URL: bad})
		if err == nil || errors.Is(err, ledger.ErrUnavailable) || strings.Contains(err.Error(), "marker") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	start := time.Now()
	if _, err := ledger.OpenHTTP(t.Context(), ledger.HTTPConfig{URL: closed.URL}); !errors.Is(err, ledger.ErrUnavailable) || time.Since(start) > 5*time.Second {
		t.Errorf("nobody there: %v", err)
	}
}
