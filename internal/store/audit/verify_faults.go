package audit

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
)

// Kind is a kind of fault.
type Kind string

// The kinds of fault.
const (
	Changed     Kind = "changed"       // an event's bytes are not those that were hashed
	Removed     Kind = "removed"       // a position has lost its event
	Inserted    Kind = "inserted"      // an event is among the sequenced and no position names it
	Reordered   Kind = "reordered"     // an event, or a leaf, is at another place than its own
	CutTail     Kind = "cut_tail"      // the log is shorter than a checkpoint kept elsewhere, or another log
	WrongLeaf   Kind = "leaf"          // leaf hashes missing or not those that were signed
	WrongTile   Kind = "tile"          // a tile missing, too much, or of another tree
	WrongHead   Kind = "checkpoint"    // a checkpoint missing, not signed, or of another tree
	WrongColumn Kind = "column"        // a column differs from its record
	WrongForm   Kind = "not_canonical" // a record is not the canonical bytes of an event
	Duplicate   Kind = "duplicate_id"  // an event_id occurs twice
	WrongExpiry Kind = "expiry"        // content was removed without its event
	WrongEpoch  Kind = "epoch"         // the list of epochs or the log's identity was changed
)

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{Changed, Removed, Inserted, Reordered, CutTail, WrongLeaf, WrongTile, WrongHead,
		WrongColumn, WrongForm, Duplicate, WrongExpiry, WrongEpoch}
}

// nowhere is the position of a fault that has none.
const nowhere int64 = -1

// Fault is one thing that is wrong.
type Fault struct {
	Kind     Kind
	Position int64  // the first bad position; -1 when it is none of one
	EventID  string // "" when unknown
	Detail   string
}

// MarshalJSON implements json.Marshaler.
func (f Fault) MarshalJSON() ([]byte, error) {
	out := struct {
		Kind     Kind   `json:"kind"`
		Position *int64 `json:"position,omitempty"`
		EventID  string `json:"event_id,omitempty"`
		Detail   string `json:"detail"`
	}{f.Kind, nil, f.EventID, f.Detail}
	if f.Position >= 0 {
		out.Position = &f.Position
	}
	return json.Marshal(out)
}

// MaxFaults is how many faults of one kind are kept; all are counted.
const MaxFaults = 100

// faults keeps the first faults of each kind. It is safe for concurrent use.
type faults struct {
	mu     sync.Mutex
	kept   map[Kind][]Fault
	counts map[Kind]int64
}

func newFaults() *faults { return &faults{kept: map[Kind][]Fault{}, counts: map[Kind]int64{}} }

// add counts a fault and keeps it when it is among the first of its kind by
// position.
func (f *faults) add(x Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[x.Kind]++
	kept := f.kept[x.Kind]
	i, _ := slices.BinarySearchFunc(kept, x, earlier)
	if i == MaxFaults {
		return
	}
	kept = slices.Insert(kept, i, x)
	f.kept[x.Kind] = kept[:min(len(kept), MaxFaults)]
}

// earlier puts positions first and faults without one last.
func earlier(a, b Fault) int {
	if (a.Position < 0) != (b.Position < 0) {
		return cmp.Compare(b.Position, a.Position)
	}
	return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Detail, b.Detail), cmp.Compare(a.EventID, b.EventID))
}

func (f *faults) sorted() ([]Fault, map[Kind]int64) {
	all := []Fault{}
	for _, kept := range f.kept {
		all = append(all, kept...)
	}
	slices.SortFunc(all, earlier)
	return all, f.counts
}
