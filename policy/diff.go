package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one promise that differs between two policies, in words.
type Change struct {
	Section string `json:"section"` // of the file, e.g. "fields"
	Subject string `json:"subject"` // what in it, e.g. "username"; "" for the section as a whole
	What    string `json:"what"`    // e.g. "switched off: no longer kept"
}

// Diff returns what a new policy promises differently from an old one, section by section
// in the order of the file. It compares every value; comments, layout and the order of
// lists are not promises.
func Diff(old, new *Policy) ([]Change, error) {
	a, err := old.tree()
	if err != nil {
		return nil, err
	}
	b, err := new.tree()
	if err != nil {
		return nil, err
	}
	var d differ
	for _, section := range sections(a, b) {
		d.section = section
		d.compare("", "", a[section], b[section])
	}
	return d.changes, nil
}

// tree returns the policy as decoded JSON.
func (p *Policy) tree() (map[string]any, error) {
	b, err := p.JSON()
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var out map[string]any
	if err := d.Decode(&out); err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	return out, nil
}

// sections returns the sections of either file in the order of the built-in policy.
func sections(a, b map[string]any) []string {
	order := []string{
		"version", "app", "vendor", "fields", "forbidden_categories", "stores", "sub_processors", "egress", "personal_data_reporting",
		"retention", "deletion_deadline", "deletion_requests", "legal_holds", "liveness", "sweeps", "jobs", "known_payload_keys", "roles",
		"reasons", "not_audited",
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []string
	for _, s := range order {
		if _, ok := all[s]; ok {
			out = append(out, s)
			delete(all, s)
		}
	}
	return append(out, slices.Sorted(maps.Keys(all))...)
}

type differ struct {
	section string
	changes []Change
}

func (d *differ) add(subject, format string, args ...any) {
	d.changes = append(d.changes, Change{Section: d.section, Subject: subject, What: fmt.Sprintf(format, args...)})
}

// compare compares one value under its name within a subject.
func (d *differ) compare(subject, name string, old, new any) {
	_, objectOld := old.(map[string]any)
	_, objectNew := new.(map[string]any)
	_, listOld := old.([]any)
	_, listNew := new.([]any)
	switch {
	case empty(old) && empty(new):
	case (objectOld || objectNew) && (objectOld || empty(old)) && (objectNew || empty(new)):
		d.object(subject, name, old, new)
	case (listOld || listNew) && (listOld || empty(old)) && (listNew || empty(new)):
		d.list(subject, name, old, new)
	default:
		d.value(subject, name, old, new)
	}
}

// empty reports whether a member means the same as one that is left out.
func empty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case bool:
		return !x
	case string:
		return x == ""
	case []any:
		return len(x) == 0
	case map[string]any:
		return len(x) == 0
	}
	return false
}

func (d *differ) object(subject, name string, old, new any) {
	a, _ := old.(map[string]any)
	b, _ := new.(map[string]any)
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		d.compare(subject, within(name, k), a[k], b[k])
	}
}

func within(name, member string) string {
	if name == "" {
		return member
	}
	return name + " " + member
}

// list compares without regard to order: objects by the member that names them, other
// values as they are. Load refuses two objects with the same name.
func (d *differ) list(subject, name string, old, new any) {
	a, _ := old.([]any)
	b, _ := new.([]any)
	keysOld, byOld := keyed(a)
	keysNew, byNew := keyed(b)
	for _, k := range keysOld {
		if _, still := byNew[k]; !still {
			d.removed(subject, name, k, byOld[k])
		}
	}
	for _, k := range keysNew {
		before, was := byOld[k]
		if !was {
			d.added(subject, name, k, byNew[k])
			continue
		}
		if _, object := byNew[k].(map[string]any); object {
			d.object(under(subject, k), "", before, byNew[k])
		}
	}
}

func under(subject, key string) string {
	if subject == "" {
		return key
	}
	return subject + ", " + key
}

func (d *differ) removed(subject, name, key string, v any) {
	if _, object := v.(map[string]any); object {
		d.add(under(subject, key), "removed")
		return
	}
	d.add(subject, "%s", strings.TrimSpace(name+" "+key+" removed"))
}

func (d *differ) added(subject, name, key string, v any) {
	o, object := v.(map[string]any)
	if !object {
		d.add(subject, "%s", strings.TrimSpace(name+" "+key+" added"))
		return
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if s, ok := o[k].(string); ok && s != key {
			parts = append(parts, k+": "+s)
		}
	}
	what := "added"
	if parts != nil {
		what += " (" + strings.Join(parts, "; ") + ")"
	}
	d.add(under(subject, key), "%s", what)
}

// names are the members that can name an entry of a list; the first that it has does.
var names = []string{"name", "to", "class", "kind", "code", "what"}

func keyed(list []any) (keys []string, by map[string]any) {
	by = map[string]any{}
	for _, v := range list {
		key := shown(v)
		if o, ok := v.(map[string]any); ok {
			for _, n := range names {
				if s, ok := o[n].(string); ok {
					key = s
					break
				}
			}
		}
		if _, twice := by[key]; !twice {
			keys = append(keys, key)
		}
		by[key] = v
	}
	return keys, by
}

// places are the members that declare where a store is.
var places = []string{"city", "region", "country", "provider"}

// value compares two texts, numbers or switches.
func (d *differ) value(subject, name string, old, new any) {
	if shown(old) == shown(new) {
		return
	}
	a, errOld := ParsePeriod(shown(old))
	b, errNew := ParsePeriod(shown(new))
	switch {
	case d.section == "fields" && name == "off" && !empty(new):
		d.add(subject, "switched off: no longer kept")
	case d.section == "fields" && name == "off":
		d.add(subject, "switched on: kept again")
	case errOld == nil && errNew == nil:
		longer := "shorter"
		switch {
		case b.Duration() > a.Duration():
			longer = "longer"
		case b.Duration() == a.Duration():
			return // P1D is PT24H
		}
		d.add(subject, "%s", strings.TrimSpace(name+" "+longer+": from "+a.Human()+" to "+b.Human()))
	case d.section == "stores" && slices.Contains(places, name):
		d.add(subject, "moved: %s from %s to %s", name, shown(old), shown(new))
	case empty(old):
		d.add(subject, "%s", strings.TrimSpace(name+" is now “"+shown(new)+"”"))
	case empty(new):
		d.add(subject, "%s", strings.TrimSpace(name+" no longer declared; it was “"+shown(old)+"”"))
	default:
		d.add(subject, "%s", strings.TrimSpace(name+" from “"+shown(old)+"” to “"+shown(new)+"”"))
	}
}

func shown(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	case bool:
		if x {
			return "yes"
		}
		return "no"
	}
	b, err := json.Marshal(v)
	if err != nil { // cannot happen: the value came from JSON
		return fmt.Sprint(v)
	}
	return string(b)
}
