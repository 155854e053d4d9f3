package policy

import (
	"slices"

	"trakr/internal/lifecycle"
)

// roles checks that each role of the service is declared exactly once.
func (v *validator) roles() {
	seen := map[lifecycle.Role]bool{}
	for i, r := range v.p.Roles {
		at := entry("$.roles", i) + ".name"
		switch {
		case !slices.Contains(lifecycle.Roles(), r.Name):
			v.fault(at, "%q is not a role of the service", r.Name)
		case seen[r.Name]:
			v.fault(at, "%s is declared twice", r.Name)
		}
		seen[r.Name] = true
	}
	for _, r := range lifecycle.Roles() {
		if !seen[r] && v.whole("$.roles", "name") {
			v.fault("$.roles", "%s acts in the service and is not declared", r)
		}
	}
}

// reasons checks that each reason code of the service is declared exactly once.
func (v *validator) reasons() {
	seen := map[lifecycle.ReasonCode]bool{}
	for i, r := range v.p.Reasons {
		at := entry("$.reasons", i) + ".code"
		switch {
		case !slices.Contains(lifecycle.ReasonCodes(), r.Code):
			v.fault(at, "%q is not a reason code", r.Code)
		case seen[r.Code]:
			v.fault(at, "%s is declared twice", r.Code)
		}
		seen[r.Code] = true
	}
	for _, c := range lifecycle.ReasonCodes() {
		if !seen[c] && v.whole("$.reasons", "code") {
			v.fault("$.reasons", "%s is recorded by the service and not declared", c)
		}
	}
}

// app checks that the proof of possession needs a declared scope.
func (v *validator) app() {
	declared := slices.ContainsFunc(v.p.App.Scopes, func(s Scope) bool { return s.Name == v.p.App.Proof.Scope })
	if !declared && v.whole("$.app.scopes", "name") {
		v.fault("$.app.proof.scope", "the proof's scope is not among the app's scopes")
	}
}
