package erasure_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/internal/store/storetest"
)

// A database that knows no ledger is new, and so is its ledger. A ledger with lines may
// be another installation's, and a database with tenants may have lost its own: only a
// person can tie them.
func TestADatabaseAndALedgerOfDifferentAgesAreTiedByAPersonAlone(t *testing.T) {
	for name, c := range map[string]struct {
		lines, tenant bool
		there         bool // a ledger
		refused       string
	}{
		"both new":                          {refused: ""},
		"an empty ledger":                   {there: true},
		"a new database, another's ledger":  {there: true, lines: true, refused: "has 1 lines, and this database knows no ledger"},
		"an old database without its own":   {tenant: true, refused: "which has had tenants, knows none"},
		"an old database, an empty ledger":  {tenant: true, there: true, refused: "has 0 lines, and this database knows no ledger"},
		"an old database, a ledger of some": {tenant: true, there: true, lines: true, refused: "knows no ledger"},
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			store, path := erasures.New(e.DB, e.Clock.Now), filepath.Join(e.Dir, "ledger")
			if c.tenant {
				e.Install(storetest.Values("old"), "in")
			}
			if c.there {
				l := storetest.Must(t)(ledger.CreateFile(path, e.Clock.Now())).(*ledger.File)
				if c.lines {
					d := storetest.Must(t)(e.Keys.Digest(keyring.Tenant, lifecycle.NewSecret("x"))).(keyring.Digest).String()
					storetest.Must(t)(l.Append(t.Context(), ledger.Entry{ErasureID: uuid.NewString(), TenantDigest: d, SubjectDigest: d, Trigger: "uninstall", At: e.Clock.Now()}))
				}
				_ = l.Close()
			}
			open := func(adopt *lifecycle.Access) error {
				l, err := erasure.Open(t.Context(), store, func() (ledger.Ledger, error) {
					f, err := ledger.OpenFile(path)
					if err != nil {
						return nil, err
					}
					return f, nil
				}, func() (ledger.Ledger, error) { return ledger.CreateFile(path, e.Clock.Now()) }, adopt)
				if err == nil {
					err = l.Close()
				}
				return err
			}
			err := open(nil)
			if c.refused == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *erasure.Refused
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), "trakr restore bind-ledger") {
				t.Fatalf("%v, want %q and the way out", err, c.refused)
			}
			if bound, err := store.Bound(t.Context()); err != nil || bound != "" {
				t.Errorf("bound to %q, %v", bound, err)
			}
			if _, err := os.Stat(path); !c.there && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a ledger was made: %v", err)
			}
			nobody := lawyer
			nobody.Reason.Ref = ""
			if err := open(&nobody); !errors.Is(err, lifecycle.ReasonRequired) {
				t.Errorf("without a ticket: %v", err)
			}
			for range 2 { // and from then on as ever
				if err := open(&lawyer); err != nil {
					t.Fatal(err)
				}
			}
			if err := open(nil); err != nil {
				t.Error(err)
			}
			n := 0
			for _, x := range e.Events() {
				if x.Action == audit.RestoreReplay && x.ReasonRef == lawyer.Reason.Ref && x.StatusDetail == "ledger bound by hand" {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d events", n)
			}
		})
	}
}
