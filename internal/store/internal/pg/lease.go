package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"trakr/internal/lifecycle"
)

// Lease is a lock of one connection to the primary. It ends with Release
// or with the connection, whichever comes first; Held reports it.
type Lease struct {
	conn *pgxpool.Conn
	name string
}

// TryLease takes the lock of that name unless another session has it. It refuses on a
// standby, where every session would be given the lock.
func TryLease(ctx context.Context, d *DB, name string) (*Lease, bool, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, false, Map(err)
	}
	var standby, got bool
	err = conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby)
	if err == nil && standby {
		err = lifecycle.Fail(lifecycle.StoreUnavailable, "This database is a standby; locks are taken on the primary only.")
	}
	if err == nil {
		err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, "trakr/"+name).Scan(&got)
	}
	if err != nil || !got {
		conn.Release()
		return nil, false, Map(err)
	}
	return &Lease{conn: conn, name: name}, true, nil
}

// Held reports whether the connection that has the lock still answers.
func (l *Lease) Held(ctx context.Context) bool { return l.conn.Ping(ctx) == nil }

// Release frees the lock. It works after the caller's context has ended;
// when the unlock cannot be confirmed the connection is closed, which unlocks too.
func (l *Lease) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var ok bool
	err := l.conn.QueryRow(ctx, `SELECT pg_advisory_unlock(hashtextextended($1, 0))`, "trakr/"+l.name).Scan(&ok)
	if err != nil || !ok {
		_ = l.conn.Conn().Close(ctx)
	}
	l.conn.Release()
}
