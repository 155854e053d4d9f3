package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// File is a ledger in a file, with its head in <path>.head. Several processes may
// have it open: each call takes the file's lock and reads what the others appended.
type File struct {
	path string

	mu    sync.Mutex
	f     *os.File
	chain chain
	ends  []int64 // where each line ends in the file, in bytes
	notes []string
}

// CreateFile makes a new ledger of mode 0600 and opens it. An existing one is never
// replaced: the error is then fs.ErrExist, or ErrMissing if only its head exists.
func CreateFile(path string, now time.Time) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, unavailable("making the ledger's directory", err)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(headPath(path)); err == nil {
			return nil, removed(path)
		}
	}
	raw, err := newHeader(now)
	if err != nil {
		return nil, err
	}
	// Written beside it, then linked: a crash leaves no ledger or a whole one, and of
	// two processes one loses cleanly. A crash before the head is written leaves a
	// ledger without a head, which is whole.
	tmp, err := writeTemp(path, append(raw, '\n'))
	if err != nil {
		return nil, unavailable("writing a new ledger", err)
	}
	defer func() { _ = os.Remove(tmp) }()
	if err := os.Link(tmp, path); err != nil {
		return nil, fmt.Errorf("creating the erasure ledger: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, unavailable("flushing the ledger's directory", err)
	}
	l, err := OpenFile(path)
	if err == nil {
		l.notes = nil // a new ledger never has a head yet
	}
	return l, err
}

// OpenFile opens a ledger and verifies every line.
//
// Errors: ErrMissing, ErrCut, ErrBroken, ErrUnavailable, or what is wrong with the
// file itself (a link, not a regular file, open to others).
func OpenFile(path string) (*File, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, unavailable("opening the ledger", err)
	}
	l := &File{path: path, f: f}
	err = l.locked(context.Background(), func() error {
		if err := l.sync(); err != nil { // a full disk: the ledger can be read, and Append fails
			l.notes = append(l.notes, "the ledger's head could not be written: "+err.Error())
		}
		return nil
	})
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// regular returns an error that describes what is wrong with the file, or nil.
func regular(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(headPath(path)); err == nil {
			return removed(path)
		}
		return fmt.Errorf("%w at %s", ErrMissing, path)
	case err != nil:
		return unavailable("opening the ledger", err)
	case st.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("the erasure ledger %s is a symbolic link; name the file it points to", path)
	case !st.Mode().IsRegular():
		return fmt.Errorf("the erasure ledger %s is not a regular file", path)
	case st.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("the erasure ledger %s is open to others (mode %04o); run: chmod 600 %s",
			path, st.Mode().Perm(), path)
	}
	return nil
}

func removed(path string) error {
	return fmt.Errorf("%w at %s, although its head %s exists. The ledger was removed, or its volume is not mounted; restore it",
		ErrMissing, path, headPath(path))
}

// Name implements Ledger.
func (*File) Name() string { return "file" }

// Notes returns what was repaired since the ledger was opened, for the operator.
func (l *File) Notes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.notes...)
}

// Head implements Ledger.
func (l *File) Head(ctx context.Context) (h Head, err error) {
	err = l.locked(ctx, func() error { h = l.chain.head(l.chain.last()); return nil })
	return h, err
}

// Contains implements Ledger.
func (l *File) Contains(ctx context.Context, seq int64, hash string) (there bool, err error) {
	err = l.locked(ctx, func() error { there = l.chain.contains(seq, hash); return nil })
	return there, err
}

// Lacks implements Ledger.
func (l *File) Lacks(ctx context.Context, all []Entry) (out []Entry, err error) {
	err = l.locked(ctx, func() error { out = l.chain.lacks(all); return nil })
	return out, err
}

// Append implements Ledger.
func (l *File) Append(ctx context.Context, e Entry) (h Head, err error) {
	if err := e.appendable(); err != nil {
		return Head{}, err
	}
	err = l.locked(ctx, func() error {
		// Lines that were written and not acknowledged, by this process or by one that
		// crashed, are made durable first: one of them may be this erasure.
		if err := l.sync(); err != nil {
			return err
		}
		if seq, ok := l.chain.known[e.key()]; ok {
			h = l.chain.head(seq)
			return nil
		}
		if err := l.write(e); err != nil {
			return err
		}
		h = l.chain.head(l.chain.last())
		return l.sync()
	})
	if err != nil {
		return Head{}, err
	}
	return h, nil
}

// write adds the line in one write. A crash in the middle of it leaves a torn line
// that no head counts, and the next process that locks the file truncates it; a crash
// after it leaves a whole line, which counts although no caller got an answer.
func (l *File) write(e Entry) error {
	raw, err := l.chain.next(e)
	if err != nil {
		return fmt.Errorf("encoding an entry of the erasure ledger: %w", err)
	}
	_, err = l.f.Write(append(raw, '\n'))
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		_ = l.f.Truncate(l.end()) // if this fails too, the torn line is truncated later
		return unavailable("writing to the ledger", err)
	}
	return l.take(raw)
}

// take verifies a whole line and adds it to the known ones.
func (l *File) take(raw []byte) error {
	if _, err := l.chain.add(raw); err != nil {
		return err
	}
	l.ends = append(l.ends, l.end()+int64(len(raw))+1)
	return nil
}

// Entries implements Ledger. It does not lock the file while it visits, because lines do
// not change.
func (l *File) Entries(ctx context.Context, visit func(Entry) error) error {
	var end int64
	var known []hash
	if err := l.locked(ctx, func() error { end, known = l.end(), l.chain.hashes; return nil }); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(l.f, 0, end), maxLine)
	for n := range known {
		raw, err := r.ReadSlice('\n')
		if err != nil {
			return unavailable("reading the ledger", err)
		}
		raw = raw[:len(raw)-1]
		if hashOf(raw) != known[n] {
			return ErrBroken{Line: int64(n) + 1, Why: "it was changed while the ledger was open"}
		}
		if n == 0 {
			continue
		}
		e, err := parseEntry(raw)
		if err != nil {
			return ErrBroken{Line: int64(n) + 1, Why: err.Error()}
		}
		if err := errors.Join(ctx.Err(), visit(e)); err != nil {
			return err
		}
	}
	return nil
}

// Close implements Ledger.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// locked runs do while no other process writes, with all lines read.
func (l *File) locked(ctx context.Context, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := flock(ctx, l.f); err != nil {
		return unavailable("locking the ledger", err)
	}
	defer func() { _ = syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN) }()
	if err := l.inPlace(); err != nil {
		return err
	}
	if err := l.catchUp(); err != nil {
		return err
	}
	return do()
}

// flock waits for the lock as long as ctx allows.
func flock(ctx context.Context, f *os.File) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// inPlace refuses a file that is no longer the one at its path, because no later reader
// would find a line appended to it.
func (l *File) inPlace() error {
	if err := regular(l.path); err != nil {
		return err
	}
	at, err1 := os.Lstat(l.path)
	open, err2 := l.f.Stat()
	if err := errors.Join(err1, err2); err != nil {
		return unavailable("looking for the ledger", err)
	}
	if !os.SameFile(at, open) {
		return fmt.Errorf("the erasure ledger %s was replaced while it was open; restart, so that the new one is verified", l.path)
	}
	return nil
}

func (l *File) end() int64 {
	if len(l.ends) == 0 {
		return 0
	}
	return l.ends[len(l.ends)-1]
}

// catchUp reads and verifies the lines appended since the last call, removes a line that a
// crash left incomplete, and compares the lines with the head.
func (l *File) catchUp() error {
	counted, err := l.readHead()
	if err != nil {
		return err
	}
	st, err := l.f.Stat()
	if err != nil {
		return unavailable("reading the ledger", err)
	}
	if st.Size() < l.end() {
		have := int64(-1)
		for have+1 < int64(len(l.ends)) && l.ends[have+1] <= st.Size() {
			have++
		}
		return ErrCut{Have: max(have, 0), Want: l.chain.last()}
	}
	r := bufio.NewReaderSize(io.NewSectionReader(l.f, l.end(), st.Size()-l.end()), maxLine)
	for {
		raw, err := r.ReadSlice('\n')
		if err == io.EOF && len(raw) == 0 {
			break
		}
		next, raw := int64(len(l.ends)), bytes.Clone(raw)
		torn := err == io.EOF
		if err == nil && bytes.IndexByte(raw, 0) >= 0 { // a file system may fill with zeros what was not written
			_, after := r.Peek(1)
			torn = after == io.EOF
		}
		switch {
		case torn:
			return l.repair(counted, next)
		case errors.Is(err, bufio.ErrBufferFull):
			return ErrBroken{Line: next + 1, Why: "it is longer than any line of a ledger"}
		case err != nil:
			return unavailable("reading the ledger", err)
		}
		if err := l.take(raw[:len(raw)-1]); err != nil {
			return err
		}
	}
	return l.compare(counted)
}

// repair removes a torn last line, unless the head counts it: then it was whole once.
func (l *File) repair(counted *Head, torn int64) error {
	switch {
	case torn == 0:
		return ErrBroken{Line: 1, Why: "the header is torn"}
	case counted == nil:
		return ErrBroken{Line: torn + 1, Why: "it is torn, and without the head beside the ledger it is unknown whether it was whole"}
	case counted.Seq == torn:
		return ErrBroken{Line: torn + 1, Why: "it is torn, and the head beside the ledger counts it as whole"}
	}
	if err := l.compare(counted); err != nil {
		return err
	}
	if err := errors.Join(l.f.Truncate(l.end()), l.f.Sync()); err != nil {
		return unavailable("removing a torn line", err)
	}
	l.notes = append(l.notes, fmt.Sprintf("line %d was torn by a crash during a write that was not acknowledged; it was removed", torn+1))
	return nil
}

// compare checks that the lines contain the head.
func (l *File) compare(counted *Head) error {
	last := l.chain.last()
	switch {
	case last < 0:
		return ErrBroken{Line: 1, Why: "the file is empty"}
	case counted == nil:
		return nil
	case counted.LedgerID != l.chain.id:
		return ErrBroken{Line: 1, Why: "the head beside it is another ledger's"}
	case counted.Seq > last:
		return ErrCut{Have: last, Want: counted.Seq}
	case !l.chain.contains(counted.Seq, counted.Hash):
		return ErrBroken{Line: counted.Seq + 1, Why: "the head beside the ledger knows it with another hash"}
	}
	return nil
}

// headFile is the stored form of the head.
type headFile struct {
	V        int    `json:"v"`
	LedgerID string `json:"ledger_id"`
	Seq      int64  `json:"seq"`
	Hash     string `json:"hash"`
}

func headPath(path string) string { return path + ".head" }

// readHead returns nil when there is none.
func (l *File) readHead() (*Head, error) {
	raw, err := os.ReadFile(headPath(l.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("reading the ledger's head", err)
	}
	var h headFile
	if err := decode(bytes.TrimSuffix(raw, []byte("\n")), &h); err != nil || h.V != formatVersion || h.Seq < 0 {
		return nil, ErrBroken{Line: 0, Why: "it is not the head of a ledger"}
	}
	return &Head{h.LedgerID, h.Seq, h.Hash}, nil
}

// sync makes everything that was read durable and counts it in the head.
func (l *File) sync() error {
	counted, err := l.readHead()
	if err != nil {
		return err
	}
	h := l.chain.head(l.chain.last())
	if counted != nil && *counted == h {
		return nil
	}
	if err := l.f.Sync(); err != nil {
		return unavailable("flushing the ledger", err)
	}
	raw, err := json.Marshal(headFile{formatVersion, h.LedgerID, h.Seq, h.Hash})
	if err != nil {
		return fmt.Errorf("encoding the ledger's head: %w", err)
	}
	tmp, err := writeTemp(l.path, append(raw, '\n'))
	if err != nil {
		return unavailable("writing the ledger's head", err)
	}
	err = errors.Join(l.give(tmp), os.Rename(tmp, headPath(l.path)), syncDir(filepath.Dir(l.path)))
	if err != nil {
		_ = os.Remove(tmp)
		return unavailable("writing the ledger's head", err)
	}
	if counted == nil {
		l.notes = append(l.notes, "the ledger had no head beside it; one was made from the ledger as it is")
	}
	return nil
}

// give sets a file's owner to the ledger's owner, so that the service can still write the
// head after root ran a command.
func (l *File) give(path string) error {
	st, err := l.f.Stat()
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return os.Chown(path, int(sys.Uid), int(sys.Gid))
	}
	return nil
}

// writeTemp writes and flushes a file of mode 0600 beside path.
func writeTemp(path string, content []byte) (string, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ledger-*")
	if err != nil {
		return "", err
	}
	_, err = tmp.Write(content)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		_ = os.Remove(tmp.Name())
		return "", err
	}
	return tmp.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func unavailable(doing string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
}
