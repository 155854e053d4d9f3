package policy

import (
	"slices"
	"strconv"
)

// validate checks what a schema cannot express: that the parts of the file agree with each
// other and with what the code can do. Each validate_*.go file checks one part.
func validate(p *Policy, d *document) {
	v := &validator{d, p}
	v.fields()
	v.sources()
	v.categories()
	v.stores()
	v.subProcessors()
	v.egress()
	v.retention()
	v.dates()
	v.requests()
	v.sweeps()
	v.jobs()
	v.liveness()
	v.roles()
	v.reasons()
	v.app()
}

// validator adds a fault to its document for each rule that its policy breaks.
type validator struct {
	*document
	p *Policy
}

// entry returns the path of an entry of a list: "$.fields[3]".
func entry(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// store returns the declared store with this name.
func (v *validator) store(name string) (Store, bool) {
	i := slices.IndexFunc(v.p.Stores, func(s Store) bool { return s.Name == name })
	if i < 0 {
		return Store{}, false
	}
	return v.p.Stores[i], true
}

// class checks that a retention class is declared.
func (v *validator) class(at, name string) {
	if _, ok := v.p.Period(name); !ok && v.whole("$.retention", "class") {
		v.fault(at, "there is no retention class %q", name)
	}
}
