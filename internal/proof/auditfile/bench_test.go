package auditfile

import (
	"testing"

	"trakr/internal/proof/merkle"
)

var sample = []byte(`{"action":"tenant.read","actor_id":"token:3","actor_type":"service","event_id":"01a20f9c-6611-7e73-bd7f-c3fcf2d9c501","field_names":["username","avatar_url"],"occurred_at":"2026-11-24T12:00:00.000001Z","outcome":"success","reason_code":"service_operation","request_id":"req-123456","schema_version":1,"status_detail":"generated","tenant_id":"5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11"}`)

// BenchmarkForms is what an event costs in each form, written and read.
func BenchmarkForms(b *testing.B) {
	e := Event{Index: 1234567, RecordedAt: []byte("2026-11-24T12:00:00.000001Z"), Leaf: merkle.LeafHash(sample), Record: sample}
	for _, f := range Formats() {
		var line, scratch []byte
		b.Run("write "+string(f), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				line = f.AppendEvent(line[:0], e)
			}
		})
		line = line[:len(line)-1]
		if f == CSV {
			line = line[:len(line)-1]
		}
		b.Run("read "+string(f), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := f.parseEvent(line, &scratch); !ok {
					b.Fatal(string(line))
				}
			}
		})
	}
}
