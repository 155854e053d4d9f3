package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pages are the documents in the order in which their commands run here: what a page
// needs from another one (simulated.json of the tour, log.vkey) comes before it.
func pages(t *testing.T) []string {
	t.Helper()
	runbooks, err := filepath.Glob("../../deploy/runbooks/*.md")
	if err != nil || len(runbooks) < 10 {
		t.Fatalf("%d runbooks, %v", len(runbooks), err)
	}
	return append([]string{"../../README.md", "../../reports/README.md", "../../internal/requests/README.md", "../../policy/README.md",
		"../../deploy/README.md"}, runbooks...)
}

// fence is one fenced block of a page: "sh" runs here as printed, "console" is for
// another machine or state and must parse, everything else is output.
type fence struct {
	lang, text string
	line       int
}

// split returns a page's fenced blocks, and its prose without them.
func split(t *testing.T, page string) (fences []fence, prose string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *fence
	for i, l := range strings.Split(string(b), "\n") {
		lang, isFence := strings.CutPrefix(l, "```")
		switch {
		case isFence && open == nil:
			open = &fence{lang: lang, line: i + 1}
		case isFence:
			fences, open = append(fences, *open), nil
		case open != nil:
			open.text += l + "\n"
		default:
			prose += l + "\n"
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block does not end", page, open.line)
	}
	return fences, prose
}

var (
	inline = regexp.MustCompile("`(?:bin/)?trakr ([^`]+)`")
	link   = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	item   = regexp.MustCompile(`\n(?:[-*] |\d+\. )`)
)

func TestPagesAreShortAndTheirLinksAndCommandsExist(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(readme, []byte("\n")); n > 150 {
		t.Errorf("README.md has %d lines, 150 are allowed", n)
	}
	commands := 0
	for _, page := range append(pages(t), "../../internal/README.md", "../../deploy/settings.md") {
		fences, prose := split(t, page)
		for _, paragraph := range strings.Split(prose, "\n\n") {
			if strings.HasPrefix(strings.TrimSpace(paragraph), "|") {
				continue
			}
			for _, part := range item.Split(paragraph, -1) {
				if n := len(strings.Fields(part)); n > 110 {
					t.Errorf("%s: a paragraph of %d words: %.60s…", page, n, strings.TrimSpace(part))
				}
			}
		}
		for _, l := range link.FindAllStringSubmatch(prose, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), l[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, l[1], err)
			}
		}
		var lines []string
		for _, m := range inline.FindAllStringSubmatch(prose, -1) {
			lines = append(lines, m[1])
		}
		for _, f := range fences {
			if f.lang != "console" {
				continue
			}
			for l := range strings.Lines(f.text) {
				if _, command, ok := strings.Cut(" "+strings.TrimSpace(l), " trakr "); ok {
					lines = append(lines, command)
				}
			}
		}
		for _, l := range lines {
			commands++
			words := strings.Fields(strings.ReplaceAll(l, "…", ""))
			if len(words) == 1 {
				words = append(words, "--help") // a command or a group is named, not called
			}
			if why := unparsed(words); why != "" {
				t.Errorf("%s: %q: %s", page, "trakr "+l, why)
			}
		}
	}
	if commands < 40 {
		t.Errorf("only %d commands were seen in the pages", commands)
	}
}

// Every block marked sh of every page runs as printed, on one service, in one directory;
// only the ports are replaced.
func TestEveryCommandOfThePagesRunsAsPrinted(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.serve()
	bin := filepath.Join(m.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", os.Args[0])
	if err := os.WriteFile(filepath.Join(bin, "trakr"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	m.env = append(m.env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	ports := strings.NewReplacer("127.0.0.1:8080", m.pub, "127.0.0.1:8081", m.priv, "127.0.0.1:8090", m.api)
	ran := 0
	for _, page := range pages(t) {
		fences, _ := split(t, page)
		script := "set -eu\n"
		for _, f := range fences {
			if f.lang == "sh" {
				script += ports.Replace(f.text)
				ran++
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		c := exec.CommandContext(ctx, "sh", "-x", "-c", script)
		c.Env, c.Dir = m.env, m.dir
		out, err := c.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("%s: %v\n%s", page, err, out)
		}
		if filepath.Base(page) == "README.md" && filepath.Dir(page) == "../.." {
			m.certified()
		}
	}
	if ran < 20 {
		t.Errorf("only %d blocks ran", ran)
	}
}

// certified waits until every erasure that began has its certificate.
func (m *machine) certified() {
	m.t.Helper()
	for range 300 {
		var list struct {
			Erasures []struct {
				CertificateID string `json:"certificate_id"`
			} `json:"erasures"`
		}
		if err := json.Unmarshal([]byte(m.trakr(exitClean, "erasure", "list", "--json")), &list); err != nil {
			m.t.Fatal(err)
		}
		open := 0
		for _, e := range list.Erasures {
			if e.CertificateID == "" {
				open++
			}
		}
		if len(list.Erasures) > 0 && open == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatal("the erasures got no certificates")
}
