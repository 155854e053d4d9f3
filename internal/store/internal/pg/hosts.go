package pg

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Hosts lists the hosts that a connection to url leads to, each once, in the order in which
// they are tried, as the driver resolves them: the variables of PostgreSQL's own
// clients (PGHOST, PGSERVICE and a service file) fill in what the URL leaves out, and
// several hosts are tried one after the other. "" is a unix socket of this machine.
func Hosts(url string) ([]string, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil { // the parser's own text could repeat the password
		return nil, errors.New("cannot be read: it has the form postgres://user:password@host:5432/database?sslmode=verify-full; " +
			"look at PGSERVICE and the other PG variables too")
	}
	var out []string
	for _, r := range routes(cfg.ConnConfig) {
		host := strings.ToLower(strings.TrimSuffix(r.host, "."))
		if socket(r.host) {
			host = ""
		}
		if !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out, nil
}

// route is one way to a server.
type route struct {
	host string
	tls  bool
}

// routes are all that the driver may try.
func routes(c *pgx.ConnConfig) []route {
	out := []route{{c.Host, c.TLSConfig != nil}}
	for _, f := range c.Fallbacks {
		out = append(out, route{f.Host, f.TLSConfig != nil})
	}
	return out
}

// socket reports whether a host is the directory of a unix socket, as the driver has it.
func socket(host string) bool { return strings.HasPrefix(host, "/") }

// protected refuses a connection that could be read on the way, as its parameters
// really resolve.
func protected(c *pgx.ConnConfig) error {
	for _, r := range routes(c) {
		ip, err := netip.ParseAddr(r.host)
		if !r.tls && !socket(r.host) && r.host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return errors.New("the database URL would connect in clear to another machine: set sslmode=verify-full (or require)")
		}
	}
	return nil
}
