package httpapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/lifecycle"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// description is what the tests read of /openapi.json.
type description struct {
	OpenAPI    string
	Servers    []struct{ URL string }
	Tags       []struct{ Name, Description string }
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]schema }
}

type operation struct {
	OperationID          string
	Summary, Description string
	Tags                 []string
	Parameters           []struct {
		Name, Description string
		Schema            schema
	}
	RequestBody struct {
		Content map[string]struct{ Schema schema }
	}
	Responses map[string]struct {
		Description string
		Content     map[string]struct{ Schema schema }
	}
}

type schema struct {
	Ref             string `json:"$ref"`
	Description     string
	Enum            []string
	ContentEncoding string
	Properties      map[string]schema
	Items           *schema
}

func (w *world) description() (description, []byte) {
	w.T.Helper()
	r := w.call(http.MethodGet, "/openapi.json", "", nil)
	var d description
	if err := json.Unmarshal([]byte(r.body), &d); err != nil {
		w.T.Fatalf("%v: %.200s", err, r.body)
	}
	return d, []byte(r.body)
}

// checkDocumented fails when an operation answered with a status or a media type that
// its description does not list. Every call of every test of the API passes here.
func (w *world) checkDocumented(method, path string, r reply) {
	w.T.Helper()
	if w.documented.Paths == nil && path != "/openapi.json" {
		w.documented, _ = w.description()
	}
	path, _, _ = strings.Cut(path, "?")
	for pattern, item := range w.documented.Paths {
		op, ok := item[strings.ToLower(method)]
		if !ok || !matches(pattern, path) {
			continue
		}
		answer, ok := op.Responses[strconv.Itoa(r.status)]
		if !ok {
			w.T.Errorf("%s %s answers %d, which its description does not list: %s", method, pattern, r.status, r.body)
			return
		}
		media, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
		if _, ok := answer.Content[media]; !ok {
			w.T.Errorf("%s %s answers %d as %s, which its description does not list", method, pattern, r.status, media)
		}
		if kind := r.kind(); r.status >= 400 && !strings.Contains(answer.Description, kind) {
			w.T.Errorf("%s %s answers %d with the problem %s, which its description does not list", method, pattern, r.status, kind)
		}
		return
	}
}

// matches reports whether a path is of a pattern. Literal segments are compared first,
// as the multiplexer does: no operation's literal path has the form of another's id.
func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && (!strings.HasPrefix(want[i], "{") || got[i] == "lookup") {
			return false
		}
	}
	return true
}

// eachOperation calls f for every operation, in a fixed order.
func (d description) eachOperation(f func(name, path string, op operation)) {
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			f(strings.ToUpper(method)+" "+path, path, d.Paths[path][method])
		}
	}
}

// The document is kept in a file so that a change of the API shows in a review.
func TestOpenAPIIsAsInTheGoldenFile(t *testing.T) {
	w := newWorld(t)
	_, got := w.description()
	var b bytes.Buffer
	if err := json.Indent(&b, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	const golden = "testdata/openapi.json"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("go test ./internal/httpapi -run OpenAPI -update rewrites the file (-want +got):\n%s", d)
	}
}

func TestOpenAPIDescribesEveryRouteAndEveryProperty(t *testing.T) {
	w := newWorld(t)
	d, _ := w.description()
	var described, declared []string
	if len(d.Servers) == 0 {
		t.Error("no server")
	}
	var tags []string
	for _, tag := range d.Tags {
		tags = append(tags, tag.Name)
		if tag.Description == "" {
			t.Errorf("the tag %s has no description", tag.Name)
		}
	}
	used := map[string]bool{}
	d.eachOperation(func(name, _ string, op operation) {
		described = append(described, name)
		if len(op.Tags) != 1 || !slices.Contains(tags, op.Tags[0]) || op.Summary == "" || op.OperationID == "" {
			t.Errorf("%s: tags %q, summary %q, id %q", name, op.Tags, op.Summary, op.OperationID)
		}
		used[strings.Join(op.Tags, ",")] = true
		for _, p := range op.Parameters {
			if p.Description == "" {
				t.Errorf("%s: the parameter %s has no description", name, p.Name)
			}
		}
		successes := 0
		for status, r := range op.Responses {
			if status[0] == '2' {
				successes++
			}
			for media, c := range r.Content {
				if c.Schema.ContentEncoding != "" {
					t.Errorf("%s: %s %s is described as %s", name, status, media, c.Schema.ContentEncoding)
				}
			}
		}
		if successes != 1 || op.Responses["401"].Content == nil || op.Responses["403"].Content == nil {
			t.Errorf("%s: %d successes, responses %v", name, successes, slices.Sorted(maps.Keys(op.Responses)))
		}
	})
	if len(used) != len(tags) {
		t.Errorf("%d of the tags %q are used", len(used), tags)
	}
	for _, r := range w.routes {
		if r.Guard == "token" {
			declared = append(declared, r.Method+" "+r.Path)
		}
	}
	slices.Sort(described)
	slices.Sort(declared)
	if diff := cmp.Diff(declared, described); diff != "" {
		t.Errorf("routes (-declared +described):\n%s", diff)
	}
	for name, s := range d.Components.Schemas {
		eachProperty(name, s, func(at string, p schema) {
			if p.Description == "" && p.Ref == "" {
				t.Errorf("%s has no description", at)
			}
		})
	}
}

func eachProperty(at string, s schema, f func(at string, p schema)) {
	for name, p := range s.Properties {
		f(at+"."+name, p)
		eachProperty(at+"."+name, p, f)
	}
	if s.Items != nil {
		eachProperty(at+"[]", *s.Items, f)
	}
}

func TestOpenAPIListsTheStatesOfTheDomain(t *testing.T) {
	w := newWorld(t)
	d, _ := w.description()
	for property, want := range map[string][]string{
		"Tenant.state":            texts(lifecycle.TenantStates()),
		"Erasure.state":           texts(lifecycle.ErasureStates()),
		"Erasure.trigger":         texts(lifecycle.Triggers()),
		"RequestDetail.state":     texts(lifecycle.RequestStates()),
		"RequestDetail.held_from": texts(lifecycle.RequestStates()),
		"RequestDetail.ground":    texts(requests.Grounds()),
		"RequestStep.to":          texts(lifecycle.RequestStates()),
		"ListedRequest.state":     texts(lifecycle.RequestStates()),
		"Hold.ground":             texts(holds.Grounds()),
	} {
		name, key, _ := strings.Cut(property, ".")
		if diff := cmp.Diff(want, d.Components.Schemas[name].Properties[key].Enum); diff != "" {
			t.Errorf("%s (-Go +described):\n%s", property, diff)
		}
	}
	for operation, want := range map[string]map[string][]string{
		"/v1/deletion-requests": {"state": texts(lifecycle.RequestStates())},
		"/v1/audit/events":      {"field": texts(lifecycle.Fields())},
	} {
		for _, p := range d.Paths[operation]["get"].Parameters {
			if values, ok := want[p.Name]; ok && !slices.Equal(values, p.Schema.Enum) {
				t.Errorf("%s?%s is one of %q, want %q", operation, p.Name, p.Schema.Enum, values)
			}
		}
	}
}

func texts[T ~string](all []T) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = fmt.Sprint(s)
	}
	return out
}
