// Package config reads the service's environment into one struct, checks every
// value, and reports all faults together. It opens nothing.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caarlos0/env/v11"

	"trakr/internal/egress"
	"trakr/internal/egress/webhook"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
)

// Config is everything that the environment decides, and the one description of each
// setting: deploy/settings.md is generated from the comments of the fields (run
// go test ./internal/platform/config -update). In them "Default:" begins a default that
// depends on something else. OpenTelemetry itself reads the OTEL_ variables of its standard.
type Config struct {
	// Listen is the public address: callbacks, descriptor, /healthz.
	Listen string `env:"TRAKR_LISTEN" envDefault:"127.0.0.1:8080"`
	// AdminListen is the address of the API, /openapi.json, /readyz and /metrics. Keep it
	// private.
	AdminListen string `env:"TRAKR_ADMIN_LISTEN" envDefault:"127.0.0.1:8081"`
	// BaseURL is the public https address that Bitbucket calls, without a trailing slash.
	// Default: http:// and TRAKR_LISTEN, for a loopback address only.
	BaseURL string `env:"TRAKR_BASE_URL"`
	// DatabaseURL is the PostgreSQL to use,
	// postgres://user:password@host:5432/db?sslmode=verify-full; the login is trakr_service
	// or a member of it. Default: a private PostgreSQL in TRAKR_DATA_DIR.
	DatabaseURL lifecycle.Secret `env:"TRAKR_DATABASE_URL"`
	// MigrationDatabaseURL is the login for `trakr migrate` and `trakr audit expire`: an
	// administrator, or a member of trakr_owner. Default: TRAKR_DATABASE_URL.
	MigrationDatabaseURL lifecycle.Secret `env:"TRAKR_MIGRATION_DATABASE_URL"`
	// DataDir is the directory of the private PostgreSQL and, by default, of the keys, the
	// checkpoint and the ledger.
	DataDir string `env:"TRAKR_DATA_DIR" envDefault:"data"`
	// PostgresBin is the directory of the private PostgreSQL's programs (postgres, initdb).
	// Default: searched in PATH and the usual places.
	PostgresBin string `env:"TRAKR_POSTGRES_BIN"`
	// Policy is the policy file. `trakr policy check` lists every fault with its line,
	// `trakr policy diff built-in FILE` every difference. Default: built in.
	Policy string `env:"TRAKR_POLICY"`
	// Statement is the file of the security statement's sentences; the report marks them as
	// your own. Default: built in.
	Statement string `env:"TRAKR_STATEMENT"`
	// PublicStatement shows the security statement to customers at /security-statement of
	// the public address: sentences, states and times only.
	PublicStatement bool `env:"TRAKR_PUBLIC_STATEMENT" envDefault:"false"`
	// Keys is the keyring's file of mode 0600 or, where there are no files, its JSON. Without
	// it no value can be decrypted: keep a copy apart from the backups of the database.
	// Default: keys.json in TRAKR_DATA_DIR, made at the first start.
	Keys lifecycle.Secret `env:"TRAKR_KEYS"`
	// KeysWrap is the key of a key server that wraps the keyring,
	// hcvault://HOST/transit/keys/NAME (HashiCorp Vault, by https; in clear only to an agent
	// on this machine). Default: none, the keyring is kept in clear.
	KeysWrap string `env:"TRAKR_KEYS_WRAP"`
	// KeysWrapToken is the token for that server, with `update` on `transit/encrypt/NAME` and
	// `transit/decrypt/NAME`.
	KeysWrapToken lifecycle.Secret `env:"TRAKR_KEYS_WRAP_TOKEN"`
	// KeysWrapTokenFile is a file with that token instead, read at each use.
	KeysWrapTokenFile string `env:"TRAKR_KEYS_WRAP_TOKEN_FILE"`
	// CheckpointFile is the file of the audit's newest signed checkpoint (its tree head),
	// outside the database; put it on another volume. Default: checkpoint in TRAKR_DATA_DIR.
	CheckpointFile string `env:"TRAKR_CHECKPOINT_FILE"`
	// CheckpointURL is another operator's endpoint, to which checkpoints are posted too.
	CheckpointURL string `env:"TRAKR_CHECKPOINT_URL"`
	// Ledger is the erasure ledger, which prevents that a restored backup brings an erased
	// tenant back: a file, best on a volume of its own, or the https URL of an object store's
	// folder. It must outlive the database and never be in its backups. Default:
	// ledger.ndjson in TRAKR_DATA_DIR.
	Ledger string `env:"TRAKR_LEDGER"`
	// LedgerToken is the bearer token for a ledger at a URL.
	LedgerToken lifecycle.Secret `env:"TRAKR_LEDGER_TOKEN"`
	// WebhookURL is your endpoint that receives each finding when it is opened, acknowledged
	// or resolved. It may be a secret itself.
	WebhookURL lifecycle.Secret `env:"TRAKR_WEBHOOK_URL"`
	// WebhookSecret signs those events (Standard Webhooks): whsec_ and base64 of 24 to 64
	// random bytes. Set it together with TRAKR_WEBHOOK_URL.
	WebhookSecret lifecycle.Secret `env:"TRAKR_WEBHOOK_SECRET"`
	// EndServiceURL is where the end service receives events about tenants (CloudEvents,
	// signed as Standard Webhooks); its host must be declared in the policy under egress.
	EndServiceURL string `env:"TRAKR_END_SERVICE_URL"`
	// EndServiceSecret signs those events (whsec_…). Set it together with
	// TRAKR_END_SERVICE_URL.
	EndServiceSecret lifecycle.Secret `env:"TRAKR_END_SERVICE_SECRET"`
	// BitbucketAPIURL is the origin asked for proof of possession. Access tokens come from
	// the same origin; with the default they come from https://bitbucket.org. Default:
	// https://api.bitbucket.org.
	BitbucketAPIURL string `env:"TRAKR_BITBUCKET_API_URL"`
	// DevSkipProof accepts a first install without proof of possession. For development
	// only: reports and doctor show it as a failed control.
	DevSkipProof bool `env:"TRAKR_DEV_SKIP_PROOF" envDefault:"false"`
	// TrustedProxies are the networks (comma separated CIDRs) whose X-Forwarded-For is
	// believed; for other clients the address of the connection counts.
	TrustedProxies []netip.Prefix `env:"TRAKR_TRUSTED_PROXIES"`
	// LogLevel is debug, info, warn or error.
	LogLevel slog.Level `env:"TRAKR_LOG_LEVEL" envDefault:"info"`
	// Dev is set by `serve --dev`: defaults that suit a laptop. No variable of its own.
	Dev bool `env:"-"`
}

// Defaults of the addresses.
const (
	DefaultListen      = "127.0.0.1:8080"
	DefaultAdminListen = "127.0.0.1:8081"
)

// Defaults of the Bitbucket API's origin.
const (
	BitbucketAPI    = "https://api.bitbucket.org"
	DevBitbucketAPI = "http://127.0.0.1:8090" // where `trakr simulate` answers
)

// reserved are names of later versions: to set one must not be silently without effect.
var reserved = []string{"TRAKR_FORGE_APP_ID", "TRAKR_FORGE_JWKS_URL"}

// Variables lists the environment's names, for documentation and its check.
func Variables() []string {
	params, err := env.GetFieldParams(&Config{})
	if err != nil { // the struct above is at fault; the package's test sees it
		return nil
	}
	var out []string
	for _, p := range params {
		if p.Key != "" && p.Key != "-" {
			out = append(out, p.Key)
		}
	}
	slices.Sort(out)
	return out
}

// Load reads environ (in the form of os.Environ). It returns all faults as one error.
func Load(environ []string, dev bool) (Config, error) {
	vars := env.ToMap(environ)
	c := Config{Dev: dev}
	var faults []error
	if err := env.ParseWithOptions(&c, env.Options{Environment: vars}); err != nil {
		faults = append(faults, parseFaults(err)...)
	}
	faults = append(faults, unknown(vars)...)
	c.fill()
	faults = append(faults, c.check()...)
	if len(faults) > 0 {
		return Config{}, fmt.Errorf("the environment has %d fault(s):\n%w", len(faults), errors.Join(faults...))
	}
	return c, nil
}

// parseFaults names the variables that do not parse, without their values: a
// mistaken paste could be a secret.
func parseFaults(err error) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{errors.New("  the environment cannot be read")}
	}
	var out []error
	forms := map[string]string{
		"DevSkipProof":    "TRAKR_DEV_SKIP_PROOF must be true or false",
		"PublicStatement": "TRAKR_PUBLIC_STATEMENT must be true or false",
		"TrustedProxies":  "TRAKR_TRUSTED_PROXIES must be networks such as 10.0.0.0/8,127.0.0.1/32",
		"LogLevel":        "TRAKR_LOG_LEVEL must be debug, info, warn or error",
	}
	for _, e := range all.Errors {
		var p env.ParseError
		if errors.As(e, &p) {
			out = append(out, errors.New("  "+forms[p.Name]))
		} else {
			out = append(out, errors.New("  a setting cannot be read"))
		}
	}
	return out
}

func unknown(vars map[string]string) []error {
	var out []error
	known := Variables()
	for name := range vars {
		switch {
		case !strings.HasPrefix(name, "TRAKR_"), strings.HasPrefix(name, "TRAKR_TEST_"), slices.Contains(known, name):
		case slices.Contains(reserved, name):
			out = append(out, fmt.Errorf("  %s belongs to a later version; unset it", name))
		default:
			out = append(out, fmt.Errorf("  %s is not a setting of this program; deploy/settings.md lists them", name))
		}
	}
	slices.SortFunc(out, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return out
}

func (c *Config) fill() {
	if c.BitbucketAPIURL == "" {
		c.BitbucketAPIURL = BitbucketAPI
		if c.Dev {
			c.BitbucketAPIURL = DevBitbucketAPI
		}
	}
	if c.BaseURL == "" {
		c.BaseURL = "http://" + c.Listen
	}
	if c.CheckpointFile == "" {
		c.CheckpointFile = filepath.Join(c.DataDir, "checkpoint")
	}
	if c.Ledger == "" {
		c.Ledger = filepath.Join(c.DataDir, "ledger.ndjson")
	}
	if c.Keys.Empty() {
		c.Keys = lifecycle.NewSecret(filepath.Join(c.DataDir, "keys.json"))
	}
}

// LedgerAtURL reports whether the ledger is not a file.
func (c *Config) LedgerAtURL() bool {
	return strings.HasPrefix(c.Ledger, "https://") || strings.HasPrefix(c.Ledger, "http://")
}

func (c *Config) check() []error {
	var out []error
	fault := func(format string, args ...any) { out = append(out, fmt.Errorf("  "+format, args...)) }
	for name, addr := range map[string]string{"TRAKR_LISTEN": c.Listen, "TRAKR_ADMIN_LISTEN": c.AdminListen} {
		if !listenable(addr) {
			fault("%s must be host:port, such as 127.0.0.1:8080", name)
		}
	}
	if c.Listen == c.AdminListen {
		fault("TRAKR_LISTEN and TRAKR_ADMIN_LISTEN must differ: the API must not be public")
	}
	if !listenable(c.Listen) && c.BaseURL == "http://"+c.Listen {
		// The default is as wrong as TRAKR_LISTEN, which was reported above.
	} else if err := origin(c.BaseURL, true); err != nil {
		fault("TRAKR_BASE_URL %v", err)
	}
	if err := origin(c.BitbucketAPIURL, false); err != nil {
		fault("TRAKR_BITBUCKET_API_URL %v", err)
	}
	if c.CheckpointURL != "" && !endpoint(c.CheckpointURL) {
		fault("TRAKR_CHECKPOINT_URL must be an https URL; http is for this machine only")
	}
	if c.LedgerAtURL() {
		if err := origin(c.Ledger, true); err != nil {
			fault("TRAKR_LEDGER %v", err)
		}
	} else if !c.LedgerToken.Empty() {
		fault("TRAKR_LEDGER_TOKEN is for a ledger at a URL; TRAKR_LEDGER names a file")
	}
	if !c.WebhookURL.Empty() && !endpoint(c.WebhookURL.Reveal()) {
		fault("TRAKR_WEBHOOK_URL must be an https URL; http is for this machine only")
	}
	if c.WebhookURL.Empty() != c.WebhookSecret.Empty() {
		fault("TRAKR_WEBHOOK_URL and TRAKR_WEBHOOK_SECRET go together: set both or neither")
	}
	if _, err := webhook.ParseKey(c.WebhookSecret); err != nil && !c.WebhookSecret.Empty() {
		fault("TRAKR_WEBHOOK_SECRET %v", err)
	}
	if c.KeysWrap != "" {
		if err := keyring.CheckVaultURI(c.KeysWrap); err != nil {
			fault("TRAKR_KEYS_WRAP %v", err)
		}
	} else if !c.KeysWrapToken.Empty() || c.KeysWrapTokenFile != "" {
		fault("TRAKR_KEYS_WRAP_TOKEN and TRAKR_KEYS_WRAP_TOKEN_FILE are for a wrapped keyring; set TRAKR_KEYS_WRAP too")
	}
	if !c.KeysWrapToken.Empty() && c.KeysWrapTokenFile != "" {
		fault("TRAKR_KEYS_WRAP_TOKEN and TRAKR_KEYS_WRAP_TOKEN_FILE exclude each other; set one")
	}
	if c.EndServiceURL != "" && !endpoint(c.EndServiceURL) {
		fault("TRAKR_END_SERVICE_URL must be an https URL; http is for this machine only")
	}
	if (c.EndServiceURL == "") != c.EndServiceSecret.Empty() {
		fault("TRAKR_END_SERVICE_URL and TRAKR_END_SERVICE_SECRET go together: set both or neither")
	}
	if _, err := webhook.ParseKey(c.EndServiceSecret); err != nil && !c.EndServiceSecret.Empty() {
		fault("TRAKR_END_SERVICE_SECRET %v", err)
	}
	if c.DevSkipProof && !Loopback(c.BaseURL) {
		fault("TRAKR_DEV_SKIP_PROOF is for development; with a public TRAKR_BASE_URL it would let anyone install")
	}
	for name, s := range map[string]lifecycle.Secret{
		"TRAKR_DATABASE_URL":           c.DatabaseURL,
		"TRAKR_MIGRATION_DATABASE_URL": c.MigrationDatabaseURL,
	} {
		if err := database(s.Reveal()); err != nil {
			fault("%s %v", name, err)
		}
	}
	slices.SortFunc(out, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return out
}

// listenable reports whether addr is host:port with a port that exists.
func listenable(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// origin checks an absolute URL: https, or http on this machine only.
func origin(s string, path bool) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return errors.New("must be an absolute https URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/"):
		return errors.New("must have no user, query, fragment or trailing slash")
	case !path && u.Path != "":
		return errors.New("must be an origin without a path")
	case u.Scheme == "http" && !Loopback(s):
		return errors.New("must be https; http is for this machine only")
	}
	return nil
}

// endpoint reports whether s is an https URL, or http on this machine.
func endpoint(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "https" || (u.Scheme == "http" && Loopback(s)))
}

// Loopback reports whether the URL's host is this machine itself.
func Loopback(s string) bool { return egress.ThisMachine(s) }

// database refuses a URL whose connection could be read on the way, as far as the URL
// itself shows that. PostgreSQL's own variables supply what it leaves out: whether those
// name another host, in clear, is checked where they are resolved (store.Hosts, store.Open).
func database(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return errors.New("must have the form postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	host := u.Hostname()
	if host == "" || strings.HasPrefix(u.Query().Get("host"), "/") || Loopback(s) {
		return nil
	}
	switch u.Query().Get("sslmode") {
	case "verify-full", "verify-ca":
		return nil
	case "require":
		return nil // encrypted, though the server is not authenticated; DigitalOcean issues such URLs
	}
	return errors.New("must set sslmode=verify-full (or require): the connection leaves this machine")
}
