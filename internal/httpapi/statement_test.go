package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"trakr/internal/httpapi"
)

// visit asks the public address for a page.
func (w *world) visit(path string) (status int, body string, header http.Header) {
	w.T.Helper()
	r, err := http.Get(w.public.URL + path)
	if err != nil {
		w.T.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.T.Fatal(err)
	}
	return r.StatusCode, string(b), r.Header
}

// A customer reads what is true now; asking again and again costs nothing, and what is
// shown is never old.
func TestACustomerReadsTheSecurityStatement(t *testing.T) {
	w := newWorld(t)
	status, page, header := w.visit(httpapi.StatementPath)
	if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/html") || !strings.Contains(page, "We store no e-mail addresses and no phone numbers.") || strings.Contains(page, "sweep") {
		t.Errorf("%d %s: %.200s", status, header.Get("Content-Type"), page)
	}
	w.Exec(`CREATE TABLE public.copies (email text)`)
	if _, again, _ := w.visit(httpapi.StatementPath); again != page {
		t.Error("judged anew at each visit")
	}
	w.Clock.Add(5 * time.Minute)
	if _, later, _ := w.visit(httpapi.StatementPath + ".json"); !strings.Contains(later, `"state": "false"`) {
		t.Errorf("five minutes later nothing is false: %s", later)
	}
	w.Clock.Add(5 * time.Minute)
	w.Exec(`ALTER TABLE trakr.findings RENAME TO gone`)
	if status, body, _ := w.visit(httpapi.StatementPath); status < 500 || strings.Contains(body, "SELECT") || strings.Contains(body, "keep no") {
		t.Errorf("nothing can be judged: %d %s", status, body)
	}
}

func TestWhoFindsAHoleKnowsWhomToWrite(t *testing.T) {
	w := newWorld(t)
	status, text, header := w.visit(httpapi.SecurityTextPath)
	if status != http.StatusOK || header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.Contains(text, "Contact: mailto:"+w.Policy.Marketplace.SecurityContact+"\n") {
		t.Errorf("%d %s", status, text)
	}
	_, after, _ := strings.Cut(text, "Expires: ")
	line, _, _ := strings.Cut(after, "\n")
	if at, err := time.Parse(time.RFC3339, line); err != nil || at.Before(w.Clock.Now().AddDate(0, 5, 0)) || at.After(w.Clock.Now().AddDate(1, 0, 0)) {
		t.Errorf("expires %q", line)
	}
}
