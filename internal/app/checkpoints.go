package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"trakr/internal/platform/config"
	"trakr/internal/sequencer"
	"trakr/internal/store/audit"
)

// checkpointSinks returns the places outside the database to which the settings publish
// checkpoints.
func checkpointSinks(cfg config.Config) ([]sequencer.Sink, error) {
	file, err := sequencer.NewFile(cfg.CheckpointFile)
	if err != nil {
		return nil, err
	}
	sinks := []sequencer.Sink{file}
	if cfg.CheckpointURL != "" {
		sinks = append(sinks, sequencer.NewHTTP(cfg.CheckpointURL))
	}
	return sinks, nil
}

// KeptCheckpoints reads the checkpoints that the file sink has kept, its history
// included, for `trakr audit verify`. Files that do not exist count as empty.
func KeptCheckpoints(cfg config.Config) ([]audit.Outside, error) {
	newest, err := NewestCheckpoint(cfg)
	if err != nil {
		return nil, err
	}
	older, err := CheckpointsIn(cfg.CheckpointFile + ".history")
	if errors.Is(err, fs.ErrNotExist) {
		return newest, nil
	}
	return append(newest, older...), err
}

// NewestCheckpoint reads the newest checkpoint that the file sink has kept, if any.
func NewestCheckpoint(cfg config.Config) ([]audit.Outside, error) {
	out, err := CheckpointsIn(cfg.CheckpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return out, err
}

// CheckpointsIn reads a file of checkpoints, which must exist.
func CheckpointsIn(file string) ([]audit.Outside, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	notes := splitNotes(b)
	if len(notes) == 0 {
		notes = [][]byte{b} // not a checkpoint at all: that is a finding
	}
	var out []audit.Outside
	for i, n := range notes {
		name := "the checkpoint in " + file
		if len(notes) > 1 {
			name = fmt.Sprintf("checkpoint %d in %s", i+1, file)
		}
		out = append(out, audit.Outside{Name: name, Note: n})
	}
	return out, nil
}

// splitNotes splits a file of signed notes: each note is its text, an empty line and its
// signatures (C2SP signed-note); an empty line separates two notes.
func splitNotes(b []byte) [][]byte {
	parts := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n\n"))
	var out [][]byte
	for i := 0; i+1 < len(parts); i += 2 {
		out = append(out, bytes.Join([][]byte{parts[i], append(bytes.Clone(parts[i+1]), '\n')}, []byte("\n\n")))
	}
	return out
}
