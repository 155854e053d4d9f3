package erasure_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var scheduler = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "req-test"}

func order(e *storetest.Env, token string) erasure.Order {
	return erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery(token)}
}

// finish takes an erasure to its certificate, as the sweep does.
func finish(t *testing.T, r *erasuretest.Rig, id string) {
	t.Helper()
	run := r.Run(t)
	err := r.Finish(t.Context(), scheduler, uuid.MustParse(id), run)
	if errors.Is(err, lifecycle.NotFound) { // the counts have no place in the log yet
		r.AwaitSequencing(t.Context())
		err = r.Finish(t.Context(), scheduler, uuid.MustParse(id), run)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnUninstalledTenantIsGoneAndCertified(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	id := e.Install(storetest.Values("gone"), "in gone")
	out, err := r.Erase(t.Context(), storetest.Ingress(), id, order(e, "bye"))
	if err != nil || !out.Deleted || out.Delay != nil || out.Result != tenants.Applied {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := e.Door.Secret(t.Context(), storetest.Ingress(), id); !errors.Is(err, lifecycle.TenantErased) {
		t.Errorf("the tenant answers: %v", err)
	}
	e.Clock.Add(time.Minute)
	finish(t, r, out.ErasureID)
	finish(t, r, out.ErasureID) // and once more, which changes nothing
	c, err := r.Config.Erasures.CertificateOf(t.Context(), uuid.MustParse(out.ErasureID))
	if err != nil {
		t.Fatal(err)
	}
	got, err := certificate.Verify([]byte(c.Document), e.Log.VerifierKey(), "test")
	if err != nil || !got.Proven {
		t.Fatalf("%+v, %v", got, err)
	}
	cert, err := certificate.Parse([]byte(c.Document))
	if err != nil {
		t.Fatal(err)
	}
	window := e.Policy.BackupWindow().Duration()
	if cert.Trigger != lifecycle.TriggerUninstall || cert.TenantID != id.String() || cert.BackupsClearAfter.Sub(cert.DeletedLiveAt.Time) != window || window == 0 {
		t.Errorf("the certificate says %+v", cert)
	}
	kept := map[string]string{}
	for _, r := range cert.Retained {
		where, _, _ := strings.Cut(r.What, ":")
		kept[where] = r.Until
	}
	if kept["ledger"] != "the service ends" || kept["trakr.erasures"] == "" || kept["trakr.sweep_canaries"] != "" {
		t.Errorf("the certificate says that these stay: %v", kept)
	}
	var values int64
	for _, s := range cert.Stores {
		if s.Table == "trakr.tenant_fields" {
			values = s.RowsBefore
		}
	}
	if values != 1 {
		t.Errorf("the certificate does not name the row of values: %+v", cert.Stores)
	}
	var actions []audit.Action
	for _, x := range e.Events() {
		if x.CorrelationID == out.ErasureID {
			actions = append(actions, x.Action)
		}
	}
	if want := []audit.Action{audit.ErasureBegin, audit.TenantErase, audit.ErasureVerify, audit.ErasureIssue}; !slices.Equal(actions, want) {
		t.Errorf("the log has %v of it, want %v", actions, want)
	}
	// Once more is a success, and no second erasure.
	again, err := r.Erase(t.Context(), scheduler, id, erasure.Order{Trigger: lifecycle.TriggerProbe, RequestedAt: e.Clock.Now()})
	if err != nil || !again.Already || again.ErasureID != out.ErasureID || !again.Deleted {
		t.Errorf("%+v, %v", again, err)
	}
	if n := count(t, r.Config.Ledger); n != 1 {
		t.Errorf("the ledger has %d entries", n)
	}
}

func count(t *testing.T, l ledger.Ledger) (n int) {
	t.Helper()
	if err := l.Entries(t.Context(), func(ledger.Entry) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// brokenLedger fails until it is mended.
type brokenLedger struct {
	ledger.Ledger
	broken bool
}

func (b *brokenLedger) Append(ctx context.Context, x ledger.Entry) (ledger.Head, error) {
	if b.broken {
		return ledger.Head{}, ledger.ErrUnavailable
	}
	return b.Ledger.Append(ctx, x)
}

func TestWithoutItsLedgerATenantAnswersNothingAndWaits(t *testing.T) {
	e := storetest.New(t)
	whole := erasuretest.New(t, e)
	b := &brokenLedger{Ledger: whole.Config.Ledger, broken: true}
	r := erasuretest.With(t, e, b, whole.Path)
	id := e.Install(storetest.Values("waits"), "in waits")
	out, err := r.Erase(t.Context(), storetest.Ingress(), id, order(e, "bye"))
	if err != nil || out.Deleted || !errors.Is(out.Delay, ledger.ErrUnavailable) {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := e.Door.Secret(t.Context(), storetest.Ingress(), id); !errors.Is(err, lifecycle.TenantErased) {
		t.Errorf("the tenant answers: %v", err)
	}
	if n := e.Int("SELECT count(*) FROM trakr.tenant_fields"); n != 1 {
		t.Fatalf("%d rows of values: they went before the ledger knew", n)
	}
	b.broken = false
	finish(t, r, out.ErasureID)
	if n := e.Int("SELECT count(*) FROM trakr.tenant_fields"); n != 0 {
		t.Errorf("%d rows of values are left", n)
	}
}

func TestARowThatRemainsKeepsTheCertificateBack(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	id := e.Install(storetest.Values("copied"), "in copied")
	e.Exec(`CREATE TABLE public.notes (tenant_id uuid, marker text); INSERT INTO public.notes VALUES ('` + id.String() + `', 'x')`)
	out, err := r.Erase(t.Context(), storetest.Ingress(), id, order(e, "bye"))
	if err != nil {
		t.Fatal(err)
	}
	err = r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), r.Run(t))
	var left *erasure.Remains
	if !errors.As(err, &left) || !strings.Contains(err.Error(), "public.notes.tenant_id (1 rows)") {
		t.Fatalf("the row was not named: %v", err)
	}
	e.Exec(`DELETE FROM public.notes`)
	finish(t, r, out.ErasureID)
}

func TestNothingHeldIsCertifiedOnce(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	request := uuid.NewString()
	digests, err := e.Keys.Digests(keyring.Subject, lifecycle.NewSecret("never seen"))
	if err != nil {
		t.Fatal(err)
	}
	n := erasure.Nothing{RequestID: request, Digests: digests, RequestedAt: e.Clock.Now(), SweepRun: uuid.NewString()}
	first, err := r.CertifyNothing(t.Context(), scheduler, n)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := certificate.Verify([]byte(first.Document), e.Log.VerifierKey(), "test"); err != nil || !got.Proven {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := r.CertifyNothing(t.Context(), scheduler, n); err != nil || again.ID != first.ID {
		t.Errorf("a second certificate: %+v, %v", again, err)
	}
	values := storetest.Values("held")
	e.Install(values, "in held")
	held, err := e.Keys.Digests(keyring.Subject, values[lifecycle.ClientKey])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CertifyNothing(t.Context(), scheduler, erasure.Nothing{RequestID: uuid.NewString(), Digests: held, RequestedAt: e.Clock.Now(), SweepRun: uuid.NewString()}); !errors.Is(err, erasure.ErrHeld) {
		t.Errorf("a tenant that is held was certified away: %v", err)
	}
}

func TestALedgerThatIsNotTheDatabasesStopsTheStart(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	for _, name := range []string{"a", "b"} {
		if _, err := r.Erase(t.Context(), storetest.Ingress(), e.Install(storetest.Values(name), "in "+name), order(e, name)); err != nil {
			t.Fatal(err)
		}
	}
	store := erasures.New(e.DB, e.Clock.Now)
	whole, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	open := func(path string) error {
		l, err := erasure.Open(t.Context(), store, func() (ledger.Ledger, error) {
			f, err := ledger.OpenFile(path)
			if err != nil {
				return nil, err
			}
			return f, nil
		}, func() (ledger.Ledger, error) { t.Error("a new ledger was made"); return nil, errors.New("made") }, nil)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		return erasuretest.With(t, e, l, path).Compare(t.Context())
	}
	other := filepath.Join(t.TempDir(), "other")
	if f, err := ledger.CreateFile(other, e.Clock.Now()); err != nil {
		t.Fatal(err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, []byte(strings.Join(lines[:2], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"removed":     {filepath.Join(t.TempDir(), "nothing"), "is missing"},
		"another one": {other, "is another one"},
		"cut":         {cut, "was cut: it ends at line 1, and the database knows line 2"},
	} {
		if err := open(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := open(r.Path); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

// restored erases tenants and then brings them back, as a restored backup does.
func restored(t *testing.T, e *storetest.Env, r *erasuretest.Rig, names ...string) []lifecycle.TenantID {
	t.Helper()
	var ids []lifecycle.TenantID
	for _, name := range names {
		id := e.Install(storetest.Values(name), "in "+name)
		digest, err := e.Keys.Digest(keyring.Tenant, lifecycle.NewSecret(id.String()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Config.Ledger.Append(t.Context(), ledger.Entry{ErasureID: uuid.NewString(), TenantDigest: digest.String(), SubjectDigest: digest.String(),
			Trigger: string(lifecycle.TriggerUninstall), At: e.Clock.Now()}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func answers(t *testing.T, e *storetest.Env, id lifecycle.TenantID) bool {
	t.Helper()
	_, err := e.Door.Secret(t.Context(), storetest.Ingress(), id)
	if err != nil && !errors.Is(err, lifecycle.TenantErased) {
		t.Fatal(err)
	}
	return err == nil
}

// A replay that is cut off after the first tenant has moved the end of the ledger on;
// the next start must still find the others.
func TestAReplayThatWasCutOffIsTakenUpAgain(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	ids := restored(t, e, r, "a", "b", "c")
	ctx, cancel := context.WithCancel(t.Context())
	c := r.Config
	c.After = func(step string) {
		if step == erasure.Delete {
			cancel()
		}
	}
	cutOff, err := erasure.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cutOff.Replay(ctx, scheduler, erasure.NewLines); err == nil {
		t.Fatal("the replay was not cut off")
	}
	got, err := r.Replay(t.Context(), scheduler, erasure.NewLines)
	if err != nil || got.Erased != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	for i, id := range ids {
		if answers(t, e, id) {
			t.Errorf("tenant %d answers", i)
		}
	}
	if got, err := r.Replay(t.Context(), scheduler, erasure.NewLines); err != nil || got.Erased != 0 {
		t.Errorf("once more: %+v, %v", got, err)
	}
}

// A database that was restored beneath a running service serves one more uninstall
// before anyone looks.
func TestAnErasureAfterARestoreHidesNoneBeforeIt(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	back := restored(t, e, r, "a")[0]
	if _, err := r.Erase(t.Context(), storetest.Ingress(), e.Install(storetest.Values("other"), "in other"), order(e, "other")); err != nil {
		t.Fatal(err)
	}
	if n, _, err := r.Resurrected(t.Context()); err != nil || n != 1 {
		t.Errorf("%d tenants came back, %v", n, err)
	}
	if got, err := r.Replay(t.Context(), scheduler, erasure.NewLines); err != nil || got.Erased != 1 || answers(t, e, back) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Two that delete at the same time both succeed, and it is done once.
func TestTwoThatDeleteAtOnceBothSucceed(t *testing.T) {
	e := storetest.New(t)
	whole := erasuretest.New(t, e)
	b := &brokenLedger{Ledger: whole.Config.Ledger, broken: true}
	r := erasuretest.With(t, e, b, whole.Path)
	for i := range 10 {
		out, err := r.Erase(t.Context(), storetest.Ingress(), e.Install(storetest.Values(fmt.Sprint("t", i)), fmt.Sprint("in ", i)), order(e, fmt.Sprint("bye ", i)))
		if err != nil {
			t.Fatal(err)
		}
		b.broken = false
		run := r.Run(t)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				err := r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), run)
				if err != nil && !errors.Is(err, lifecycle.NotFound) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		b.broken = true
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.erase' AND outcome = 'success'`); n != 10 {
		t.Errorf("%d deletions of 10 tenants", n)
	}
}

// While a hold or the ledger keeps a tenant's values, nobody is told that nothing is
// held, by client key or by workspace.
func TestWhatIsStillHeldIsNotCertifiedAway(t *testing.T) {
	e := storetest.New(t)
	whole := erasuretest.New(t, e)
	r := erasuretest.With(t, e, &brokenLedger{Ledger: whole.Config.Ledger, broken: true}, whole.Path)
	values := storetest.Values("held")
	if _, err := r.Erase(t.Context(), storetest.Ingress(), e.Install(values, "in"), order(e, "bye")); err != nil {
		t.Fatal(err)
	}
	for _, s := range []tenants.Subject{{ClientKey: values[lifecycle.ClientKey]}, {WorkspaceUUID: values[lifecycle.PrincipalUUID]}} {
		if got, err := e.Door.Lookup(t.Context(), storetest.Service(), s); err != nil || got.State != lifecycle.Erasing {
			t.Errorf("%+v, %v", got, err)
		}
		digests, err := e.Door.Digests(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.CertifyNothing(t.Context(), scheduler, erasure.Nothing{RequestID: uuid.NewString(), Digests: digests, RequestedAt: e.Clock.Now(), SweepRun: uuid.NewString()}); !errors.Is(err, erasure.ErrHeld) {
			t.Errorf("certified away: %v", err)
		}
	}
}
