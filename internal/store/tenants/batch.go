package tenants

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Bounds of group commit. One batch is on its way while the next one gathers: a
// second one under way at the same time makes both small and both wait for the same
// disk. It pays only when more wait than are worth waiting for.
const (
	maxBatch     = 256 // door.read takes no more
	enough       = 64  // waiting requests that get a second batch under way
	queueLength  = 4096
	batchTimeout = 5 * time.Second // the time budget of a read, store outage included
)

// readValues records one read per element and returns the tenant's values: ord is the
// element's number, from 1. It is the hot path and its own transaction.
const readValues = `SELECT ord, state, ` + valueColumns + ` FROM door.read($1)`

// request is one read on its way through the batcher.
type request struct {
	record []byte      // canonical bytes of its event
	done   chan answer // buffered: a caller that gave up is not waited for
}

// answer is what the database returned for one request.
type answer struct {
	state  lifecycle.TenantState // Live; else nothing was recorded and nothing returned
	stored encrypted
	err    error
}

// batcher commits the reads that wait together in one statement. There is no
// timer: a lone caller is served at once, and while a commit is being written to
// disk the requests that arrive form the next batch. A caller gets its row only after the
// server has confirmed the commit of the batch it was in.
type batcher struct {
	db    *store.DB
	queue chan *request
	more  chan struct{} // enough requests wait for the second worker
	stop  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once
}

func newBatcher(db *store.DB) *batcher {
	b := &batcher{db: db, queue: make(chan *request, queueLength), more: make(chan struct{}, 1), stop: make(chan struct{})}
	b.wg.Go(b.work)
	b.wg.Go(b.help)
	return b
}

// close ends the workers after the batch they are at.
func (b *batcher) close() {
	b.once.Do(func() { close(b.stop) })
	b.wg.Wait()
}

// read waits for its turn, the commit, and the row. A caller that gives up gets
// nothing; its event may be recorded all the same, which errs on the safe side.
func (b *batcher) read(ctx context.Context, record []byte) answer {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	r := &request{record: record, done: make(chan answer, 1)}
	select {
	case b.queue <- r:
	case <-b.stop:
		return answer{err: errStopped}
	case <-ctx.Done():
		return answer{err: pg.Map(ctx.Err())}
	}
	if len(b.queue) >= enough {
		select {
		case b.more <- struct{}{}:
		default: // it is awake already
		}
	}
	select {
	case a := <-r.done:
		return a
	case <-b.stop:
		select { // it may have been served in the last batch
		case a := <-r.done:
			return a
		case <-time.After(batchTimeout):
			return answer{err: errStopped}
		}
	case <-ctx.Done():
		return answer{err: pg.Map(ctx.Err())}
	}
}

var errStopped = lifecycle.Fail(lifecycle.StoreUnavailable, "The service is stopping; nothing was released. Try again.",
	lifecycle.After(5*time.Second))

// work serves waiting requests until the batcher is closed.
func (b *batcher) work() {
	batch := make([]*request, 0, maxBatch)
	for {
		select {
		case r := <-b.queue:
			b.serve(b.gather(append(batch[:0], r)))
		case <-b.stop:
			return
		}
	}
}

// help is the second worker: it serves what has piled up while work is busy.
func (b *batcher) help() {
	batch := make([]*request, 0, maxBatch)
	for {
		select {
		case <-b.more:
			if all := b.gather(batch[:0]); len(all) > 0 {
				b.serve(all)
			}
		case <-b.stop:
			return
		}
	}
}

// gather adds to a batch what waits at this moment.
func (b *batcher) gather(batch []*request) []*request {
	for len(batch) < maxBatch {
		select {
		case r := <-b.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// serve runs one batch. When the database refuses it, it was rolled back whole,
// and each request is tried alone, so that one bad record does not fail the others.
// After a lost connection nothing is tried again: the commit may have happened,
// and a second try would record a second event for one answer.
func (b *batcher) serve(batch []*request) {
	answers, err := b.commit(batch)
	if pg.Overtaken(err) { // by an erasure: the next look sees it
		answers, err = b.commit(batch)
	}
	switch {
	case err == nil:
		for i, r := range batch {
			r.done <- answers[i]
		}
	case len(batch) > 1 && pg.RolledBack(err):
		for _, r := range batch {
			b.serve([]*request{r})
		}
	default:
		for _, r := range batch {
			r.done <- answer{err: err}
		}
	}
}

// commit runs the one statement, which is its own transaction. Rows arrive before
// it commits; nothing counts until the rows are closed without an error, which is
// when the server has confirmed the commit.
func (b *batcher) commit(batch []*request) ([]answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	records := make([][]byte, len(batch))
	for i, r := range batch {
		records[i] = r.record
	}
	rows, err := pg.Pool(b.db).Query(ctx,
		readValues, records)
	if err != nil {
		return nil, pg.Map(err)
	}
	answers := make([]answer, len(batch))
	seen := 0
	var ord int
	var a answer
	into := []any{&ord, &a.state}
	for i := range a.stored {
		into = append(into, &a.stored[i])
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		if ord < 1 || ord > len(batch) || answers[ord-1].state != "" {
			return errors.New("door.read returned a row that was not requested")
		}
		answers[ord-1] = a
		seen++
		return nil
	})
	if err == nil && seen != len(batch) {
		err = errors.New("door.read did not return every recorded read")
	}
	if err != nil {
		return nil, pg.Map(err)
	}
	return answers, nil
}

// released reports what an answer means for its caller.
func (a answer) released() error {
	switch {
	case a.err != nil:
		return audit.Unavailable(a.err)
	case a.state == lifecycle.Live:
		return nil
	case a.state == lifecycle.Erased, a.state == lifecycle.Erasing:
		return errErased()
	}
	return errUnknown()
}
