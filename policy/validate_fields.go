package policy

import (
	"regexp"
	"slices"
	"strings"

	"trakr/internal/lifecycle"
)

// fields checks that each guarded value is declared exactly once and nothing else is, that
// a credential has no readers, and that every value is deleted with its tenant.
func (v *validator) fields() {
	seen := map[lifecycle.Field]bool{}
	for i, f := range v.p.Fields {
		at := entry("$.fields", i)
		switch {
		case !f.Name.Valid():
			v.fault(at+".name", "the service keeps no field of this name")
		case seen[f.Name]:
			v.fault(at+".name", "%s is declared twice", f.Name)
		}
		seen[f.Name] = true
		v.category(at+".category", f.Category)
		if f.Credential != f.Name.Spec().Credential {
			v.fault(at+".credential", "shared_secret is a credential, and no other field is")
		}
		if f.Off && !f.Name.Spec().Optional {
			v.fault(at+".off", "the service cannot work without %s", f.Name)
		}
		v.readers(at, f)
		v.released(at, f)
		if f.Name == lifecycle.AvatarURL && !f.Off {
			v.dropHosts(at+".drop_hosts", f.DropHosts)
		}
		v.fieldStore(at, f)
	}
	for _, f := range lifecycle.Fields() {
		if !seen[f] && v.whole("$.fields", "name") {
			v.fault("$.fields", "%s is kept by the service and not declared", f)
		}
	}
}

// readers checks that a credential has none, and that roles and reason codes exist.
func (v *validator) readers(at string, f FieldRule) {
	if f.Credential && len(f.Readers)+len(f.Reasons) > 0 {
		v.fault(at+".readers", "a credential is never released")
	}
	for _, r := range f.Readers {
		if !slices.Contains(lifecycle.TokenRoles(), r) {
			v.fault(at+".readers", "%q is not a role of an API token", r)
		}
	}
	for _, r := range f.Reasons {
		if !slices.Contains(lifecycle.ReasonCodes(), r) {
			v.fault(at+".reasons", "%q is not a reason code", r)
		}
	}
}

// fieldStore checks that a value is in a store for values, in a class that is deleted with
// the tenant.
func (v *validator) fieldStore(at string, f FieldRule) {
	s, ok := v.store(f.Store)
	if !ok {
		if v.whole("$.stores", "name") {
			v.fault(at+".store", "there is no store %q", f.Store)
		}
	} else if !s.HoldsFields {
		v.fault(at+".store", "the store %q does not contain tenant values", f.Store)
	}
	v.class(at+".retention", f.Retention)
	if by := classes[f.Retention].by; by != "" && by != ByUninstall {
		v.fault(at+".retention", "a value is deleted with its tenant, and %s is executed by %s: "+
			"use a class executed by %s, such as tenant-fields", f.Retention, by, ByUninstall)
	}
}

// emailHashes are the hosts whose addresses are hashes of a person's e-mail address.
var emailHashes = []string{"gravatar.com", "wp.com"}

// dropHosts checks that addresses that are hashes of an e-mail address are not kept.
func (v *validator) dropHosts(at string, hosts []string) {
	for _, h := range emailHashes {
		if !slices.Contains(hosts, h) {
			v.fault(at, "addresses on %s are hashes of e-mail addresses, which are not kept: add it here, or switch the field off", h)
		}
	}
}

// neverKept are the categories that the code forbids whatever a policy allows, because the
// statement promises it.
var neverKept = []string{"user.contact", "user.name"}

// categories checks that a policy forbids at least what the code forbids.
func (v *validator) categories() {
	for _, c := range neverKept {
		if !slices.Contains(v.p.ForbiddenCategories, c) {
			v.fault("$.forbidden_categories", "%s is always forbidden: add it", c)
		}
	}
}

// Forbidden returns the forbidden category that a category is or is below; "" for none.
// The code forbids some categories whatever the policy allows.
func (p *Policy) Forbidden(category string) string {
	for _, c := range distinct(append(slices.Clone(neverKept), p.ForbiddenCategories...)) {
		if category == c || strings.HasPrefix(category, c+".") {
			return c
		}
	}
	return ""
}

// category checks that a category is not forbidden.
func (v *validator) category(at, category string) {
	if c := v.p.Forbidden(category); c != "" {
		v.fault(at, "data of the category %s must not be kept", c)
	}
}

// sourceForm matches a path of plain names, as deep as the decoder reads.
var sourceForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,39}(\.[A-Za-z_][A-Za-z0-9_-]{0,39}){0,7}$`)

// callbackKeys are the payload's members that identify the callback and are not kept.
var callbackKeys = []string{"key", "eventType"}

// sources checks that each field is read from a place of its own, which the decoder can
// read and the policy does not declare as not kept.
func (v *validator) sources() {
	for i, f := range v.p.Fields {
		at := entry("$.fields", i) + ".source"
		lower := strings.ToLower(f.Source)
		switch {
		case !sourceForm.MatchString(f.Source):
			v.fault(at, "a source is a path in the payload of up to eight plain names, such as principal.uuid")
			continue
		case strings.Contains(lower, "mail") || strings.Contains(lower, "phone"):
			v.fault(at, "e-mail addresses and telephone numbers are never read")
		}
		for _, k := range callbackKeys {
			if overlap(f.Source, k) {
				v.fault(at, "%s identifies the callback itself", k)
			}
		}
		for _, other := range v.p.Fields[:i] {
			if overlap(f.Source, other.Source) {
				v.fault(at, "it is, or contains, or is contained in, what %s is read from", other.Name)
			}
		}
		for _, k := range v.p.KnownPayloadKeys {
			if !strings.HasSuffix(k, "*") && (f.Source == k || strings.HasPrefix(f.Source, k+".")) {
				v.fault(at, "known_payload_keys declares that %s is not kept", k)
			}
		}
	}
}

// overlap reports whether one path is the other or is below it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}

// released checks that a field is released only where the code can send it, to a
// destination that is declared and in use.
func (v *validator) released(at string, f FieldRule) {
	for i, to := range f.Egress {
		at := entry(at+".egress", i)
		e, ok := v.p.Destination(to)
		switch {
		case !ok && !v.whole("$.egress", "to"):
		case !ok:
			v.fault(at, "there is no destination %q under egress", to)
		case !slices.Contains(f.Name.Spec().Recipients, to):
			v.fault(at, "%s is never sent to %s", f.Name, to)
		case len(e.Hosts) == 0:
			v.fault(at, "the destination %s has no host, so nothing can be sent there", to)
		case f.Off:
			v.fault(at, "%s is off and cannot be sent", f.Name)
		}
	}
}
