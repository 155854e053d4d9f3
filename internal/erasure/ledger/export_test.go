package ledger

import "bytes"

// ParseLine reads a line as opening a ledger does, and encodes what it read.
func ParseLine(raw []byte) ([]byte, error) {
	e, err := parseEntry(raw)
	if err != nil {
		return nil, err
	}
	return e.encode()
}

// WriteLines continues the ledger in b by n entries.
func WriteLines(b *bytes.Buffer, n int, entry func(int) Entry) {
	prev := hashOf(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	for i := 1; i <= n; i++ {
		e := entry(i)
		e.Seq, e.Prev = int64(i), prev.String()
		raw, err := e.encode()
		if err != nil {
			panic(err)
		}
		prev = hashOf(raw)
		b.Write(append(raw, '\n'))
	}
}
