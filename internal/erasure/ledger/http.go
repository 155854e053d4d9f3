package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"trakr/internal/lifecycle"
)

// HTTPConfig is the place of a ledger over HTTP.
type HTTPConfig struct {
	// URL is the base address. Each line is an object below it, named by its number in 12
	// digits. The scheme is https, or http on this machine.
	URL   string
	Token lifecycle.Secret // sent as bearer token, unless empty
}

// HTTP is a ledger whose lines are objects of a store that honours
// "If-None-Match: *" (RFC 9110 §13.1.2): only the first writer of a number succeeds, and no
// line is ever overwritten. This type does not notice that a line was removed from the end
// before this process read it; the database knows the hashes of the lines that it noted.
type HTTP struct {
	base   string
	token  lifecycle.Secret
	client *http.Client

	mu    sync.Mutex
	chain chain
}

const (
	httpTimeout = 10 * time.Second
	maxWindow   = 16 // objects read at a time
	maxRaces    = 32 // attempts of one append that other processes may win
)

// OpenHTTP reads and verifies a ledger. It also tests that the store refuses to overwrite
// an existing object, on which every promise of HTTP depends.
//
// Errors: ErrMissing, ErrBroken, ErrUnavailable.
func OpenHTTP(ctx context.Context, c HTTPConfig) (*HTTP, error) {
	l, err := newHTTP(c)
	if err != nil {
		return nil, err
	}
	raw, err := l.get(ctx, 0)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, fmt.Errorf("%w at the address that is set for it", ErrMissing)
	}
	if _, err := l.chain.add(raw); err != nil {
		return nil, err
	}
	// The bytes are the stored ones: a store that overwrites them loses nothing.
	taken, err := l.put(ctx, 0, raw)
	if err != nil {
		return nil, err
	}
	if taken {
		return nil, errors.New("the store of the erasure ledger ignores If-None-Match, " +
			"so one line could overwrite another; use one that honours it")
	}
	if err := l.catchUp(ctx, maxWindow); err != nil {
		return nil, err
	}
	return l, nil
}

// CreateHTTP makes a new ledger and opens it. An existing one is never replaced: the
// error is then fs.ErrExist.
func CreateHTTP(ctx context.Context, c HTTPConfig, now time.Time) (*HTTP, error) {
	l, err := newHTTP(c)
	if err != nil {
		return nil, err
	}
	there, err := l.get(ctx, 0)
	if err != nil {
		return nil, err
	}
	raw, err := newHeader(now)
	if err != nil {
		return nil, err
	}
	taken := false
	if there == nil {
		if taken, err = l.put(ctx, 0, raw); err != nil {
			return nil, err
		}
	}
	if !taken {
		return nil, fmt.Errorf("creating the erasure ledger: %w", fs.ErrExist)
	}
	return OpenHTTP(ctx, c)
}

func newHTTP(c HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the erasure ledger's address must be https://host/path, without a query; a token is set apart")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return nil, errors.New("the erasure ledger's address must be https; http only on this machine")
	}
	return &HTTP{base: strings.TrimSuffix(u.String(), "/"), token: c.Token, client: &http.Client{
		Timeout:       httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: maxWindow,
			IdleConnTimeout: time.Minute, TLSHandshakeTimeout: httpTimeout,
		},
	}}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// Name implements Ledger.
func (*HTTP) Name() string { return "http" }

// Head implements Ledger.
func (l *HTTP) Head(ctx context.Context) (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx, 1); err != nil {
		return Head{}, err
	}
	return l.chain.head(l.chain.last()), nil
}

// Contains implements Ledger.
func (l *HTTP) Contains(ctx context.Context, seq int64, hash string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx, 1); err != nil {
		return false, err
	}
	return l.chain.contains(seq, hash), nil
}

// Lacks implements Ledger.
func (l *HTTP) Lacks(ctx context.Context, all []Entry) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx, 1); err != nil {
		return nil, err
	}
	return l.chain.lacks(all), nil
}

// Append implements Ledger. When the response to a write is lost, the line may be stored;
// the next Append of the same entry finds it.
func (l *HTTP) Append(ctx context.Context, e Entry) (Head, error) {
	if err := e.appendable(); err != nil {
		return Head{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for range maxRaces {
		if err := l.catchUp(ctx, 1); err != nil {
			return Head{}, err
		}
		if seq, ok := l.chain.known[e.key()]; ok {
			return l.chain.head(seq), nil
		}
		raw, err := l.chain.next(e)
		if err != nil {
			return Head{}, fmt.Errorf("encoding an entry of the erasure ledger: %w", err)
		}
		seq := l.chain.last() + 1
		taken, err := l.put(ctx, seq, raw)
		if err != nil {
			return Head{}, err
		}
		if !taken { // another process was first
			continue
		}
		// An entry is acknowledged only if it can be read.
		back, err := l.get(ctx, seq)
		if err != nil {
			return Head{}, err
		}
		if !bytes.Equal(back, raw) {
			return Head{}, unavailable("reading a new entry", errors.New("the store did not keep the bytes that it accepted"))
		}
		if _, err := l.chain.add(raw); err != nil {
			return Head{}, err
		}
		return l.chain.head(seq), nil
	}
	return Head{}, unavailable("appending to the ledger", errors.New("other processes wrote the next line first too often"))
}

// Entries implements Ledger.
func (l *HTTP) Entries(ctx context.Context, visit func(Entry) error) error {
	l.mu.Lock()
	err := l.catchUp(ctx, 1)
	known := l.chain.hashes
	l.mu.Unlock()
	if err != nil {
		return err
	}
	for from := 1; from < len(known); from += maxWindow {
		lines, err := l.window(ctx, int64(from), min(maxWindow, len(known)-from))
		if err != nil {
			return err
		}
		for i, raw := range lines {
			n := from + i
			if raw == nil || hashOf(raw) != known[n] {
				return ErrBroken{Line: int64(n) + 1, Why: "it was changed or removed while the ledger was open"}
			}
			e, err := parseEntry(raw)
			if err != nil {
				return ErrBroken{Line: int64(n) + 1, Why: err.Error()}
			}
			if err := errors.Join(ctx.Err(), visit(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements Ledger.
func (l *HTTP) Close() error { l.client.CloseIdleConnections(); return nil }

// catchUp reads the lines after the newest known one, which must still exist unchanged. It
// reads width lines at a time, and doubles the width while it finds lines.
func (l *HTTP) catchUp(ctx context.Context, width int) error {
	last := l.chain.last()
	raw, err := l.get(ctx, last)
	switch {
	case err != nil:
		return err
	case raw == nil:
		return ErrCut{Have: max(last-1, 0), Want: last}
	case hashOf(raw) != l.chain.hashes[last]:
		return ErrBroken{Line: last + 1, Why: "it was changed while the ledger was open"}
	}
	for {
		lines, err := l.window(ctx, l.chain.last()+1, width)
		if err != nil {
			return err
		}
		for i, raw := range lines {
			if raw == nil && slices.ContainsFunc(lines[i+1:], func(later []byte) bool { return later != nil }) {
				// Written between two of the reads, or missing.
				if raw, err = l.get(ctx, l.chain.last()+1); err != nil {
					return err
				}
				if raw == nil {
					return ErrBroken{Line: l.chain.last() + 2, Why: "it is missing, and later ones are there"}
				}
			}
			if raw == nil {
				return nil
			}
			if _, err := l.chain.add(raw); err != nil {
				return err
			}
		}
		width = min(2*width, maxWindow)
	}
}

// window reads n lines concurrently; a line that does not exist is nil.
func (l *HTTP) window(ctx context.Context, from int64, n int) ([][]byte, error) {
	lines, errs := make([][]byte, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { lines[i], errs[i] = l.get(ctx, from+int64(i)) })
	}
	wg.Wait()
	return lines, errors.Join(errs...)
}

// get reads one line without its newline; nil when it does not exist. Every other response
// is an error.
func (l *HTTP) get(ctx context.Context, seq int64) ([]byte, error) {
	status, body, err := l.do(ctx, http.MethodGet, seq, nil)
	switch {
	case err != nil:
		return nil, unavailable("reading the ledger", err)
	case status == http.StatusNotFound:
		return nil, nil
	case status != http.StatusOK:
		return nil, unavailable("reading the ledger", fmt.Errorf("its store answered %d", status))
	case len(body) > maxLine || !bytes.HasSuffix(body, []byte("\n")):
		return nil, ErrBroken{Line: seq + 1, Why: "it is not a line of a ledger"}
	}
	return body[:len(body)-1], nil
}

// put writes one line unless it exists; it returns false if it does.
func (l *HTTP) put(ctx context.Context, seq int64, raw []byte) (bool, error) {
	status, _, err := l.do(ctx, http.MethodPut, seq, append(bytes.Clone(raw), '\n'))
	switch {
	case err != nil:
		return false, unavailable("writing to the ledger", err)
	case status == http.StatusConflict || status == http.StatusPreconditionFailed:
		return false, nil
	case status == http.StatusOK || status == http.StatusCreated || status == http.StatusNoContent:
		return true, nil
	}
	return false, unavailable("writing to the ledger", fmt.Errorf("its store answered %d", status))
}

// do makes one call. It does not return the errors of net/http, because they contain the
// address, which may be a secret like the token.
func (l *HTTP) do(ctx context.Context, method string, seq int64, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/%012d", l.base, seq), bytes.NewReader(body))
	if err != nil {
		return 0, nil, errors.New("no request could be made")
	}
	if !l.token.Empty() {
		req.Header.Set("Authorization", "Bearer "+l.token.Reveal())
	}
	if method == http.MethodPut {
		req.Header.Set("If-None-Match", "*")
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, nil, cause(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxLine+1))
	if err != nil {
		return 0, nil, cause(ctx, err)
	}
	return resp.StatusCode, b, nil
}

func cause(ctx context.Context, err error) error {
	var t interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &t) && t.Timeout():
		return errors.New("its store did not answer in time")
	}
	return errors.New("its store cannot be reached")
}
