package pg

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"trakr/internal/lifecycle"
)

// Refused is a statement the database refused. It keeps the SQLSTATE and the
// constraint's name and nothing else: message, detail and hint quote values.
type Refused struct {
	State      string // five characters, PostgreSQL appendix A
	Constraint string // "" when none is named
}

// Error implements error.
func (r *Refused) Error() string {
	if r.Constraint != "" {
		return "the database refused (SQLSTATE " + r.State + ", constraint " + r.Constraint + ")"
	}
	return "the database refused (SQLSTATE " + r.State + ")"
}

// ErrNoRows means that a query found nothing; Map passes it on.
var ErrNoRows = errors.New("no rows")

// Map turns a database error into one of the domain. A database that does not
// answer is store-unavailable, and never "no rows"; a refused statement is a
// *Refused. A Fault passes unchanged.
func Map(err error) error {
	var fault *lifecycle.Fault
	var kind lifecycle.Kind
	var refused *Refused
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fault), errors.As(err, &kind), errors.As(err, &refused), errors.Is(err, ErrNoRows):
		return err
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, pgx.ErrNoRows):
		return ErrNoRows
	case errors.As(err, &pgErr):
		r := &Refused{State: pgErr.Code, Constraint: pgErr.ConstraintName}
		if unavailable(pgErr.Code) {
			return down(r)
		}
		return r
	case errors.Is(err, context.DeadlineExceeded):
		return down(errors.New("the database did not answer in time"))
	case errors.Is(err, context.Canceled):
		return down(context.Canceled)
	case errors.As(err, new(*pgconn.ConnectError)), pgconn.SafeToRetry(err), connectionLost(err):
		return down(errors.New("no connection to the database"))
	}
	return err
}

// State returns the SQLSTATE of a refused statement, or "".
func State(err error) string {
	var r *Refused
	if errors.As(err, &r) {
		return r.State
	}
	return ""
}

// Overtaken reports whether a concurrent transaction got in the way; a repeat
// sees what it did.
func Overtaken(err error) bool {
	s := State(err)
	return s == "40001" || s == "40P01"
}

// RolledBack reports whether the server itself reported that it refused and undid the
// statement: nothing of it can have been committed.
func RolledBack(err error) bool {
	s := State(err)
	return s != "" && (Overtaken(err) || !unavailable(s))
}

// unavailable lists the states that mean "not now" rather than "not so":
// connection exceptions, insufficient resources (disk full), operator
// intervention, lock not available, read-only server, and conflicts that a
// repeat resolves.
func unavailable(state string) bool {
	for _, class := range []string{"08", "53", "57", "58"} {
		if strings.HasPrefix(state, class) {
			return true
		}
	}
	switch state {
	case "55P03", "25006", "40001", "40P01":
		return true
	}
	return false
}

// connectionLost recognises what net and database/sql report when the server
// disappears in the middle of a statement. Their texts name addresses, not values, but they are
// replaced all the same.
func connectionLost(err error) bool {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) {
		return true
	}
	if errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) {
		return true
	}
	s := err.Error()
	for _, sign := range []string{"EOF", "closed", "broken pipe", "reset by peer", "refused", "conn busy", "bad connection"} {
		if strings.Contains(s, sign) {
			return true
		}
	}
	return false
}

func down(cause error) error {
	return lifecycle.Fail(lifecycle.StoreUnavailable, "The database does not answer; nothing was changed. Try again later.",
		lifecycle.After(5*time.Second), lifecycle.Cause(cause))
}
