package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/rotation"
	"trakr/internal/store/audit"
	"trakr/internal/store/facts"
	"trakr/internal/store/holds"
	"trakr/internal/store/instances"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func operator() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: "cli"}
}

// place is a database whose keyring is a file, as an operator has it.
type place struct {
	*storetest.Env
	path   string
	values map[lifecycle.TenantID]lifecycle.Values
	said   []string
}

func newPlace(t *testing.T, installs int) *place {
	t.Helper()
	p := &place{Env: storetest.New(t), values: map[lifecycle.TenantID]lifecycle.Values{}}
	p.path = filepath.Join(p.Dir, "keys.json")
	storetest.Must(t)(keyring.Create(p.path))
	p.Door, p.Keys = p.replica(p.path)
	for i := range installs {
		v := storetest.Values(fmt.Sprint("m", i))
		if i%3 == 0 {
			delete(v, lifecycle.AvatarURL)
		}
		p.values[p.Install(v, fmt.Sprint("install ", i))] = v
	}
	return p
}

// replica is a service of its own on the database, with the keyring that is at source.
func (p *place) replica(source string) (*tenants.Door, *keyring.Keyring) {
	p.T.Helper()
	keys := storetest.Must(p.T)(keyring.Load(source)).(*keyring.Keyring)
	if err := tenants.BindKeys(p.T.Context(), p.DB, keys, p.Clock.Now()); err != nil {
		p.T.Fatal(err)
	}
	d := storetest.Must(p.T)(tenants.New(p.T.Context(), tenants.Config{DB: p.DB, Keys: keys, Policy: p.Policy, Log: p.Log})).(*tenants.Door)
	p.T.Cleanup(d.Close)
	return d, keys
}

func (p *place) outbox(keys *keyring.Keyring) *outbox.Store {
	p.T.Helper()
	return storetest.Must(p.T)(outbox.New(p.DB, p.Log, keys)).(*outbox.Store)
}

// copy is the keyring's file as it is now, somewhere else.
func (p *place) copy(name string) string {
	p.T.Helper()
	to := filepath.Join(p.Dir, name)
	if err := os.WriteFile(to, p.file(), 0o600); err != nil {
		p.T.Fatal(err)
	}
	return to
}

func (p *place) file() []byte {
	p.T.Helper()
	return storetest.Must(p.T)(os.ReadFile(p.path)).([]byte)
}

var errKilled = errors.New("killed")

// rotate runs a rotation as the command does, with a keyring and a door of its own. It
// ends at the step that is named, as if it was killed there.
func (p *place) rotate(killAt string, change ...func(*rotation.Config)) (done rotation.Done, err error) {
	p.T.Helper()
	door, keys := p.replica(p.path)
	c := rotation.Config{Door: door, Instances: instances.New(p.DB), Outbox: p.outbox(keys), Keys: keys, Source: keyring.Source{At: p.path}, Report: func(s string) { p.said = append(p.said, s) }, Progress: func(int64, int64) {},
		After: func(step string) {
			if step == killAt {
				panic(errKilled)
			}
		}}
	for _, f := range change {
		f(&c)
	}
	defer func() {
		if r := recover(); r != nil {
			err = r.(error)
		}
	}()
	return storetest.Must(p.T)(rotation.New(c)).(*rotation.Rotation).Run(p.T.Context(), operator())
}

// intact checks that every value is there, reads as it was, and is found as it was.
func (p *place) intact(when string) {
	p.T.Helper()
	sealed := p.sealed()
	for id, want := range p.values {
		// The policy releases the username; the rest is opened from the table itself.
		got, err := p.Door.Read(p.T.Context(), storetest.Service(), id, lifecycle.Username)
		if err != nil || got.Values[lifecycle.Username] != want[lifecycle.Username] {
			p.T.Fatalf("%s: reading a username: %v", when, err)
		}
		for _, f := range lifecycle.Fields() {
			b := sealed[id][f]
			if _, held := want[f]; !held && b == nil {
				continue
			}
			if v, err := p.Keys.Decrypt(id, f, b); err != nil || v != want[f] {
				p.T.Fatalf("%s: %s of a tenant is not what it was: %v", when, f, err)
			}
		}
		if found, err := p.Door.Lookup(p.T.Context(), storetest.Service(), tenants.Subject{ClientKey: want[lifecycle.ClientKey]}); err != nil || found.ID != id {
			p.T.Fatalf("%s: a tenant is not found by its client key: %v", when, err)
		}
	}
}

// sealed is every value as it lies in the database.
func (p *place) sealed() map[lifecycle.TenantID]map[lifecycle.Field][]byte {
	p.T.Helper()
	c := storetest.Must(p.T)(pgx.Connect(p.T.Context(), p.URL)).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	rows := storetest.Must(p.T)(c.Query(p.T.Context(), `SELECT f.tenant_id::text, v.name, v.sealed FROM trakr.tenant_fields AS f,
		LATERAL (VALUES ('client_key', client_key), ('shared_secret', shared_secret), ('principal_uuid', principal_uuid), ('username', username), ('avatar_url', avatar_url)) AS v (name, sealed)
		WHERE v.sealed IS NOT NULL`)).(pgx.Rows)
	out := map[lifecycle.TenantID]map[lifecycle.Field][]byte{}
	var id, f string
	var b []byte
	storetest.Must(p.T)(pgx.ForEachRow(rows, []any{&id, &f, &b}, func() error {
		tenant, err := lifecycle.ParseTenantID(id)
		if out[tenant] == nil {
			out[tenant] = map[lifecycle.Field][]byte{}
		}
		out[tenant][lifecycle.Field(f)] = bytes.Clone(b)
		return err
	}))
	return out
}

func (p *place) states() string {
	p.T.Helper()
	var out []string
	for _, k := range storetest.Must(p.T)(p.Door.FieldKeys(p.T.Context())).([]tenants.FieldKey) {
		out = append(out, fmt.Sprintf("%s held=%v sealed=%v", k.State, k.InKeyring, k.Values > 0))
	}
	return strings.Join(out, ", ")
}

// One rotation, ended at every step: whatever was durable before is kept, and the next
// run goes on from there.
func TestARotationThatIsEndedAtEveryStepFinishes(t *testing.T) {
	p := newPlace(t, 3)
	before := p.copy("before.json")
	old := p.Keys.Active()
	p.intact("before")
	for _, c := range []struct{ at, states string }{
		{rotation.Stage, "active held=true sealed=true, staged held=true sealed=false"},
		{rotation.Activate, "retired held=true sealed=true, active held=true sealed=false"},
		{rotation.Batch + " 1", "retired held=true sealed=false, active held=true sealed=true"},
		{rotation.Reencrypt, "retired held=true sealed=false, active held=true sealed=true"},
		{rotation.Unlist, "retired held=false sealed=false, active held=true sealed=true"},
	} {
		if _, err := p.rotate(c.at); !errors.Is(err, errKilled) {
			t.Fatalf("%s: %v", c.at, err)
		}
		if _, err := keyring.Load(p.path); err != nil {
			t.Fatalf("%s: no whole keyring is there: %v", c.at, err)
		}
		if _, err := p.Keys.Reload(); err != nil {
			t.Fatal(err)
		}
		if got := p.states(); got != c.states {
			t.Errorf("after %s: %s; want %s", c.at, got, c.states)
		}
		p.intact(c.at)
		v := storetest.Values(c.at) // and it can be installed
		p.values[p.Install(v, "during "+c.at)] = v
	}
	done, err := p.rotate("")
	if err != nil || !done.Resumed || !done.Destroyed || !slices.Equal(done.Old, []keyring.KeyID{old}) {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := p.states(); got != "destroyed held=false sealed=false, active held=true sealed=true" {
		t.Error(got)
	}
	p.intact("afterwards")
	events := map[string]int{}
	for _, e := range p.Events() {
		events[fmt.Sprint(e.Action, " ", e.CorrelationID)]++
		if e.Action == audit.TenantReencrypt && (e.Outcome != audit.Success || len(e.FieldNames) != 5 || e.TenantID == (lifecycle.TenantID{}) || e.ActorType != lifecycle.ActorOperator) {
			t.Errorf("the event does not say what was done: %+v", e)
		}
	}
	id := func(k keyring.KeyID) string { return " field-key-" + k.String() }
	// Installed after stage and before activate: sealed with the old key too.
	if events["tenant.reencrypt"+id(done.Active)] != 4 || events["key.activate"+id(done.Active)] != 1 || events["key.destroy"+id(old)] != 1 {
		t.Errorf("events: %v", events)
	}
	// What was: the old keyring opens nothing and is refused, and the new one lacks its key.
	was := storetest.Must(t)(keyring.Load(before)).(*keyring.Keyring)
	for tenant, fields := range p.sealed() {
		for f, b := range fields {
			if _, err := was.Decrypt(tenant, f, b); !errors.As(err, new(*keyring.MissingKey)) {
				t.Errorf("the keyring from before opens %s: %v", f, err)
			}
		}
	}
	if err := tenants.BindKeys(t.Context(), p.DB, was, p.Clock.Now()); !errors.As(err, new(*keyring.MissingKey)) || !strings.Contains(err.Error(), "trakr keys rotate") {
		t.Errorf("starting with the keyring from before: %v", err)
	}
	if bytes.Contains(p.file(), fmt.Appendf(nil, "%d", old)) {
		t.Error("the old key is in the file")
	}
	// A second rotation begins anew.
	if again, err := p.rotate(""); err != nil || again.Resumed || again.Active == done.Active || !again.Destroyed {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := p.Keys.Reload(); err != nil {
		t.Fatal(err)
	}
	p.intact("after a second one")
}

// A service with a copy of the keyring is neither stranded nor can it write with the old
// key: the rotation stops before anything changes, and goes on when it was handed over.
func TestAServiceWithACopyOfTheKeyringIsWaitedFor(t *testing.T) {
	p := newPlace(t, 2)
	copied := p.copy("copy.json")
	door, keys := p.replica(copied)
	instance := uuid.New()
	if err := instances.New(p.DB).Record(t.Context(), instance, keys, instances.Facts{}); err != nil {
		t.Fatal(err)
	}
	old := keys.Active()
	_, err := p.rotate("")
	if err == nil || !strings.Contains(err.Error(), "1 of 1 running services do not have the new key") || !strings.Contains(err.Error(), "run this again") {
		t.Fatalf("%v", err)
	}
	if got := p.states(); !strings.HasPrefix(got, "active held=true sealed=true") {
		t.Errorf("something changed: %s", got)
	}
	// The database itself refuses the wrong order.
	ahead, _ := p.replica(p.path)
	staged := storetest.Must(t)(keyring.Load(p.path)).(*keyring.Keyring).FieldKeys()
	if err := ahead.ActivateKey(t.Context(), operator(), staged[len(staged)-1]); !errors.Is(err, tenants.ErrInstanceLacksKey) {
		t.Errorf("activated past a running service: %v", err)
	}
	// Handed over, it is held within seconds, and the rotation goes on with the same key.
	if err := os.WriteFile(copied, p.file(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := instances.New(p.DB).Record(t.Context(), instance, keys, instances.Facts{}); err != nil {
		t.Fatal(err)
	}
	done, err := p.rotate(rotation.Activate)
	if !errors.Is(err, errKilled) {
		t.Fatalf("%+v %v", done, err)
	}
	// It has not looked yet and seals with the old key: refused, looked up, done again.
	if keys.Active() != old {
		t.Fatal("the story is not told: the copy seals with the new key already")
	}
	v := storetest.Values("copy")
	id, result, err := door.Install(t.Context(), storetest.Ingress(), v, p.Delivery("from the copy"))
	if err != nil || result != tenants.Applied {
		t.Fatalf("an install during the rotation: %s, %v", result, err)
	}
	p.values[id] = v
	if err := p.update(door, id, v, "again"); err != nil {
		t.Fatalf("an update during the rotation: %v", err)
	}
	if done, err = p.rotate(""); err != nil || !done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := p.Keys.Reload(); err != nil {
		t.Fatal(err)
	}
	p.intact("with the file")
	p.Door, p.Keys = door, keys
	p.intact("with the copy, which still has both keys")
	// One that missed it all (it was not seen for a while) gets a clear answer, until it
	// is handed the keyring; then it goes on by itself.
	stale := filepath.Join(p.Dir, "stale.json")
	storetest.Must(t)(0, os.WriteFile(stale, p.file(), 0o600))
	late, lateKeys := p.replica(stale)
	if err := instances.New(p.DB).Leave(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	if _, err := p.rotate(""); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Read(t.Context(), storetest.Service(), id, lifecycle.Username); !errors.Is(err, lifecycle.KeysOutdated) {
		t.Errorf("reading without the key: %v, want keys-outdated", err)
	}
	if _, _, err := late.Install(t.Context(), storetest.Ingress(), storetest.Values("late"), p.Delivery("late")); !errors.Is(err, lifecycle.KeysOutdated) {
		t.Errorf("installing without the key: %v, want keys-outdated", err)
	}
	if err := instances.New(p.DB).Record(t.Context(), uuid.New(), lateKeys, instances.Facts{}); !errors.As(err, new(*keyring.MissingKey)) {
		t.Errorf("holding without the key: %v", err)
	}
	storetest.Must(t)(0, os.WriteFile(stale, p.file(), 0o600))
	if got, err := late.Read(t.Context(), storetest.Service(), id, lifecycle.Username); err != nil || got.Values[lifecycle.Username] != v[lifecycle.Username] {
		t.Errorf("reading after it was handed over: %v", err)
	}
	if _, result, err := late.Install(t.Context(), storetest.Ingress(), storetest.Values("late"), p.Delivery("late again")); err != nil || result != tenants.Applied {
		t.Errorf("installing after it was handed over: %v", err)
	}
}

func (p *place) update(door *tenants.Door, id lifecycle.TenantID, v lifecycle.Values, name string) error {
	p.Clock.Add(time.Second)
	result, err := door.Update(p.T.Context(), storetest.Ingress(), id, v, p.Delivery(name))
	if err == nil && result != tenants.Applied {
		err = errors.New(string(result))
	}
	return err
}

// Where the keyring is a text in the environment nothing can be changed in place.
func TestAKeyringInTheEnvironmentIsRotatedByHandingItOver(t *testing.T) {
	p := newPlace(t, 2)
	text := string(p.file())
	handed := ""
	run := func(out bool) (rotation.Done, error) {
		door, keys := p.replica(text)
		c := rotation.Config{Door: door, Instances: instances.New(p.DB), Outbox: p.outbox(keys), Keys: keys, Source: keyring.Source{At: text}, Report: func(string) {}, Progress: func(int64, int64) {}}
		if out {
			c.Out = func(b []byte) error { handed = string(b); return nil }
		}
		return storetest.Must(t)(rotation.New(c)).(*rotation.Rotation).Run(t.Context(), operator())
	}
	for _, out := range []bool{false, true} {
		if _, err := run(out); !errors.Is(err, rotation.ErrElsewhere) {
			t.Errorf("without a new key: %v", err)
		}
	}
	var id keyring.KeyID
	text = string(storetest.Must(t)(keyring.Source{At: text}.Changed(keyring.AddFieldKey(&id))).([]byte))
	if done, err := run(true); err != nil || done.Active != id || !done.Written || done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
	p.Door, p.Keys = p.replica(text)
	p.intact("while both keys are there")
	if _, err := run(false); !errors.Is(err, rotation.ErrElsewhere) {
		t.Errorf("with the old key still there: %v", err)
	}
	text = handed
	if done, err := run(false); err != nil || !done.Resumed || !done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
	p.Door, p.Keys = p.replica(text)
	if got := p.states(); got != "destroyed held=false sealed=false, active held=true sealed=true" {
		t.Error(got)
	}
	p.intact("afterwards")
}

// Values that the law keeps are sealed anew too; what somebody is changing is waited
// for; and an uninstall that is under way wins.
func TestHeldBusyAndGoingTenants(t *testing.T) {
	p := newPlace(t, 4)
	var ids []lifecycle.TenantID
	for id := range p.values {
		ids = append(ids, id)
	}
	held, busy, going := ids[0], ids[1], ids[2]
	lawyer := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:lawyer", Role: lifecycle.RoleReviewer},
		Reason: lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}, RequestID: "req-test"}
	h := storetest.Must(t)(holds.New(p.DB, p.Log, p.Policy, &storetest.Outside{})).(*holds.Store)
	storetest.Must(t)(h.Place(t.Context(), lawyer, holds.Order{Tenant: held, Ground: holds.LegalClaim, Until: p.Clock.Now().Add(time.Hour)}))
	if _, err := p.Erase(t.Context(), storetest.Ingress(), held, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: p.Clock.Now(), Delivery: p.Delivery("held")}); !errors.Is(err, lifecycle.OnHold) {
		t.Fatal(err)
	}
	commit, err := p.Hold(`SELECT FROM trakr.tenants WHERE tenant_id = '` + busy.String() + `' FOR UPDATE`)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	var once bool
	change := func(c *rotation.Config) {
		c.After = func(step string) {
			if step != rotation.Batch+" 1" || once {
				return
			}
			once = true
			// The rotation has done what it could; one is busy, and another one goes now.
			go func() {
				_, err := p.Erase(context.WithoutCancel(t.Context()), storetest.Ingress(), going, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: p.Clock.Now(), Delivery: p.Delivery("going")})
				gone <- err
				commit()
			}()
		}
	}
	done, err := p.rotate("", change)
	if err != nil || !done.Destroyed || done.Tenants != 4 {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := <-gone; err != nil {
		t.Errorf("the uninstall: %v", err)
	}
	if n := p.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, going.String()); n != 0 {
		t.Error("the rotation brought an erased tenant's values back")
	}
	if _, err := p.Keys.Reload(); err != nil {
		t.Fatal(err)
	}
	sealed := p.Bytes(`SELECT username FROM trakr.tenant_fields WHERE tenant_id = $1`, held.String())
	if v, err := p.Keys.Decrypt(held, lifecycle.Username, sealed); err != nil || v != p.values[held][lifecycle.Username] {
		t.Errorf("the held tenant's value: %v", err)
	}
	delete(p.values, held)
	delete(p.values, going)
	p.intact("afterwards")
}

// A value that was changed around the service opens with no key. It stops nothing but
// the end: it stays as it is, and so does the old key.
func TestAValueThatDoesNotOpenKeepsTheOldKey(t *testing.T) {
	p := newPlace(t, 3)
	var bad lifecycle.TenantID
	for bad = range p.values {
		break
	}
	p.Exec(`UPDATE trakr.tenant_fields SET username = set_byte(username, 20, 255 - get_byte(username, 20)) WHERE tenant_id = $1`, bad.String())
	spoiled := p.Bytes(`SELECT username FROM trakr.tenant_fields WHERE tenant_id = $1`, bad.String())
	done, err := p.rotate("")
	if !errors.Is(err, rotation.ErrUndecryptable) || done.Undecryptable != 1 || done.Tenants != 2 || done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
	if !bytes.Equal(spoiled, p.Bytes(`SELECT username FROM trakr.tenant_fields WHERE tenant_id = $1`, bad.String())) {
		t.Error("the value was changed")
	}
	if got := p.states(); !strings.HasPrefix(got, "retired held=true sealed=true") {
		t.Error(got)
	}
	failed := 0
	for _, e := range p.Events() {
		if e.Action == audit.TenantReencrypt && e.Outcome == audit.Failure && e.TenantID == bad && e.StatusDetail == "cannot_open" {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d events of the failure", failed)
	}
	// Written anew by the next install, the rest of the rotation goes through.
	if _, err := p.Keys.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := p.update(p.Door, bad, p.values[bad], "mended"); err != nil {
		t.Fatal(err)
	}
	if done, err := p.rotate(""); err != nil || !done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
}

// What the old key sealed and the end service has not taken yet is sealed anew, so that
// an outage there keeps no key alive: also where the run is killed in between, and what
// somebody is sending just then is waited for.
func TestWhatWaitsForTheEndServiceIsSealedAnew(t *testing.T) {
	p := newPlace(t, 1)
	var id lifecycle.TenantID
	for id = range p.values {
		break
	}
	old := p.Keys.Active()
	queued := p.queue(id, 3)
	if _, err := p.rotate(rotation.Batch + " 1"); !errors.Is(err, errKilled) { // the values are sealed anew, the messages are not
		t.Fatal(err)
	}
	storetest.Must(t)(p.Keys.Reload())
	p.told(id, queued, "killed")

	// Another process is at the first one, and lets it go when the rest is done.
	commit, err := p.Hold(`SELECT FROM trakr.outbox WHERE seq = 1 FOR UPDATE`)
	if err != nil {
		t.Fatal(err)
	}
	done, err := p.rotate("", func(c *rotation.Config) {
		c.After = func(step string) {
			if step == rotation.Batch+" 1" {
				commit()
			}
		}
	})
	if err != nil || !done.Resumed || !done.Destroyed || done.Messages != len(queued) || done.Values != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	storetest.Must(t)(p.Keys.Reload())
	if slices.Contains(p.Keys.FieldKeys(), old) {
		t.Error("the old key is still there")
	}
	p.told(id, queued, "rotated")
	p.intact("rotated")
	if n := p.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.reencrypt' AND outcome = 'success' AND field_names = '{client_key}'
		AND tenant_id = $1 AND correlation_id = $2 AND request_id IN (SELECT delivery_id::text FROM trakr.outbox)`, id.String(), p.Keys.Active().Rotation()); n != int64(len(queued)) {
		t.Errorf("%d events tell of %d payloads", n, len(queued))
	}
}

// A payload that was changed around the service opens with no key: it keeps the old one.
func TestAPayloadThatDoesNotOpenKeepsTheOldKey(t *testing.T) {
	p := newPlace(t, 1)
	var id lifecycle.TenantID
	for id = range p.values {
		break
	}
	queued := p.queue(id, 2)
	p.Exec(`UPDATE trakr.outbox_payloads SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE delivery_id = $1`, queued[0].String())
	for range 2 {
		done, err := p.rotate("")
		if !errors.Is(err, rotation.ErrUndecryptable) || done.UndecryptableMessages != 1 || done.Destroyed {
			t.Fatalf("%+v, %v", done, err)
		}
	}
	storetest.Must(t)(p.Keys.Reload())
	p.told(id, queued[1:], "kept")
	p.Exec(`DELETE FROM trakr.outbox_payloads WHERE delivery_id = $1`, queued[0].String())
	if done, err := p.rotate(""); err != nil || !done.Resumed || !done.Destroyed {
		t.Errorf("%+v, %v", done, err)
	}
}

// A rotation opens every value, and so judges those that an older version stored without
// a look. What looks like contact data keeps the old key until its tenant is gone.
func TestARotationJudgesWhatAnOlderVersionStored(t *testing.T) {
	p := newPlace(t, 3)
	v := storetest.Values("contact")
	v[lifecycle.Username] = lifecycle.NewSecret("ada@example.com")
	bad := p.Install(v, "as an older version would")
	p.Exec(`UPDATE trakr.tenants SET updated_at = updated_at - interval '1 day'`)
	unjudged := func() int64 {
		t.Helper()
		return storetest.Must(t)(facts.New(p.DB).Unchecked(t.Context())).(int64)
	}
	if n := unjudged(); n != 4 {
		t.Fatalf("%d tenants are not judged, want 4", n)
	}
	for range 2 {
		done, err := p.rotate("")
		if !errors.Is(err, rotation.ErrContact) || errors.Is(err, rotation.ErrUndecryptable) || done.Contact != 1 || done.Destroyed || strings.Contains(err.Error(), "ada@") {
			t.Fatalf("%+v, %v", done, err)
		}
		if n := unjudged(); n != 4 {
			t.Errorf("%d tenants are not judged although one is bad", n)
		}
	}
	if n := p.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.reencrypt' AND outcome = 'failure' AND status_detail = 'contact_data' AND tenant_id = $1`, bad.String()); n != 2 {
		t.Errorf("%d events name the tenant, want 2", n)
	}
	if _, err := p.Erase(t.Context(), storetest.Ingress(), bad, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: p.Clock.Now(), Delivery: p.Delivery("gone")}); err != nil {
		t.Fatal(err)
	}
	if done, err := p.rotate(""); err != nil || !done.Destroyed {
		t.Fatalf("%+v, %v", done, err)
	}
	if n := unjudged(); n != 0 {
		t.Errorf("%d tenants are not judged after a whole rotation", n)
	}
	storetest.Must(t)(p.Keys.Reload())
	p.intact("judged")
}

// queue enters messages about a tenant, as an install would.
func (p *place) queue(id lifecycle.TenantID, n int) []uuid.UUID {
	p.T.Helper()
	var out []uuid.UUID
	for i := range n {
		d := uuid.New()
		sealed := storetest.Must(p.T)(p.Keys.EncryptPayload(id, d, []byte("what is to be told"))).([]byte)
		p.Exec(`INSERT INTO trakr.outbox (delivery_id, tenant_id, seq, kind, state, field_names, told, enqueued_at, next_attempt_at)
			VALUES ($1, $2, $3, 'installed', 'waiting', '{client_key}', false, now(), now())`, d.String(), id.String(), i+1)
		p.Exec(`INSERT INTO trakr.outbox_payloads (delivery_id, tenant_id, sealed) VALUES ($1, $2, $3)`, d.String(), id.String(), sealed)
		out = append(out, d)
	}
	return out
}

// told checks that what waits opens with the keyring, and is what it was.
func (p *place) told(id lifecycle.TenantID, queued []uuid.UUID, when string) {
	p.T.Helper()
	c := storetest.Must(p.T)(pgx.Connect(p.T.Context(), p.URL)).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	for _, d := range queued {
		var sealed []byte
		if err := c.QueryRow(p.T.Context(), `SELECT sealed FROM trakr.outbox_payloads WHERE delivery_id = $1`, d.String()).Scan(&sealed); err != nil {
			p.T.Fatalf("%s: %v", when, err)
		}
		if b, err := p.Keys.DecryptPayload(id, d, sealed); err != nil || string(b) != "what is to be told" {
			p.T.Fatalf("%s: what waits does not open: %v", when, err)
		}
	}
}

// The database keeps the rules by itself, whoever comes.
func TestTheDatabaseRefusesWhatTheRotationRestsOn(t *testing.T) {
	p := newPlace(t, 1)
	var id lifecycle.TenantID
	for id = range p.values {
		break
	}
	sealedByOld := p.Bytes(`SELECT username FROM trakr.tenant_fields WHERE tenant_id = $1`, id.String())
	if _, err := p.rotate(""); err != nil {
		t.Fatal(err)
	}
	record := func(action string, key any) string {
		return fmt.Sprintf(`convert_to('{"action":"%s","actor_id":"x","actor_type":"operator","correlation_id":"field-key-%v","event_id":"%s","field_names":["client_key","shared_secret","principal_uuid","username","avatar_url"],`+
			`"occurred_at":"2026-11-24T00:00:00.000000Z","outcome":"success","reason_code":"service_operation","schema_version":1,"tenant_id":"%s"}', 'UTF8')`, action, key, uuid.New(), id)
	}
	active := storetest.Must(t)(keyring.Load(p.path)).(*keyring.Keyring).Active()
	for name, c := range map[string]struct{ sql, says string }{
		"a value of the old key":           {fmt.Sprintf(`UPDATE trakr.tenant_fields SET username = '\x%x'`, sealedByOld), "TK423"},
		"the same in replica mode":         {fmt.Sprintf(`SET session_replication_role = replica; UPDATE trakr.tenant_fields SET username = '\x%x'`, sealedByOld), "TK423"},
		"something that is no value":       {`UPDATE trakr.tenant_fields SET username = 'x'`, "TK423"},
		"activating without a record":      {`SELECT door.activate_field_key(` + record("tenant.read", 7) + `, 7)`, "22023"},
		"activating with another's record": {`SELECT door.activate_field_key(` + record("key.activate", 8) + `, 7)`, "22023"},
		"activating the active key":        {fmt.Sprintf(`SELECT door.activate_field_key(%s, %d)`, record("key.activate", active), active), "55000"},
		"destroying the active key":        {fmt.Sprintf(`SELECT door.destroy_field_key(%s, %d)`, record("key.destroy", active), active), "55000"},
		"destroying without a record":      {fmt.Sprintf(`SELECT door.destroy_field_key(%s, %d)`, record("key.activate", active), active), "22023"},
		"destroying what still seals": {fmt.Sprintf(`SELECT door.activate_field_key(%s, 7); SELECT door.destroy_field_key(%s, %d)`,
			record("key.activate", 7), record("key.destroy", active), active), "TK425"},
		"two rotations at once":    {fmt.Sprintf(`SELECT door.activate_field_key(%s, 7); SELECT door.activate_field_key(%s, 8)`, record("key.activate", 7), record("key.activate", 8)), "55000"},
		"reading under this name":  {`SELECT door.reseal(ARRAY[` + record("tenant.read", 7) + `])`, "22023"},
		"the service un-retires":   {`SET ROLE trakr_service; UPDATE trakr.field_keys SET state = 'active'`, "42501"},
		"the service adds a key":   {`SET ROLE trakr_service; INSERT INTO trakr.field_keys (key_id, state) VALUES (7, 'retired')`, "42501"},
		"sealing without an event": {`SET ROLE trakr_service; UPDATE trakr.tenant_fields SET written_at = now(); SELECT 1 / count(*) FROM trakr.tenant_fields`, "22012"},
	} {
		if err := p.TryExec(c.sql); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s", name, err, c.says)
		}
	}
	// Nothing is read where nothing is to be sealed anew, and nothing recorded.
	before := len(p.Events())
	if n := p.Int(`SELECT count(*) FROM door.reseal(ARRAY[` + record("tenant.reencrypt", active) + `])`); n != 0 || len(p.Events()) != before {
		t.Errorf("%d rows came out, %d events", n, len(p.Events())-before)
	}
}
