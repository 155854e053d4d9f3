package audit_test

import (
	"fmt"
	"testing"

	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

// What the API shows of an event says where it stands in the log, as the log
// itself has it, and nothing while it has no place.
func TestEventsSayTheirPositionOnceTheyHaveOne(t *testing.T) {
	e := storetest.New(t)
	for i := range 30 {
		if err := e.Log.Record(t.Context(), event(e, fmt.Sprint("a", i)), event(e, fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			sequencedAll(t, e) // several rows of leaves
		}
	}
	sequenced := sequencedAll(t, e).Size
	if err := e.Log.Record(t.Context(), event(e, "waits")); err != nil {
		t.Fatal(err)
	}
	page, _, err := e.Log.Query(t.Context(), operator, audit.Filter{}, "", audit.MaxPage)
	if err != nil {
		t.Fatal(err)
	}
	placed := int64(0)
	for _, ev := range page {
		if ev.LogIndex == nil {
			continue
		}
		placed++
		if n := e.Int(`SELECT count(*) FROM trakr.audit_leaves AS l JOIN trakr.audit_events AS x ON x.id = l.ids[$1 - l.first_index + 1]
			WHERE $1 >= l.first_index AND $1 < l.first_index + cardinality(l.ids) AND x.event_id = $2`, *ev.LogIndex, ev.EventID); n != 1 {
			t.Errorf("%s does not stand at %d", ev.StatusDetail, *ev.LogIndex)
		}
	}
	// What waits: the last event, and the record of this very reading.
	if placed != sequenced || int64(len(page)) != sequenced+2 {
		t.Errorf("%d of %d events have a position, the log has %d", placed, len(page), sequenced)
	}
	one, _, err := e.Log.Query(t.Context(), operator, audit.Filter{EventID: page[len(page)-1].EventID.String()}, "", 10)
	if err != nil || len(one) != 1 || one[0].LogIndex == nil || *one[0].LogIndex != 0 {
		t.Errorf("the first event by its id: %+v, %v", one, err)
	}
}
