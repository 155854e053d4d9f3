package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/store/internal/pg"
)

// SignWith gives the log the key of its checkpoints. Their origin is the name of
// this log: random, the same after a dump and restore, and another for every
// database. Checkpoints that another key signed are then refused.
func (l *Log) SignWith(ctx context.Context, key ed25519.PrivateKey) error {
	var id string
	err := pg.Map(pg.Pool(l.db).QueryRow(ctx, `SELECT log_id::text FROM trakr.log_identity ORDER BY created_at LIMIT 1`).Scan(&id))
	if err != nil {
		return fmt.Errorf("reading the log's identity: %w", err)
	}
	origin := originPrefix + id
	if l.signer, err = merkle.NewSigner(origin, key); err != nil {
		return err
	}
	if l.vkey, err = merkle.VerifierKey(origin, key.Public().(ed25519.PublicKey)); err != nil {
		return err
	}
	l.verifier, err = merkle.ParseVerifier(l.vkey)
	return err
}

const originPrefix = "trakr-audit/"

// VerifierKey is the text of the public key with which anyone can check the log's
// checkpoints (C2SP signed-note). It must reach them by another way than those do.
func (l *Log) VerifierKey() string { return l.vkey }

// Signer signs with the log's key: certificates, in a domain of their own.
func (l *Log) Signer() note.Signer { return l.signer }

// Verifier checks the log's checkpoints.
func (l *Log) Verifier() note.Verifier { return l.verifier }

// cursor is the place of the last sequenced event. Within an epoch the pair
// (xid, id) orders events; an id alone does not, since it is given before the
// commit and a later commit can bear a smaller one.
type cursor struct {
	epoch int32
	xid   uint64
	id    int64
}

// Sequencer turns committed events into positions of the log. Only one process
// may use one at a time (the leader); a second one would be refused by the
// tables' keys, not corrupt them. It is not safe for concurrent use.
type Sequencer struct {
	log  *Log
	tree *merkle.Tree
	last cursor
}

// NewSequencer returns a sequencer of the log, which must have its key (SignWith).
func (l *Log) NewSequencer() (*Sequencer, error) {
	if l.signer == nil {
		return nil, errors.New("a log without a key cannot be sequenced")
	}
	return &Sequencer{log: l}, nil
}

// Bounds of a pass: one row of leaves holds leavesPerRow, a pass at most maxPass.
const (
	leavesPerRow = 1024
	maxPass      = 64 * leavesPerRow
)

// ErrFork means that the stored log does not agree with itself or with what this
// process has sequenced. Nothing is signed any more: see `trakr audit verify`.
var ErrFork = errors.New("the stored log is not the one that was sequenced; run: trakr audit verify")

// forked adds ErrFork to what only a changed log can cause; a database that does
// not answer causes none.
func forked(err error) error {
	if errors.Is(err, merkle.ErrInconsistent) || errors.Is(err, merkle.ErrProof) || errors.Is(err, merkle.ErrCheckpoint) {
		return errors.Join(ErrFork, err)
	}
	return err
}

// Pass sequences up to maxPass events that are committed and can have no older
// one still coming, and signs the new tree. It returns how many; zero means that
// nothing was waiting. Leaves, tiles and checkpoint are one transaction: a crash
// before its commit leaves nothing, one after it everything but the publication,
// which the next pass or the next start makes up.
func (s *Sequencer) Pass(ctx context.Context) (sequenced int, err error) {
	if err := s.catchUp(ctx); err != nil {
		return 0, err
	}
	grown, last := s.tree.Clone(), s.last
	err = pgx.BeginFunc(ctx, pg.Pool(s.log.db), func(tx pgx.Tx) error {
		rows, err := waiting(ctx, tx, s.last)
		if err != nil || len(rows) == 0 {
			return err
		}
		var leaves [][]any
		var tiles [][]any
		for _, run := range split(rows) {
			first := grown.Size()
			ids, hashes := make([]int64, len(run)), make([]byte, 0, len(run)*32)
			for i, r := range run {
				ids[i], hashes = r.id, append(hashes, r.leaf[:]...)
				for _, t := range grown.Append(r.leaf) {
					tiles = append(tiles, []any{int16(t.Level), t.N, t.Data})
				}
			}
			leaves = append(leaves, []any{first, run[0].epoch, run[0].xid, run[len(run)-1].xid, ids, hashes})
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"trakr", "audit_leaves"},
			[]string{"first_index", "epoch", "first_xid", "last_xid", "ids", "hashes"}, pgx.CopyFromRows(leaves)); err != nil {
			return err
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"trakr", "audit_tiles"},
			[]string{"level", "n", "data"}, pgx.CopyFromRows(tiles)); err != nil {
			return err
		}
		signed, err := merkle.Sign(merkle.Checkpoint{Origin: s.log.signer.Name(), Size: grown.Size(), Root: grown.Root()}, s.log.signer)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO trakr.audit_checkpoints (size, note) VALUES ($1, $2)`, grown.Size(), string(signed))
		if err != nil {
			return err
		}
		sequenced, last = len(rows), rows[len(rows)-1].cursor
		return nil
	})
	if err != nil {
		// The commit may or may not have happened: look again next time.
		s.tree = nil
		return 0, fmt.Errorf("sequencing: %w", pg.Map(err))
	}
	s.tree, s.last = grown, last
	return sequenced, nil
}

// catchUp makes the tree in memory the one that is stored: at the first pass, and
// after another process was the leader.
func (s *Sequencer) catchUp(ctx context.Context) error {
	size, last, err := s.log.stored(ctx)
	if err != nil {
		return err
	}
	if s.tree != nil && s.tree.Size() == size && s.last == last {
		return nil
	}
	tree := merkle.NewTree()
	if size > 0 {
		cp, err := s.log.checkpointAt(ctx, size)
		if err != nil {
			return err
		}
		if tree, err = merkle.Restore(ctx, s.log, size, cp.Root); err != nil {
			return fmt.Errorf("restoring the tree: %w", forked(err))
		}
	}
	s.tree, s.last = tree, last
	return nil
}

// stored is the size of the sequenced log and the place of its last event.
func (l *Log) stored(ctx context.Context) (size int64, last cursor, err error) {
	err = pg.Map(pg.Pool(l.db).QueryRow(ctx, `SELECT first_index + cardinality(ids), epoch, last_xid, ids[cardinality(ids)]
		FROM trakr.audit_leaves ORDER BY first_index DESC LIMIT 1`).Scan(&size, &last.epoch, &last.xid, &last.id))
	if errors.Is(err, pg.ErrNoRows) {
		return 0, cursor{}, nil
	}
	if err != nil {
		return 0, cursor{}, fmt.Errorf("reading the log's end: %w", err)
	}
	return size, last, nil
}

// waitingEvent is one committed event on its way to a position.
type waitingEvent struct {
	cursor
	leaf merkle.Hash
}

// waiting reads what comes next. In the running epoch only transactions below the
// snapshot's xmin are taken: all of them have ended, so none can still put an
// event before one that is taken now. An older epoch's ended with its cluster.
// The order is by the xid8 column itself; its text would sort 10 before 9.
func waiting(ctx context.Context, tx pgx.Tx, after cursor) ([]waitingEvent, error) {
	// With millions waiting, a plan that sorts them reads and hashes all of them for
	// each pass. The index returns the first ones in order, whatever the statistics are.
	if _, err := tx.Exec(ctx, `SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off`); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT e.epoch, e.xid, e.id, sha256('\x00'::bytea || e.record)
		FROM trakr.audit_events AS e
		WHERE (e.epoch, e.xid, e.id) > ($1, $2, $3)
			AND (e.xid < pg_snapshot_xmin(pg_current_snapshot()) OR e.epoch < (SELECT max(n.epoch) FROM trakr.log_epochs AS n))
		ORDER BY e.epoch, e.xid, e.id LIMIT $4`, after.epoch, after.xid, after.id, maxPass)
	if err != nil {
		return nil, err
	}
	var out []waitingEvent
	var r waitingEvent
	var leaf []byte
	_, err = pgx.ForEachRow(rows, []any{&r.epoch, &r.xid, &r.id, &leaf}, func() error {
		copy(r.leaf[:], leaf)
		out = append(out, r)
		return nil
	})
	return out, err
}

// split cuts events into runs for one row each: of one epoch, and not too long.
func split(all []waitingEvent) [][]waitingEvent {
	var out [][]waitingEvent
	for len(all) > 0 {
		n := 1
		for n < len(all) && n < leavesPerRow && all[n].epoch == all[0].epoch {
			n++
		}
		out, all = append(out, all[:n]), all[n:]
	}
	return out
}

// Tiles implements merkle.Reader.
func (l *Log) Tiles(ctx context.Context, level int, from, to int64) ([]byte, error) {
	rows, err := pg.Pool(l.db).Query(ctx, `SELECT data FROM trakr.audit_tiles WHERE level = $1 AND n >= $2 AND n < $3 ORDER BY n`,
		int16(level), from, to)
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", pg.Map(err))
	}
	var out, data []byte
	_, err = pgx.ForEachRow(rows, []any{&data}, func() error { out = append(out, data...); return nil })
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", pg.Map(err))
	}
	return out, nil
}

// Leaves implements merkle.Reader.
func (l *Log) Leaves(ctx context.Context, from, to int64) ([]byte, error) {
	rows, err := pg.Pool(l.db).Query(ctx, `SELECT substring(hashes FROM (32 * greatest($1 - first_index, 0) + 1)::integer
			FOR (32 * (least($2, first_index + cardinality(ids)) - greatest($1, first_index)))::integer)
		FROM trakr.audit_leaves WHERE first_index < $2
			AND first_index >= coalesce((SELECT max(first_index) FROM trakr.audit_leaves WHERE first_index <= $1), 0)
		ORDER BY first_index`, from, to)
	if err != nil {
		return nil, fmt.Errorf("reading leaves: %w", pg.Map(err))
	}
	var out, part []byte
	_, err = pgx.ForEachRow(rows, []any{&part}, func() error { out = append(out, part...); return nil })
	if err != nil {
		return nil, fmt.Errorf("reading leaves: %w", pg.Map(err))
	}
	return out, nil
}

// Checkpoint is a signed tree head as it is stored.
type Checkpoint struct {
	merkle.Checkpoint
	Note     []byte // the signed note, C2SP tlog-checkpoint
	SignedAt time.Time
}

// ErrNoCheckpoint means that nothing was sequenced yet.
var ErrNoCheckpoint = lifecycle.Fail(lifecycle.NotFound, "There is no checkpoint yet: none of the log's events has been sequenced. "+
	"The running service does that within seconds.")

// Latest returns the newest checkpoint.
func (l *Log) Latest(ctx context.Context) (Checkpoint, error) {
	size, _, err := l.stored(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	if size == 0 {
		return Checkpoint{}, ErrNoCheckpoint
	}
	return l.checkpointAt(ctx, size)
}

// checkpointAt returns the checkpoint of exactly that size. One that is missing,
// or not signed with the log's key, is a fork.
func (l *Log) checkpointAt(ctx context.Context, size int64) (Checkpoint, error) {
	var signed string
	var at time.Time
	err := pg.Map(pg.Pool(l.db).QueryRow(ctx, `SELECT note, signed_at FROM trakr.audit_checkpoints WHERE size = $1`, size).
		Scan(&signed, &at))
	if errors.Is(err, pg.ErrNoRows) {
		return Checkpoint{}, fmt.Errorf("reading the checkpoint of size %d: it is missing: %w", size, ErrFork)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading a checkpoint: %w", err)
	}
	cp, err := merkle.Open([]byte(signed), l.verifier)
	if err == nil && cp.Size != size {
		err = ErrFork
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading the checkpoint of size %d: %w", size, forked(err))
	}
	return Checkpoint{Checkpoint: cp, Note: []byte(signed), SignedAt: at.UTC()}, nil
}

// Backlog is how far the sequencer is behind.
type Backlog struct {
	Size   int64     // of the sequenced log
	Oldest time.Time // recorded_at of the oldest event that waits; zero when none does
}

// Backlog returns how far the sequencer is behind.
func (l *Log) Backlog(ctx context.Context) (Backlog, error) {
	size, last, err := l.stored(ctx)
	if err != nil {
		return Backlog{}, err
	}
	b := Backlog{Size: size}
	err = pg.Map(pg.Pool(l.db).QueryRow(ctx, `SELECT recorded_at FROM trakr.audit_events
		WHERE (epoch, xid, id) > ($1, $2, $3) ORDER BY epoch, xid, id LIMIT 1`, last.epoch, last.xid, last.id).Scan(&b.Oldest))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Backlog{}, fmt.Errorf("reading the log's backlog: %w", err)
	}
	b.Oldest = b.Oldest.UTC()
	return b, nil
}

// MakePartitions makes the months to come, so that no event lacks a place.
func (l *Log) MakePartitions(ctx context.Context, ahead int) (made int, err error) {
	err = pg.Map(pg.Pool(l.db).QueryRow(ctx, `SELECT door.make_partitions($1)`, ahead).Scan(&made))
	if err != nil {
		return 0, fmt.Errorf("making the audit's partitions: %w", err)
	}
	return made, nil
}

// Contains checks that the stored log begins with the tree of an older checkpoint,
// kept elsewhere. A log that is shorter, or another one, is a fork.
func (l *Log) Contains(ctx context.Context, old merkle.Checkpoint) error {
	latest, err := l.Latest(ctx)
	if errors.Is(err, ErrNoCheckpoint) {
		latest, err = Checkpoint{}, nil
	}
	if err != nil {
		return err
	}
	if old.Size > latest.Size {
		return fmt.Errorf("the log has %d events and once had %d, its tail was cut from position %d on: %w",
			latest.Size, old.Size, latest.Size, ErrFork)
	}
	tree, err := merkle.Restore(ctx, l, latest.Size, latest.Root)
	if err != nil {
		return forked(err)
	}
	proof, err := merkle.NewProver(tree, l).Consistency(ctx, old.Size)
	if err == nil {
		err = merkle.VerifyConsistency(proof, old.Size, old.Root, latest.Size, latest.Root)
	}
	if err != nil {
		return fmt.Errorf("the log does not begin with the %d events of the checkpoint: %w", old.Size, forked(err))
	}
	return nil
}
