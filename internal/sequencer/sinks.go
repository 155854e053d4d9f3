package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// File keeps the newest checkpoint in a file that is always whole, and one an
// hour in a history beside it. It belongs on another volume than the database.
type File struct{ path string }

// NewFile returns the sink of a file; its directory is made when missing.
func NewFile(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the checkpoint's directory: %w", err)
	}
	return &File{path}, nil
}

// Name implements Sink.
func (*File) Name() string { return "file" }

// Last implements Sink.
func (f *File) Last(context.Context) ([]byte, error) {
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SetAside renames the kept checkpoint and returns its new path, for an operator who knows
// why the log does not continue from it: a restored backup. It is never deleted, since it
// proves the lost tail later.
func (f *File) SetAside(size int64) (string, error) {
	to := f.path + ".lost-" + strconv.FormatInt(size, 10)
	if err := os.Rename(f.path, to); err != nil {
		return "", fmt.Errorf("setting the checkpoint aside: %w", err)
	}
	return to, nil
}

const historyEvery = time.Hour

// Publish implements Sink. A crash before the rename leaves the older checkpoint;
// one between rename and history leaves a gap in the history, which only
// documents.
func (f *File) Publish(_ context.Context, signed []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".checkpoint-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(signed)
	// It has no secret, and reviewers' tools should be able to read it.
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), f.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return err
	}
	return f.remember(signed)
}

// remember appends to the history when its newest entry is old.
func (f *File) remember(signed []byte) error {
	path := f.path + ".history"
	if st, err := os.Stat(path); err == nil && time.Since(st.ModTime()) < historyEvery {
		return nil
	}
	h, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = h.Write(append(bytes.Clone(signed), '\n'))
	return errors.Join(err, h.Sync(), h.Close())
}

// HTTP posts each checkpoint to an endpoint outside the service: a witness, a
// reviewer, a bucket behind a gateway.
type HTTP struct {
	url    string
	client *http.Client
}

// NewHTTP returns the sink of an endpoint, which answers 2xx when it keeps what
// it was sent.
func NewHTTP(url string) *HTTP {
	return &HTTP{url: url, client: &http.Client{Timeout: 5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Name implements Sink.
func (*HTTP) Name() string { return "http" }

// Last implements Sink: the endpoint is not asked.
func (*HTTP) Last(context.Context) ([]byte, error) { return nil, nil }

// Publish implements Sink.
func (h *HTTP) Publish(ctx context.Context, signed []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(signed))
	if err != nil {
		return errors.New("the endpoint's address cannot be used")
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := h.client.Do(req)
	if err != nil {
		return errors.New("the endpoint does not answer") // the error itself names its address
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the endpoint answered %d", resp.StatusCode)
	}
	return nil
}
