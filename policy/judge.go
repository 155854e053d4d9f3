package policy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"trakr/internal/lifecycle"
)

// judge checks what a schema cannot say: that the parts of the file agree with
// each other and with what the code can do.
func judge(p *Policy, d *document) {
	j := &judgement{d, p}
	j.fields()
	j.sources()
	j.categories()
	j.stores()
	j.subProcessors()
	j.egress()
	j.retention()
	j.requests()
	j.sweeps()
	j.jobs()
	j.liveness()
	j.roles()
	j.reasons()
	j.app()
}

type judgement struct {
	*document
	p *Policy
}

// fields: each guarded value exactly once, none besides; no forbidden category; a
// credential has no readers; and each goes with its tenant.
func (j *judgement) fields() {
	seen := map[lifecycle.Field]bool{}
	for i, f := range j.p.Fields {
		at := "$.fields[" + strconv.Itoa(i) + "]"
		switch {
		case !f.Name.Valid():
			j.fault(at+".name", "the service keeps no field of this name")
		case seen[f.Name]:
			j.fault(at+".name", "%s is declared twice", f.Name)
		}
		seen[f.Name] = true
		j.category(at+".category", f.Category)
		if f.Credential != f.Name.Spec().Credential {
			j.fault(at+".credential", "shared_secret is a credential, and nothing else is")
		}
		if f.Credential && len(f.Readers)+len(f.Reasons) > 0 {
			j.fault(at+".readers", "a credential is released to nobody")
		}
		for _, r := range f.Readers {
			if !slices.Contains(lifecycle.TokenRoles(), r) {
				j.fault(at+".readers", "%q is not a role of an API token", r)
			}
		}
		for _, r := range f.Reasons {
			if !slices.Contains(lifecycle.ReasonCodes(), r) {
				j.fault(at+".reasons", "%q is not a reason code", r)
			}
		}
		if f.Off && !f.Name.Spec().Optional {
			j.fault(at+".off", "the service cannot do without %s", f.Name)
		}
		j.released(at, f)
		if f.Name == lifecycle.AvatarURL && !f.Off {
			j.dropped(at+".drop_hosts", f.DropHosts)
		}
		s, ok := j.store(f.Store)
		if !ok {
			if j.whole("$.stores", "name") {
				j.fault(at+".store", "there is no store %q", f.Store)
			}
		} else if !s.HoldsFields {
			j.fault(at+".store", "the store %q does not hold tenant values", f.Store)
		}
		j.class(at+".retention", f.Retention)
		if by := classes[f.Retention].by; by != "" && by != ByUninstall {
			j.fault(at+".retention", "a value goes with its tenant, and %s is executed by %s: give a class executed by %s, such as tenant-fields", f.Retention, by, ByUninstall)
		}
	}
	for _, f := range lifecycle.Fields() {
		if !seen[f] && j.whole("$.fields", "name") {
			j.fault("$.fields", "%s is kept by the service and not declared", f)
		}
	}
}

// emailHashes are the hosts whose addresses are hashes of a person's e-mail.
var emailHashes = []string{"gravatar.com", "wp.com"}

// dropped: an address that is a hash of an e-mail is not kept.
func (j *judgement) dropped(at string, hosts []string) {
	for _, h := range emailHashes {
		if !slices.Contains(hosts, h) {
			j.fault(at, "addresses on %s are hashes of e-mail addresses, which are not kept: name it here, or switch the field off", h)
		}
	}
}

// neverKept are forbidden whatever a policy says: the statement promises it.
var neverKept = []string{"user.contact", "user.name"}

// categories: a policy can forbid more, and never less.
func (j *judgement) categories() {
	for _, c := range neverKept {
		if !slices.Contains(j.p.ForbiddenCategories, c) {
			j.fault("$.forbidden_categories", "%s is forbidden whatever a policy says: name it", c)
		}
	}
}

// Forbidden is the category that a policy, or the code whatever it says, forbids and that
// a category is or lies below; "" for none.
func (p *Policy) Forbidden(category string) string {
	for _, c := range distinct(append(slices.Clone(neverKept), p.ForbiddenCategories...)) {
		if category == c || strings.HasPrefix(category, c+".") {
			return c
		}
	}
	return ""
}

// category: nothing forbidden, nor anything below it.
func (j *judgement) category(at, category string) {
	if c := j.p.Forbidden(category); c != "" {
		j.fault(at, "data of the category %s must not be kept", c)
	}
}

// sourceForm is a path of plain names, as deep as the decoder goes.
var sourceForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,39}(\.[A-Za-z_][A-Za-z0-9_-]{0,39}){0,7}$`)

// callbackKeys are the payload's members that name the callback and are not kept.
var callbackKeys = []string{"key", "eventType"}

// sources: each field comes from a place of its own, which the decoder can read and
// the policy does not say is left out.
func (j *judgement) sources() {
	for i, f := range j.p.Fields {
		at := "$.fields[" + strconv.Itoa(i) + "].source"
		lower := strings.ToLower(f.Source)
		switch {
		case !sourceForm.MatchString(f.Source):
			j.fault(at, "a source is a path in the payload of up to eight plain names, such as principal.uuid")
			continue
		case strings.Contains(lower, "mail") || strings.Contains(lower, "phone"):
			j.fault(at, "no e-mail address and no telephone number is read")
		}
		for _, k := range callbackKeys {
			if overlap(f.Source, k) {
				j.fault(at, "%s names the callback itself", k)
			}
		}
		for _, other := range j.p.Fields[:i] {
			if overlap(f.Source, other.Source) {
				j.fault(at, "it is, or lies on the way to, what %s is read from", other.Name)
			}
		}
		for _, k := range j.p.KnownPayloadKeys {
			if !strings.HasSuffix(k, "*") && (f.Source == k || strings.HasPrefix(f.Source, k+".")) {
				j.fault(at, "known_payload_keys says that %s is not kept", k)
			}
		}
	}
}

// overlap reports whether one path is the other or lies below it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}

// released: a field goes only where the code can send it, to a destination that is
// declared and used.
func (j *judgement) released(at string, f FieldRule) {
	for i, to := range f.Egress {
		at := at + ".egress[" + strconv.Itoa(i) + "]"
		e, ok := j.p.Destination(to)
		switch {
		case !ok && !j.whole("$.egress", "to"):
		case !ok:
			j.fault(at, "there is no destination %q under egress", to)
		case !slices.Contains(f.Name.Spec().Recipients, to):
			j.fault(at, "%s is never sent to %s", f.Name, to)
		case len(e.Hosts) == 0:
			j.fault(at, "the destination %s has no host, so nothing can be sent there", to)
		case f.Off:
			j.fault(at, "%s is off and cannot be sent", f.Name)
		}
	}
}

// roles: each role of the service exactly once.
func (j *judgement) roles() {
	seen := map[lifecycle.Role]bool{}
	for i, r := range j.p.Roles {
		at := "$.roles[" + strconv.Itoa(i) + "].name"
		switch {
		case !slices.Contains(lifecycle.Roles(), r.Name):
			j.fault(at, "%q is not a role of the service", r.Name)
		case seen[r.Name]:
			j.fault(at, "%s is declared twice", r.Name)
		}
		seen[r.Name] = true
	}
	for _, r := range lifecycle.Roles() {
		if !seen[r] && j.whole("$.roles", "name") {
			j.fault("$.roles", "%s acts in the service and is not declared", r)
		}
	}
}

// reasons: each code of the service exactly once.
func (j *judgement) reasons() {
	seen := map[lifecycle.ReasonCode]bool{}
	for i, r := range j.p.Reasons {
		at := "$.reasons[" + strconv.Itoa(i) + "].code"
		switch {
		case !slices.Contains(lifecycle.ReasonCodes(), r.Code):
			j.fault(at, "%q is not a reason code", r.Code)
		case seen[r.Code]:
			j.fault(at, "%s is declared twice", r.Code)
		}
		seen[r.Code] = true
	}
	for _, c := range lifecycle.ReasonCodes() {
		if !seen[c] && j.whole("$.reasons", "code") {
			j.fault("$.reasons", "%s is recorded by the service and not declared", c)
		}
	}
}

func (j *judgement) app() {
	if !slices.ContainsFunc(j.p.App.Scopes, func(s Scope) bool { return s.Name == j.p.App.Proof.Scope }) && j.whole("$.app.scopes", "name") {
		j.fault("$.app.proof.scope", "the proof's scope is not among the app's scopes")
	}
}

func (j *judgement) store(name string) (Store, bool) {
	i := slices.IndexFunc(j.p.Stores, func(s Store) bool { return s.Name == name })
	if i < 0 {
		return Store{}, false
	}
	return j.p.Stores[i], true
}

// class: a class of retention that is named is declared.
func (j *judgement) class(at, name string) {
	if _, ok := j.p.Period(name); !ok && j.whole("$.retention", "class") {
		j.fault(at, "there is no retention class %q", name)
	}
}
