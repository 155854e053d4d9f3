package certificate_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/proof/certificate"
)

var update = flag.Bool("update", false, "write the golden files anew")

func render(t testing.TB, file []byte, f certificate.Format) []byte {
	t.Helper()
	c := must[certificate.Certificate](t)(certificate.Parse(file))
	return must[[]byte](t)(c.Render(f))
}

func TestThePagesAreAsTheyWereAgreed(t *testing.T) {
	for name, build := range map[string]func(*log, testing.TB, int) certificate.Certificate{"erased": (*log).erased, "nothing_held": (*log).nothing} {
		l := newLog(t, "trakr-audit/test", 1)
		file := l.issue(t, build(l, t, 1))
		for _, f := range []certificate.Format{certificate.JSON, certificate.HTML} {
			golden := filepath.Join("testdata", name+"."+string(f))
			got := render(t, file, f)
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(must[[]byte](t)(os.ReadFile(golden))), string(got)); diff != "" {
				t.Errorf("%s (go test ./internal/certificate -update writes it anew):\n%s", golden, diff)
			}
		}
	}
}

// What a reader must see without opening the JSON.
func TestThePageSaysBothDatesAndWhatIsRetained(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	file := l.issue(t, c)
	for f, b := range map[certificate.Format][]byte{certificate.HTML: render(t, file, certificate.HTML), certificate.PDF: render(t, file, certificate.PDF)} {
		text := string(b)
		if f == certificate.HTML {
			text = text[:strings.Index(text, "<script")]
		} else {
			text = shown(text)
		}
		for _, want := range []string{"Gone from the live service since " + c.DeletedLiveAt.String(), "Gone from backups after", c.BackupsClearAfter.String(), "trakr.tenant_fields", "New York (NYC3), USA",
			"Accountability (GDPR Art. 5(2))", "three years after the event", "litigation 7/26", "released", "trakr_sweep", "end service", "not when this certificate was", "trakr verify FILE --key KEY",
			"no claim about storage media", "NIST SP 800-88", "tenant.erase at position 7", "trakr-audit/test"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not shown", f, want)
			}
		}
	}
	page := string(render(t, file, certificate.HTML))
	for _, want := range []string{`<html lang="en">`, "<h1>", `<th scope="col">`, "<caption>", "default-src 'none'"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	// Nothing is loaded from elsewhere and nothing runs.
	if m := regexp.MustCompile(`(?i)<script(?: type="(?:text/javascript|module)")?>|<link|<img|<iframe|src=|href="[^#]| on[a-z]+="|https?://`).FindString(page); m != "" {
		t.Errorf("the page has %s", m)
	}
}

// shown returns the text that a PDF of ours shows, with the lines put together.
func shown(pdf string) string {
	var b strings.Builder
	for _, m := range regexp.MustCompile(`\((.*)\)Tj`).FindAllStringSubmatch(pdf, -1) {
		b.WriteString(regexp.MustCompile(`\\(.)`).ReplaceAllString(m[1], "$1"))
		b.WriteByte(' ')
	}
	return b.String()
}

// The JSON in a page is the certificate's file, byte for byte, whatever its texts are.
func TestATextThatEndsAScriptIsHarmless(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	const evil = `</script><script>alert(1)</script><!-- <script>`
	c.Issuer, c.Retained[0].Ground, c.Stores[0].Location = evil, "& \u2028 < '\" {{.}} `${x}`", "(brackets) \\ \\) Tj\nnew line"
	file := l.issue(t, c)
	page := render(t, file, certificate.HTML)
	if n := bytes.Count(page, []byte("<script")); n != 1 || bytes.Count(page, []byte("</script")) != 1 {
		t.Errorf("the page has %d scripts", n)
	}
	_, rest, _ := bytes.Cut(page, []byte(`id="certificate">`))
	inside, _, _ := bytes.Cut(rest, []byte("</script>"))
	if diff := cmp.Diff(string(file), strings.TrimPrefix(string(inside), "\n")); diff != "" {
		t.Error(diff)
	}
	var read struct{ Issuer string }
	if err := json.Unmarshal(inside, &read); err != nil || read.Issuer != evil {
		t.Errorf("%q %v", read.Issuer, err)
	}
	for _, f := range certificate.Formats() {
		if r := l.verify(t, render(t, file, f)); !r.Proven {
			t.Errorf("%s: %+v", f, r.Findings)
		}
	}
}

func TestAPageThatSaysSomethingElseIsFound(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	file := l.issue(t, l.erased(t, 1))
	for name, c := range map[string]struct {
		format   certificate.Format
		from, to string
	}{
		"a date":            {certificate.HTML, "<td class=\"num\">3</td>", "<td class=\"num\">4</td>"},
		"a hidden sentence": {certificate.HTML, "<main", "<p hidden>x</p><main"},
		"a comment":         {certificate.HTML, "</html>", "<!-- x --></html>"},
		"a style":           {certificate.HTML, "--ink: #1b2430", "--ink: #ffffff"},
		"the PDF's text":    {certificate.PDF, "(trakr_sweep)Tj", "(trakr_owner)Tj"},
		"the PDF's end":     {certificate.PDF, "%%EOF", "%%EOF\n1 0 obj"},
	} {
		page := render(t, file, c.format)
		if !bytes.Contains(page, []byte(c.from)) {
			t.Fatalf("%s: nothing to change", name)
		}
		page = bytes.Replace(page, []byte(c.from), []byte(c.to), 1)
		if r := l.verify(t, page); !names(r, "", certificate.Page) {
			t.Errorf("%s: %+v", name, r)
		}
		// Another version cannot make the page anew; it says so, and what holds.
		r := must[certificate.Report](t)(certificate.Verify(page, l.key, "v9"))
		if r.Proven || len(r.Findings) > 0 || r.Unjudged == "" || r.Certificate == nil {
			t.Errorf("%s with another version: %+v", name, r)
		}
	}
	// The certificate inside is judged whatever the version.
	page := bytes.Replace(render(t, file, certificate.HTML), []byte(`"rows_before": 3`), []byte(`"rows_before": 4`), 1)
	r := must[certificate.Report](t)(certificate.Verify(page, l.key, "v9"))
	if !names(r, "/stores/1/rows_before", certificate.Changed) {
		t.Errorf("%+v", r)
	}
	for name, b := range map[string][]byte{
		"two certificates": append(render(t, file, certificate.HTML), []byte(`<script type="application/json" id="certificate">{}</script>`)...),
		"cut HTML":         render(t, file, certificate.HTML)[:len(render(t, file, certificate.HTML))-2000],
		"cut PDF":          render(t, file, certificate.PDF)[:strings.Index(string(render(t, file, certificate.PDF)), "EmbeddedFile")+400],
		"two PDFs":         append(render(t, file, certificate.PDF), render(t, file, certificate.PDF)...),
		"a very long page": append(render(t, file, certificate.HTML), bytes.Repeat([]byte(" "), 8<<20)...),
	} {
		if r := l.verify(t, b); !names(r, "", certificate.Malformed) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A PDF reader finds the file by the catalogue's name tree; the objects must be where
// the cross-reference table says.
func TestThePDFIsWhole(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	c.Retained[0].What = "株式会社"
	for range 40 {
		c.Retained = append(c.Retained, certificate.Retained{What: "x", Ground: strings.Repeat("a long ground ", 70), Until: "a day"})
	}
	pdf := render(t, l.issue(t, c), certificate.PDF)
	text := string(pdf)
	for _, want := range []string{"/EmbeddedFiles", "/Names", "/Lang (en)", "/CreationDate (D:20261124120104)"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	table := regexp.MustCompile(`(?m)^(\d{10}) 00000 n`).FindAllStringSubmatch(text[strings.LastIndex(text, "\nxref"):], -1)
	if len(table) < 8 {
		t.Fatalf("%d objects", len(table))
	}
	for i, m := range table {
		var at int
		if err := json.Unmarshal([]byte(strings.TrimLeft(m[1], "0")), &at); err != nil || !strings.HasPrefix(text[at:], strconv.Itoa(i+1)+" 0 obj") {
			t.Errorf("object %d is not at %d", i+1, at)
		}
	}
	if !strings.Contains(shown(text), "????") || !strings.Contains(shown(text), "attached certificate.json has them") {
		t.Error("what the fonts lack is not replaced, or it is not said")
	}
	if n := strings.Count(text, "/Type /Page\n"); n < 3 {
		t.Errorf("%d pages", n)
	}
}

// Each page says which of how many it is, and the note that is copied by hand is in one
// piece, wherever on a page it would begin.
func TestThePDFsPagesBelongTogether(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := l.erased(t, 1)
	note := strings.TrimSpace(c.Audit.Checkpoint)
	end, moved := note[len(note)-20:], map[int]bool{}
	for range 30 {
		c.Retained = append(c.Retained, certificate.Retained{What: "x", Ground: "a ground", Until: "a day"})
		text := string(render(t, l.issue(t, c), certificate.PDF))
		pages := strings.Count(text, "/Type /Page\n")
		for i := 1; i <= pages; i++ {
			if want := fmt.Sprintf("page %d of %d ", i, pages); !strings.Contains(shown(text), want) {
				t.Fatalf("no %q", want)
			}
		}
		for i, stream := range strings.Split(text, "endstream") {
			if strings.Contains(stream, "The signed checkpoint of the log:") {
				if moved[i] = true; !strings.Contains(stream, end) {
					t.Errorf("the note is torn with %d rows", len(c.Retained))
				}
			}
		}
	}
	if len(moved) < 2 {
		t.Error("the note never came to a page's end")
	}
}
