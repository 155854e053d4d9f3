package audit

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// gaps remembers which positions an export does not show until they can be proven,
// at its end. A selection can have a gap before each of millions of events, so
// what does not fit into gapsInMemory is written to a temporary file without a name.
type gaps struct {
	near []byte // from and to as varints, each the distance from the number before
	last int64
	file *os.File
}

const gapsInMemory = 16 << 10

func (g *gaps) add(from, to int64) error {
	g.near = binary.AppendUvarint(g.near, uint64(from-g.last))
	g.near = binary.AppendUvarint(g.near, uint64(to-from))
	g.last = to
	if len(g.near) < gapsInMemory {
		return nil
	}
	if g.file == nil {
		f, err := os.CreateTemp("", "trakr-export-*")
		if err != nil {
			return fmt.Errorf("remembering gaps: %w", err)
		}
		if g.file = f; os.Remove(f.Name()) != nil {
			return errors.New("remembering gaps: the temporary file cannot be unlinked")
		}
	}
	if _, err := g.file.Write(g.near); err != nil {
		return fmt.Errorf("remembering gaps: %w", err)
	}
	g.near = g.near[:0]
	return nil
}

// each calls do for every gap, left to right.
func (g *gaps) each(do func(from, to int64) error) error {
	var all io.Reader = bytes.NewReader(g.near)
	if g.file != nil {
		if _, err := g.file.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("reading gaps: %w", err)
		}
		all = io.MultiReader(g.file, all)
	}
	b := bufio.NewReader(all)
	for at := int64(0); ; {
		skipped, err := binary.ReadUvarint(b)
		if errors.Is(err, io.EOF) {
			return nil
		}
		length, err2 := binary.ReadUvarint(b)
		if err := errors.Join(err, err2); err != nil {
			return fmt.Errorf("reading gaps: %w", err)
		}
		from := at + int64(skipped)
		at = from + int64(length)
		if err := do(from, at); err != nil {
			return err
		}
	}
}

func (g *gaps) close() error {
	if g.file == nil {
		return nil
	}
	return g.file.Close()
}
