// Package devpg finds, starts, supervises and stops a private PostgreSQL: the
// database `trakr serve` uses when it is given none, and the one the tests run
// on. Private means that it belongs to one data directory and nothing else:
//
//   - It listens on a unix socket in a directory of mode 0700, never on TCP, and
//     asks for a random password (SCRAM) that only this data directory has.
//   - Two services never share it: Start locks the data directory.
//   - No other server is mistaken for it, and no other program is ever signalled:
//     a process counts as ours only when it is a postgres that works in our
//     cluster's directory, and a connection only when the server reports that
//     directory itself.
//   - It ends with the service: orderly through [Server.Stop], and on Linux by the
//     kernel's parent-death signal when the service is killed. The next Start finds
//     and stops a server that was left over in any other way.
//   - No statement text and no value reaches its log (see settings.go for why).
//
// PostgreSQL refuses to run as root. Started by root, the server therefore runs
// as the user postgres, or else the system's unprivileged user, and when that user cannot reach the data
// directory (./data below a home of mode 0700) the cluster is placed below
// /var/lib/trakr and the data directory keeps a pointer to it.
//
// A data directory contains:
//
//	cluster/          the PostgreSQL cluster, unless cluster-location names another place
//	socket/           the socket, unless the path does not fit one
//	socket-location   the directory the socket is in
//	password          the superuser's password, mode 0600
//	lock              locked by the running service; contains its process id
//	postgresql.log    the server's log; the previous one has the suffix .1
//
// The package does not migrate, back up, tune or upgrade: a cluster made by one
// major version is refused by another, with the way out. It knows Linux and
// macOS, and nothing of what the service stores.
package devpg
