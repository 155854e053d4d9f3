// Package view has one model for each thing that people and programs see of the
// service's state: a tenant, an erasure, a deletion request, a legal hold, a finding
// and a run of a sweep. The API and the command line both encode these types, so
// that the same thing has the same keys and values wherever it is shown; a console
// can render them too.
//
// A model holds no value of a tenant. Every conversion is a pure function of what
// the stores return. The doc tags are the descriptions in /openapi.json.
package view

// each converts a list. Nil stays nil, which JSON encodes as null.
func each[From, To any](in []From, convert func(From) To) []To {
	if in == nil {
		return nil
	}
	out := make([]To, len(in))
	for i, x := range in {
		out[i] = convert(x)
	}
	return out
}
