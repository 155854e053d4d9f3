package audit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/store/internal/pg"
)

// Proof shows that one event is at its position in the log, to anyone who
// knows the log's public key: SHA-256(0x00 || record) is the leaf (RFC 6962).
type Proof struct {
	EventID    string   `json:"event_id" doc:"UUIDv7"`
	LogIndex   int64    `json:"log_index" doc:"position in the log, from 0"`
	Record     string   `json:"record" doc:"the exact canonical bytes (RFC 8785) that are hashed"`
	Inclusion  []string `json:"inclusion" doc:"audit path, RFC 6962 section 2.1.1; base64"`
	Checkpoint string   `json:"checkpoint" doc:"signed tree head, C2SP tlog-checkpoint"`
	Key        string   `json:"key" doc:"the log's public key (C2SP signed-note); compare it with the one you were given before"`
}

// Consistency shows that the log of a checkpoint only grew since an older size.
type Consistency struct {
	From       int64    `json:"from" doc:"size of the older checkpoint"`
	Hashes     []string `json:"hashes" doc:"consistency proof, RFC 6962 section 2.1.2; base64"`
	Checkpoint string   `json:"checkpoint" doc:"signed tree head, C2SP tlog-checkpoint"`
	Key        string   `json:"key" doc:"the log's public key, C2SP signed-note"`
}

// edge keeps the tree of the newest checkpoint asked for: rebuilding it reads up
// to some megabytes.
type edge struct {
	mu   sync.Mutex
	tree *merkle.Tree
}

// prover returns a prover for the newest checkpoint.
func (l *Log) prover(ctx context.Context) (*merkle.Prover, Checkpoint, error) {
	cp, err := l.Latest(ctx)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	l.edge.mu.Lock()
	defer l.edge.mu.Unlock()
	if l.edge.tree == nil || l.edge.tree.Size() != cp.Size {
		tree, err := merkle.Restore(ctx, l, cp.Size, cp.Root)
		if err != nil {
			return nil, Checkpoint{}, fmt.Errorf("restoring the tree: %w", forked(err))
		}
		l.edge.tree = tree
	}
	return merkle.NewProver(l.edge.tree, l), cp, nil
}

// Prove returns the proof of one event, which it reads under the caller's name:
// the reading is recorded. An event without a position yet is not-found, with the
// time to wait.
func (l *Log) Prove(ctx context.Context, a lifecycle.Access, eventID string) (Proof, error) {
	id, err := uuid.Parse(eventID)
	if err != nil || len(eventID) != 36 {
		return Proof{}, lifecycle.Fail(lifecycle.RequestInvalid, "An event is named by its event_id, a UUID.",
			lifecycle.At("/event_id", "not a uuid"))
	}
	if err := l.reading(ctx, a, "proof"); err != nil {
		return Proof{}, err
	}
	p, cp, err := l.prover(ctx)
	if err != nil {
		return Proof{}, err
	}
	e := placed{id: id.String()}
	err = pg.Map(pg.Pool(l.db).QueryRow(ctx, selectPlaced+` WHERE e.event_id = $1`, id).Scan(&e.id, &e.record, &e.index))
	switch {
	case errors.Is(err, pg.ErrNoRows):
		return Proof{}, lifecycle.Fail(lifecycle.NotFound, "There is no event with this id.")
	case err != nil:
		return Proof{}, fmt.Errorf("reading an event: %w", err)
	}
	return l.proof(ctx, p, cp, e)
}

// placed is one event with its position in the log.
type placed struct {
	id     string
	record []byte
	index  *int64 // nil: it has none yet
}

// selectPlaced selects them; its caller adds a condition.
const selectPlaced = `SELECT e.event_id::text, e.record, l.first_index + array_position(l.ids, e.id) - 1 FROM trakr.audit_events AS e
	LEFT JOIN LATERAL (` + leavesOf + `) AS l ON true`

// proof proves one event at its position, against a checkpoint.
func (l *Log) proof(ctx context.Context, p *merkle.Prover, cp Checkpoint, e placed) (Proof, error) {
	if e.index == nil || *e.index >= cp.Size {
		return Proof{}, errNoPosition
	}
	hashes, err := p.Inclusion(ctx, *e.index)
	if err == nil {
		err = merkle.VerifyInclusion(hashes, cp.Size, cp.Root, *e.index, merkle.LeafHash(e.record))
	}
	if err != nil {
		return Proof{}, fmt.Errorf("proving an event: %w", forked(err))
	}
	return Proof{EventID: e.id, LogIndex: *e.index, Record: string(e.record), Inclusion: texts(hashes),
		Checkpoint: string(cp.Note), Key: l.vkey}, nil
}

// errNoPosition answers a request that comes too early.
var errNoPosition = lifecycle.Fail(lifecycle.NotFound, "The event has no position in the log yet; it gets one within seconds.",
	lifecycle.After(sequencedWithin))

// Evidence proves every successful event of an act of several steps, in the order of
// the log and against one checkpoint: those with this correlation id and tenant (the
// zero one for an act that concerns none), recorded since. It is for documents of our
// own, whose issue is an event of its own. An event without a position is not-found,
// with the time to wait.
func (l *Log) Evidence(ctx context.Context, tenant lifecycle.TenantID, correlation string, since time.Time, actions ...Action,
) ([]Proof, error) {
	p, cp, err := l.prover(ctx)
	if err != nil {
		return nil, err
	}
	// Two conditions, since each can use the index on tenant_id.
	whose, args := "e.tenant_id IS NULL", []any{correlation, since, actions}
	if !tenant.IsZero() {
		whose, args = "e.tenant_id = $4", append(args, tenant.String())
	}
	rows, err := pg.Pool(l.db).Query(ctx, selectPlaced+` WHERE `+whose+`
		AND e.correlation_id = $1 AND e.recorded_at >= $2 AND e.action = ANY ($3) AND e.outcome = 'success'
		ORDER BY e.epoch, e.xid, e.id`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the events of an act: %w", pg.Map(err))
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (e placed, err error) {
		return e, r.Scan(&e.id, &e.record, &e.index)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the events of an act: %w", pg.Map(err))
	}
	out := make([]Proof, 0, len(all))
	for _, e := range all {
		proof, err := l.proof(ctx, p, cp, e)
		if err != nil {
			return nil, err
		}
		out = append(out, proof)
	}
	return out, nil
}

// ProveGrowth returns the proof that the newest checkpoint's log begins with the
// first from events.
func (l *Log) ProveGrowth(ctx context.Context, from int64) (Consistency, error) {
	p, cp, err := l.prover(ctx)
	if err != nil {
		return Consistency{}, err
	}
	if from < 0 || from > cp.Size {
		return Consistency{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"The older size is between 0 and the size of the newest checkpoint.", lifecycle.At("/from", "out of range"))
	}
	hashes, err := p.Consistency(ctx, from)
	if err != nil {
		return Consistency{}, fmt.Errorf("proving the log's growth: %w", forked(err))
	}
	return Consistency{From: from, Hashes: texts(hashes), Checkpoint: string(cp.Note), Key: l.vkey}, nil
}

// leavesOf finds the row of leaves that has event e, if any has.
const leavesOf = `SELECT x.first_index, x.ids FROM trakr.audit_leaves AS x
	WHERE (x.epoch, x.first_xid, x.ids[1]) <= (e.epoch, e.xid, e.id) ORDER BY x.epoch DESC, x.first_xid DESC, x.ids[1] DESC LIMIT 1`

func texts(hashes []merkle.Hash) []string {
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return out
}
