package main

import (
	"encoding/json"
	"strings"
	"testing"

	"trakr/internal/store/storetest"
)

// securityStatement is the JSON of the security statement.
type securityStatement struct {
	Sentences []struct {
		ID, State string
		Checks    []sentenceCheck
	}
}

type sentenceCheck struct{ ID, State, Why string }

// A guard that somebody took off is what the statement is to say: the command does not
// refuse to look, and the sentence about the log is false because of it.
func TestTheStatementIsMadeWhenAGuardIsOff(t *testing.T) {
	e := storetest.New(t)
	dir := t.TempDir()
	o := operator{t, []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, e.URL), "TRAKR_DATA_DIR=" + dir,
		"TRAKR_LISTEN=127.0.0.1:0", "TRAKR_ADMIN_LISTEN=localhost:0"}, dir}
	guards := func() sentenceCheck {
		t.Helper()
		var s securityStatement
		if err := json.Unmarshal([]byte(o.trakr(exitClean, "report", "statement", "--format", "json")), &s); err != nil {
			t.Fatal(err)
		}
		for _, x := range s.Sentences {
			for _, c := range x.Checks {
				if c.ID == "guards" {
					if c.State == "false" && x.State != "false" {
						t.Errorf("the sentence is %s", x.State)
					}
					return c
				}
			}
		}
		t.Fatal("no sentence is bound to the guards")
		return sentenceCheck{}
	}
	before := guards() // false only because the tests' server does not flush
	e.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL`)
	if after := guards(); after.State != "false" || after.Why == before.Why || !strings.Contains(after.Why, "refuse_change()") {
		t.Errorf("with every trigger of the log off: %s, %s (before: %s)", after.State, after.Why, before.Why)
	}
	// Nothing else works on such a database.
	o.trakr(exitCannotTell, "sweep", "run", "orphans")
}

// Beside a service that acts by another policy a command looks and puts nothing down.
func TestASweepOfAnotherPolicyChangesNoFinding(t *testing.T) {
	e := storetest.New(t)
	env := []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, e.URL), "TRAKR_DATA_DIR=" + t.TempDir(), "TRAKR_LISTEN=127.0.0.1:0", "TRAKR_ADMIN_LISTEN=localhost:0"}
	if code, out, errs := run(t, env, "sweep", "run", "minimisation"); code != exitClean {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	e.Exec(`INSERT INTO trakr.key_holders (instance_id, key_ids, policy_hash) SELECT gen_random_uuid(), array_agg(key_id), repeat('0', 64) FROM trakr.field_keys`)
	before := e.Int(`SELECT count(*) FROM trakr.sweep_runs`)
	if code, _, errs := run(t, env, "sweep", "run", "minimisation"); code != exitUsage || !strings.Contains(errs, "acts by another policy") || !strings.Contains(errs, "--dry-run") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_runs`); n != before {
		t.Error("a run was stored")
	}
	if code, out, errs := run(t, env, "sweep", "run", "minimisation", "--dry-run"); code != exitClean {
		t.Errorf("a dry run: exit %d: %s%s", code, out, errs)
	}
}
