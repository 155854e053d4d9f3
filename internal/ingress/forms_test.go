package ingress

import (
	"slices"
	"testing"

	"trakr/internal/lifecycle"
)

// A tenant is stored with the ingress of its form, and a callback is found by its path.
func TestEachFormIsAnIngressWithPathsOfItsOwn(t *testing.T) {
	var ingresses []lifecycle.Ingress
	for _, f := range forms {
		ingresses = append(ingresses, f.ingress)
	}
	if !slices.Equal(ingresses, lifecycle.Ingresses()) {
		t.Errorf("the forms are of %v, the ingresses are %v", ingresses, lifecycle.Ingresses())
	}
	names, paths := map[string]bool{}, map[string]bool{}
	for _, c := range Callbacks() {
		if c.Name == "" || names[c.Name] || paths[c.Path] {
			t.Errorf("%+v: an empty name, or one or a path that another callback has", c)
		}
		names[c.Name], paths[c.Path] = true, true
	}
}
