package main

import (
	"fmt"
	"os"

	"golang.org/x/term"
)

// progress shows a waiting person what is being measured: on a terminal in one line that
// changes, elsewhere in one line for each part.
type progress struct {
	f     *os.File
	tty   bool
	title string
}

func newProgress(f *os.File) *progress {
	return &progress{f: f, tty: term.IsTerminal(int(f.Fd()))}
}

// begin names the part that begins.
func (p *progress) begin(title string) {
	p.title = title
	if p.tty {
		p.step("")
		return
	}
	fmt.Fprintln(p.f, title)
}

// step shows how far the part is.
func (p *progress) step(format string, args ...any) {
	if p.tty {
		fmt.Fprintf(p.f, "\r\x1b[K%s  %s", p.title, fmt.Sprintf(format, args...))
	}
}

// end clears the line.
func (p *progress) end() {
	if p.tty {
		fmt.Fprint(p.f, "\r\x1b[K")
	}
}
