package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trakr/internal/proof/certificate"
	"trakr/internal/proof/merkle"
)

// A customer gets a certificate in one of three forms and, by another way, the key.
func TestACustomerChecksACertificateOffline(t *testing.T) {
	made := version
	version = "v0.1.0" // the one that made the files below
	t.Cleanup(func() { version = made })
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// The log's key of the certificate package's golden files.
	public := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	vkey, err := merkle.VerifierKey("trakr-audit/test", public)
	if err != nil {
		t.Fatal(err)
	}
	key := write("log.vkey", []byte(vkey+"\n"))
	files := map[string][]byte{}
	for _, state := range []string{"erased", "nothing_held"} {
		b, err := os.ReadFile(filepath.Join("../../internal/proof/certificate/testdata", state+".json"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := certificate.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range certificate.Formats() {
			if files[state+"."+string(f)], err = c.Render(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	customer := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		a := &cli{in: strings.NewReader(""), out: &out, err: &out, environ: []string{"TRAKR_NONSENSE=1"}}
		if code := a.run(t.Context(), append([]string{"verify"}, args...)); code != want {
			t.Errorf("trakr verify %s: exit %d, want %d: %s", strings.Join(args, " "), code, want, out.String())
		}
		return out.String()
	}

	for name, b := range files {
		s := customer(exitClean, write(name, b), "--key", key)
		want := "gone from the live service since 2026-11-24T12:01:01.000312Z, gone from backups after 2026-12-24T12:01:00.000000Z"
		if strings.HasPrefix(name, "nothing") {
			want = "nothing was held"
		}
		if !strings.Contains(s, "Proven") || !strings.Contains(s, want) || strings.HasSuffix(name, "json") == strings.Contains(s, "the page says what its certificate says") {
			t.Errorf("%s: %s", name, s)
		}
	}
	var report struct {
		Kind, Format, State string
		Proven              bool
		Findings            []struct{ Pointer, Fault string }
	}
	if err := json.Unmarshal([]byte(customer(exitClean, filepath.Join(dir, "erased.pdf"), "--json", "--key", vkey)), &report); err != nil || !report.Proven || report.Kind != "certificate" || report.Format != "pdf" || report.Findings == nil {
		t.Errorf("%+v, %v", report, err)
	}
	if s := customer(exitCannotTell, filepath.Join(dir, "erased.json")); !strings.Contains(s, "--key") {
		t.Error(s)
	}
	changed := write("changed.json", bytes.Replace(files["erased.json"], []byte(`"trigger": "request"`), []byte(`"trigger": "probe"`), 1))
	if s := customer(exitFinding, changed, "--key", key); !strings.Contains(s, "FINDING") || !strings.Contains(s, "changed at /trigger") {
		t.Error(s)
	}
	report.Findings = nil
	if err := json.Unmarshal([]byte(customer(exitFinding, changed, "--json", "--key", key)), &report); err != nil || report.Proven || len(report.Findings) != 1 || report.Findings[0].Pointer != "/trigger" {
		t.Errorf("%+v, %v", report, err)
	}
	page := write("changed.html", bytes.Replace(files["erased.html"], []byte("<td class=\"num\">3</td>"), []byte("<td class=\"num\">9</td>"), 1))
	if s := customer(exitFinding, page, "--key", key); !strings.Contains(s, "the page differs from its certificate") {
		t.Error(s)
	}
	if s := customer(exitCannotTell, write("report.html", []byte("<!doctype html><title>A report</title>\n")), "--key", key); !strings.Contains(s, "neither an exported audit nor a certificate") {
		t.Error(s)
	}
	version = "v9" // cannot make the page of v0.1.0 anew
	s := customer(exitCannotTell, page, "--key", key)
	if !strings.Contains(s, "Proven") || strings.Contains(s, "the page says what") || !strings.Contains(s, "because version v0.1.0 made the page") {
		t.Error(s)
	}
}
