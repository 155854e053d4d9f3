package devpg

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"trakr/internal/lifecycle"
)

// Errors that a caller may want to distinguish (errors.Is). The text that wraps them
// names the directory, the process or the version, and the way out.
var (
	// ErrNotRunning means that no server runs on the data directory (Attach).
	ErrNotRunning = errors.New("the private PostgreSQL is not running")
	// ErrInUse means that another service has locked the data directory (Start).
	ErrInUse = errors.New("the data directory is in use")
	// ErrNoBinaries means that no usable PostgreSQL is installed.
	ErrNoBinaries = errors.New("no usable PostgreSQL found")
)

// DefaultDatabase is the database used when Config names none.
const DefaultDatabase = "trakr"

// startTimeout bounds one Start. It is long because a server that was killed
// first replays its write-ahead log; the caller's context may be shorter.
const startTimeout = 5 * time.Minute

// Config selects a private PostgreSQL.
type Config struct {
	DataDir  string            // required; created with mode 0700 (0711 for root) when missing
	BinDir   string            // directory of initdb and postgres (TRAKR_POSTGRES_BIN); "" searches, see FindBinaries
	Database string            // created when missing; "" is DefaultDatabase
	Logger   *slog.Logger      // progress and warnings, never a password; nil is silent
	Settings map[string]string // further PostgreSQL settings; those that keep the package's promises are refused
}

// Server is a private PostgreSQL: started by this process, or attached to. Its
// methods may be called from several goroutines.
type Server struct {
	conn    connection
	version string
	place   *place // nil when attached, as is proc
	bin     binaries
	config  Config

	mu      sync.Mutex // guards what follows, and serialises Stop and Restart
	proc    *process
	stopped bool
	cleanup []func() // run in reverse order once the process has ended
}

// Start starts the private PostgreSQL of c.DataDir and waits until it answers.
// On first use it makes the cluster; a server that an earlier, killed service
// left behind is stopped first. It fails with ErrInUse when another service runs
// on the directory and with ErrNoBinaries when PostgreSQL is not installed. After
// a failure nothing is left running.
//
// Cancelling ctx ends the start, not the started server: the caller must Stop it.
func Start(ctx context.Context, c Config) (*Server, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &Server{}
	if err := s.start(ctx, c); err != nil {
		s.runCleanup()
		return nil, fmt.Errorf("starting the private PostgreSQL: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, c Config) error {
	place, err := openPlace(c.DataDir, c.Logger)
	if err != nil {
		return err
	}
	s.place = place
	s.cleanup = append(s.cleanup, place.unlock)
	bin, err := place.chooseBinaries(c.BinDir)
	if err != nil {
		return err
	}
	// A crash of ours anywhere above leaves nothing but empty directories; from
	// here to the end it leaves a server at most, which this line then finds.
	if err := stopLeftover(ctx, place, c.Logger); err != nil {
		return err
	}
	password, err := place.ensureCluster(ctx, bin, c)
	if err != nil {
		return err
	}
	socketDir, removeSocketDir, err := place.ensureSocketDir()
	if err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, removeSocketDir)
	s.bin, s.config = bin, c
	s.conn = connection{socketDir: socketDir, password: password, database: c.Database, cluster: place.cluster()}

	if s.proc, err = place.launch(bin, socketDir, c.Settings); err != nil {
		return err
	}
	s.version, err = s.conn.waitReady(ctx, s.proc.done)
	if err == nil {
		err = s.conn.ensureDatabase(ctx)
	}
	if err != nil {
		return s.failed(ctx, err)
	}
	c.Logger.Info("private PostgreSQL ready", "version", s.version, "directory", place.cluster(), "socket", socketDir)
	return nil
}

// Restart starts a server again that ended by itself, on the same socket, so that
// its URL stays valid. What was committed is there; what was not, is lost. After a
// failure nothing is left running and Restart may be tried again.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.proc == nil || s.stopped:
		return errors.New("restarting the private PostgreSQL: it is not this process's to start")
	case s.proc.unexpected() == nil:
		return errors.New("restarting the private PostgreSQL: it has not ended by itself")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// The postmaster has ended; its children may take a moment to notice.
	if err := stopLeftover(ctx, s.place, s.config.Logger); err != nil {
		return fmt.Errorf("restarting the private PostgreSQL: %w", err)
	}
	proc, err := s.place.launch(s.bin, s.conn.socketDir, s.config.Settings)
	if err != nil {
		return fmt.Errorf("restarting the private PostgreSQL: %w", err)
	}
	if _, err := s.conn.waitReady(ctx, proc.done); err != nil {
		return fmt.Errorf("restarting the private PostgreSQL: %w%s", errors.Join(err, proc.stop(ctx)), s.place.logTail())
	}
	s.proc = proc
	s.config.Logger.Info("private PostgreSQL ready again", "version", s.version, "directory", s.place.cluster())
	return nil
}

// failed stops the half-started server and returns the end of its log, which most
// often names the cause (no space left, a setting it does not know).
func (s *Server) failed(ctx context.Context, cause error) error {
	stopErr := s.proc.stop(ctx)
	return errors.Join(fmt.Errorf("%w%s", cause, s.place.logTail()), stopErr)
}

// Attach returns the server that already runs on c.DataDir, for a command beside
// a running service. It takes no lock, and Stop on the result does nothing. When
// no server runs there it fails with ErrNotRunning.
func Attach(ctx context.Context, c Config) (*Server, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	s := &Server{}
	if s.conn, err = findRunning(c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	if s.version, err = s.conn.waitReady(ctx, nil); err != nil {
		return nil, fmt.Errorf("attaching to the private PostgreSQL of %s: %w", c.DataDir, err)
	}
	return s, nil
}

// attachTimeout bounds the wait for a server that runs but is still starting.
const attachTimeout = 30 * time.Second

// Attached reports whether another process started the server.
func (s *Server) Attached() bool { return s.place == nil }

// URL returns the connection string of the superuser, for pgx. It contains the
// password: never log it.
func (s *Server) URL() string { return s.conn.url(s.conn.database) }

// LoginURL returns a connection string for a role of lesser rights, which must
// exist, and lets it log in. Its password is derived from the superuser's, so
// that a command beside a running service needs no second file. It contains the
// password: never log it.
func (s *Server) LoginURL(ctx context.Context, role string) (string, error) {
	mac := hmac.New(sha256.New, []byte(s.conn.password.Reveal()))
	mac.Write([]byte("trakr/login/" + role))
	password := lifecycle.NewSecret(hex.EncodeToString(mac.Sum(nil)))
	if err := s.conn.ensureLogin(ctx, role, password); err != nil {
		return "", err
	}
	return s.conn.urlAs(role, password, s.conn.database), nil
}

// Version returns the server's version, such as "15.18".
func (s *Server) Version() string { return s.version }

// DataDirectory returns the cluster's directory as the server itself names it.
func (s *Server) DataDirectory() string { return s.conn.cluster }

// SocketDir returns the directory of the server's socket.
func (s *Server) SocketDir() string { return s.conn.socketDir }

// String names the server without its password.
func (s *Server) String() string { return "PostgreSQL " + s.version + " in " + s.conn.cluster }

// GoString keeps %#v from printing the password.
func (s *Server) GoString() string { return s.String() }

// LogValue keeps loggers from walking the struct.
func (s *Server) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Done is closed when the server's process has ended, for whatever reason; after
// a Restart, call it again. It is nil, and so never ready, for an attached server.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.done
}

// Err returns why the server ended by itself, with the end of its log. It is nil
// while the server runs, after Stop ended it, and for an attached server.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	if err := s.proc.unexpected(); err != nil {
		return fmt.Errorf("%w%s", err, s.place.logTail())
	}
	return nil
}

// Stop ends the server and returns when its process has ended: open sessions are
// cut and the data flushed (fast shutdown); when that takes too long or ctx ends,
// it is ended without a checkpoint, and at last killed, which loses no committed
// data but makes the next start slower. So give it a context of its own, not the
// one whose end stops the service. A second Stop does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.stopped {
		return nil
	}
	if err := s.proc.stop(ctx); err != nil {
		return fmt.Errorf("stopping the private PostgreSQL: %w", err)
	}
	s.stopped = true
	s.runCleanup()
	return nil
}

func (s *Server) runCleanup() {
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		s.cleanup[i]()
	}
	s.cleanup = nil
}

// connection is how to reach the server, and how to recognise it.
type connection struct {
	socketDir string
	password  lifecycle.Secret
	database  string
	cluster   string // data_directory, absolute and free of symbolic links
}

// check fills in the defaults and reports every fault of c together.
func (c Config) check() (Config, error) {
	var faults []error
	if c.DataDir == "" {
		faults = append(faults, errors.New("no data directory given"))
	} else if abs, err := filepath.Abs(c.DataDir); err != nil {
		faults = append(faults, fmt.Errorf("finding the data directory: %w", err))
	} else {
		c.DataDir = abs
	}
	if c.Database == "" {
		c.Database = DefaultDatabase
	}
	if len(c.Database) > maxIdentifier {
		faults = append(faults, fmt.Errorf("the database's name is longer than %d bytes", maxIdentifier))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	faults = append(faults, checkSettings(c.Settings)...)
	if err := errors.Join(faults...); err != nil {
		return c, fmt.Errorf("configuring the private PostgreSQL: %w", err)
	}
	return c, nil
}

// maxIdentifier is PostgreSQL's NAMEDATALEN - 1; longer names are cut silently.
const maxIdentifier = 63
