package deploy

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// instruction is one of a Dockerfile, its continued lines joined.
type instruction struct{ name, rest string }

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	var out []instruction
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(read(t, "container/Dockerfile"), "")
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			out = append(out, instruction{name, strings.TrimSpace(rest)})
		}
	}
	return out
}

// image is what a stage ends up with, its parents included.
type image struct {
	base, user, entrypoint, cmd string
	env, copies                 []string
}

func stages(t *testing.T) (all map[string]image, last string) {
	t.Helper()
	all = map[string]image{}
	var now image
	for _, i := range dockerfile(t) {
		switch i.name {
		case "FROM":
			words := slices.DeleteFunc(strings.Fields(i.rest), func(w string) bool { return strings.HasPrefix(w, "--") })
			if len(words) != 3 || !strings.EqualFold(words[1], "as") {
				t.Fatalf("FROM %s: name the stage", i.rest)
			}
			now, last = image{base: words[0]}, words[2]
			if parent, ok := all[words[0]]; ok {
				now = parent
				now.env, now.copies = slices.Clone(parent.env), slices.Clone(parent.copies)
			}
		case "USER":
			now.user = i.rest
		case "ENTRYPOINT":
			now.entrypoint = i.rest
		case "CMD":
			now.cmd = i.rest
		case "ENV":
			now.env = append(now.env, i.rest)
		case "COPY":
			now.copies = append(now.copies, i.rest)
		}
		all[last] = now
	}
	return all, last
}

func TestImageRunsAsNobodyOnNothing(t *testing.T) {
	all, last := stages(t)
	for name, command := range map[string]string{last: `["serve"]`, "migrate": `["migrate"]`} {
		i := all[name]
		if i.base != "scratch" {
			t.Errorf("stage %s is based on %q, not scratch", name, i.base)
		}
		if !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(i.user) {
			t.Errorf("stage %s runs as %q; it must be numbers, and not root's", name, i.user)
		}
		if i.entrypoint != `["/trakr"]` || i.cmd != command {
			t.Errorf("stage %s runs %s %s", name, i.entrypoint, i.cmd)
		}
		if !slices.ContainsFunc(i.copies, func(c string) bool { return strings.HasSuffix(c, " /etc/ssl/certs/ca-certificates.crt") }) {
			t.Errorf("stage %s has no CA certificates: Bitbucket could not be verified", name)
		}
	}
	if got := settings(strings.Join(all[last].env, "\n")); len(got) != 1 || got["TRAKR_LISTEN"] != "0.0.0.0:8080" {
		t.Errorf("the image sets %v; only the public listener may be opened by default", got)
	}
}

func TestImageIsBuiltByTheModulesGo(t *testing.T) {
	want := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "../go.mod"))
	var got, from string
	for _, i := range dockerfile(t) {
		if v, ok := strings.CutPrefix(i.rest, "GO_VERSION="); i.name == "ARG" && ok {
			got = v
		}
		if i.name == "FROM" && strings.Contains(i.rest, "golang:") {
			from = i.rest
		}
	}
	if want == nil || got != want[1] {
		t.Errorf("the image is built with Go %q, go.mod says %q", got, want)
	}
	if !strings.Contains(from, "golang:${GO_VERSION}-") {
		t.Errorf("the builder %q does not use GO_VERSION", from)
	}
}

// TestImagesProgramIsStatic runs the Dockerfile's own build command.
func TestImagesProgramIsStatic(t *testing.T) {
	var command string
	for _, i := range dockerfile(t) {
		if i.name == "RUN" && strings.Contains(i.rest, "go build") {
			command = i.rest
		}
	}
	out := filepath.Join(t.TempDir(), "trakr")
	if !strings.Contains(command, "-o /out/trakr ") {
		t.Fatalf("the build command is %q", command)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(command, "/out/trakr", out, 1))
	cmd.Dir = ".."
	// CGO_ENABLED=1 here: the command itself must switch it off.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "VERSION=1.2.3-test", "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", command, err, text)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a %v: it would not start in an empty image", p.Type)
		}
	}
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("the program needs %v (%v)", libraries, err)
	}
	where, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), where+"/") {
		t.Error("the program names the directory it was built in")
	}
	if runtime.GOOS != "linux" {
		return // it cannot run here; the rest was judged
	}
	v, err := exec.CommandContext(t.Context(), out, "version").Output()
	if err != nil || strings.TrimSpace(string(v)) != "1.2.3-test" {
		t.Errorf("trakr version: %q, %v", v, err)
	}
}

// TestImageSeesWhatItCompilesAndNothingElse holds the COPY lines and the ignore
// file against the files the program is really made of.
func TestImageSeesWhatItCompilesAndNothingElse(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{if not .Standard}}{{$p := .ImportPath}}{{range .GoFiles}}{{$p}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$p}}/{{.}}{{"\n"}}{{end}}{{end}}`, "./cmd/trakr")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	needed := []string{"go.mod", "go.sum"}
	for line := range strings.Lines(string(out)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "trakr/"); ok {
			needed = append(needed, path)
		}
	}
	if len(needed) < 50 || !slices.Contains(needed, "policy/trakr.yaml") {
		t.Fatalf("only %d files: the check sees too little", len(needed))
	}

	all, _ := stages(t)
	var copied []string
	for _, c := range all["build"].copies {
		words := strings.Fields(c)
		copied = append(copied, words[:len(words)-1]...)
	}
	var admitted []string
	for line := range strings.Lines(read(t, "container/Dockerfile.dockerignore")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			admitted = append(admitted, name)
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(copied)), slices.Sorted(slices.Values(admitted))) {
		t.Errorf("the image copies %v, the ignore file admits %v", copied, admitted)
	}
	if first := regexp.MustCompile(`(?m)^[^#\s].*$`).FindString(read(t, "container/Dockerfile.dockerignore")); first != "*" {
		t.Errorf("the ignore file begins with %q; it must leave everything out first", first)
	}
	for _, path := range needed {
		if !covered(t, copied, path) {
			t.Errorf("the image does not get %s", path)
		}
	}
	for _, path := range []string{".git/config", "data/keys.json", "deploy/compose/secrets/keys.json", "deploy/compose/.env", "bin/trakr"} {
		if covered(t, admitted, path) {
			t.Errorf("the build may see %s", path)
		}
	}
	for _, pattern := range copied {
		if !slices.ContainsFunc(needed, func(path string) bool { return covered(t, []string{pattern}, path) }) {
			t.Errorf("nothing of %s is needed", pattern)
		}
	}
}

// covered reports whether one of the patterns is the path, a directory above it,
// or a glob for it.
func covered(t *testing.T, patterns []string, path string) bool {
	t.Helper()
	return slices.ContainsFunc(patterns, func(p string) bool {
		match, err := filepath.Match(p, path)
		if err != nil {
			t.Fatal(err)
		}
		return match || strings.HasPrefix(path, p+"/")
	})
}
