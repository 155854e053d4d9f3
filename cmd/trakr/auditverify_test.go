package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trakr/internal/app"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

// operator is the program on a database of the operator's own.
type operator struct {
	t   *testing.T
	env []string
	dir string
}

func (o operator) trakr(want int, args ...string) string {
	o.t.Helper()
	var out, errs bytes.Buffer
	a := &cli{in: strings.NewReader(""), out: &out, err: &errs, now: time.Now, environ: o.env}
	if code := a.run(o.t.Context(), args); code != want {
		o.t.Fatalf("trakr %s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, want, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

func TestAuditVerifySaysWhatItFoundAndByItsExitCode(t *testing.T) {
	e := storetest.New(t)
	dir := t.TempDir()
	o := operator{t, []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, e.URL), "TRAKR_DATA_DIR=" + dir,
		"TRAKR_LISTEN=127.0.0.1:0", "TRAKR_ADMIN_LISTEN=localhost:0"}, dir}
	checkpoint := filepath.Join(dir, "checkpoint")

	if s := o.trakr(exitCannotTell, "audit", "verify"); !strings.Contains(s, "a cut tail cannot be told without a checkpoint kept elsewhere") {
		t.Error(s)
	}
	o.trakr(exitClean, "audit", "verify", "--no-checkpoint")
	o.trakr(exitUsage, "audit", "verify", "--checkpoint", filepath.Join(dir, "none"))
	o.trakr(exitUsage, "audit", "verify", "--checkpoint", checkpoint, "--no-checkpoint")

	keys := storetest.Must(t)(keyring.Load(filepath.Join(dir, "keys.json"))).(*keyring.Keyring) // made by the first command
	log := storetest.Must(t)(audit.NewLog(e.DB, time.Now)).(*audit.Log)
	if err := log.SignWith(t.Context(), keys.Signing()); err != nil {
		t.Fatal(err)
	}
	s := storetest.Must(t)(log.NewSequencer()).(*audit.Sequencer)
	var notes []byte
	for range 3 {
		if err := log.Record(t.Context(), audit.New(t.Context(), time.Now(), storetest.Service(), audit.TenantLookup, audit.Success)); err != nil {
			t.Fatal(err)
		}
		for deadline, n := time.Now().Add(10*time.Second), 0; n == 0 && time.Now().Before(deadline); {
			n = storetest.Must(t)(s.Pass(t.Context())).(int)
		}
		cp := storetest.Must(t)(log.Latest(t.Context())).(audit.Checkpoint)
		notes = append(append(notes, cp.Note...), '\n')
		if err := os.WriteFile(checkpoint, cp.Note, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(checkpoint+".history", notes, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := app.CheckpointsIn(checkpoint + ".history"); err != nil || len(got) != 3 {
		t.Fatalf("%d checkpoints in the history, %v", len(got), err)
	} else if cp, err := merkle.Open(got[1].Note, log.Verifier()); err != nil || cp.Size != 2 {
		t.Fatalf("%+v, %v", cp, err)
	}
	if s := o.trakr(exitClean, "audit", "verify"); !strings.Contains(s, "clean") || !strings.Contains(s, "contains the 3 events") {
		t.Error(s)
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreign, []byte("not a checkpoint\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := o.trakr(exitFinding, "audit", "verify", "--checkpoint", foreign); !strings.Contains(s, "cut_tail") {
		t.Error(s)
	}

	e.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER rows_stay; UPDATE trakr.audit_events SET actor_id = 'other' WHERE id = (SELECT ids[1] FROM trakr.audit_leaves WHERE first_index = 1)`)
	found := o.trakr(exitFinding, "audit", "verify")
	for _, want := range []string{"column", "actor_id", "the first bad position is 1", "control      fail", "rows_stay"} {
		if !strings.Contains(found, want) {
			t.Errorf("%q is not in\n%s", want, found)
		}
	}
	var v struct {
		Clean     bool `json:"clean"`
		TailKnown bool `json:"tail_known"`
		Faults    []struct {
			Kind     string
			Position *int64
		}
	}
	if err := json.Unmarshal([]byte(o.trakr(exitFinding, "audit", "verify", "--json")), &v); err != nil || v.Clean || !v.TailKnown ||
		len(v.Faults) != 1 || v.Faults[0].Kind != "column" || v.Faults[0].Position == nil || *v.Faults[0].Position != 1 {
		t.Errorf("%+v, %v", v, err)
	}

	// Nothing else works on such a database; doctor says why.
	for _, args := range [][]string{{"serve"}, {"sweep", "list"}, {"tenant", "show", lifecycle.NewTenantID().String()}} {
		if s := o.trakr(exitCannotTell, args...); !strings.Contains(s, "the audit only grows, and an erasure only goes on") || !strings.Contains(s, "Way out") {
			t.Errorf("trakr %s: %s", args[0], s)
		}
	}
	doctor := o.trakr(exitFinding, "doctor")
	for _, want := range []string{"fail     the audit only grows, and an erasure only goes on", "pass     values show only in a transaction that recorded it"} {
		if !strings.Contains(doctor, want) {
			t.Errorf("%q is not in\n%s", want, doctor)
		}
	}
	e.Exec(`ALTER TABLE trakr.audit_events ENABLE ALWAYS TRIGGER rows_stay`)
	o.trakr(exitClean, "sweep", "list")
}
