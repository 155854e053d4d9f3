package devpg

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

const (
	maxLogSize = 10 << 20 // beyond this a start begins a new log and keeps the old one
	tailLines  = 12
	tailBytes  = 4 << 10
)

func (p *place) openLog() (*os.File, error) {
	path := p.file(logName)
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rotating the server's log: %w", err)
		}
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the server's log: %w", err)
	}
	return log, nil
}

// logTail is the end of the server's log, to be appended to an error.
func (p *place) logTail() string {
	f, err := os.Open(p.file(logName))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart) // shorter than that
	}
	tail, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return ""
	}
	return lastLines(tail)
}

// lastLines renders the end of a program's output on lines of their own.
func lastLines(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	lines = lines[max(0, len(lines)-tailLines):]
	return "; it said last:\n\t" + strings.Join(lines, "\n\t")
}
