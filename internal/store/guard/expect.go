package guard

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The roles of deploy/roles.sql.
const (
	owner   = "trakr_owner"
	door    = "trakr_door"
	sweep   = "trakr_sweep"
	service = "trakr_service"
	reader  = "trakr_reader"
	backup  = "trakr_backup"
)

// roles lists each role with the attributes that it may have; no others are allowed.
// The administrator who sets the password gives LOGIN; INHERIT and BYPASSRLS need an
// administrator with the right to give them.
var roles = []struct{ name, may string }{
	{owner, ""},
	{door, ""},
	{sweep, "INHERIT"},
	{service, "LOGIN"},
	{reader, "LOGIN"},
	{backup, "LOGIN INHERIT BYPASSRLS"},
}

// tables lists who may do what to each table, except the owner. log: it only grows, so it
// has both triggers.
var tables = []struct {
	name                         string
	log                          bool
	service, reader, sweep, door string
}{
	{name: "tenants", service: "SELECT INSERT UPDATE", reader: "SELECT", sweep: "SELECT", door: "SELECT"},
	{name: "tenant_fields", service: "INSERT DELETE", door: "SELECT"},
	{name: "erasures", service: "SELECT INSERT", reader: "SELECT", sweep: "SELECT"},
	{name: "erasure_counts", service: "SELECT INSERT", reader: "SELECT"},
	{name: "certificates", service: "SELECT INSERT", reader: "SELECT"},
	{name: "ledger_replays", service: "SELECT INSERT DELETE", reader: "SELECT"},
	{name: "ledger_identity", log: true, service: "SELECT INSERT", reader: "SELECT"},
	{name: "replay_guard", service: "SELECT INSERT DELETE", sweep: "SELECT"},
	{name: "tenant_liveness", service: "SELECT INSERT UPDATE DELETE"},
	{name: "keyring_checks", service: "SELECT INSERT"},
	{name: "field_keys", service: "SELECT", reader: "SELECT", door: "SELECT INSERT UPDATE"},
	{name: "key_holders", service: "SELECT INSERT UPDATE DELETE", reader: "SELECT", door: "SELECT"},
	{name: "sweep_runs", service: "SELECT INSERT UPDATE", reader: "SELECT"},
	{name: "sweep_results", service: "SELECT INSERT", reader: "SELECT"},
	{name: "findings", service: "SELECT INSERT UPDATE", reader: "SELECT"},
	{name: "finding_events", service: "SELECT INSERT", reader: "SELECT"},
	{name: "job_heartbeats", service: "SELECT INSERT UPDATE", reader: "SELECT"},
	{name: "sweep_canaries", reader: "SELECT", sweep: "SELECT"},
	{name: "verified_log", service: "SELECT INSERT", reader: "SELECT"},
	{name: "shape_scans", service: "SELECT INSERT UPDATE", reader: "SELECT"},
	{name: "payload_keys_seen", service: "SELECT INSERT", reader: "SELECT"},
	{name: "schedule_state", service: "SELECT INSERT", reader: "SELECT"},
	{name: "api_tokens", service: "SELECT INSERT"},
	{name: "reports_issued", service: "SELECT INSERT", reader: "SELECT"},
	{name: "legal_holds", service: "SELECT INSERT", reader: "SELECT", sweep: "SELECT"},
	{name: "deletion_requests", service: "SELECT INSERT", reader: "SELECT", sweep: "SELECT"},
	{name: "deletion_request_events", service: "SELECT", reader: "SELECT", sweep: "SELECT"},
	{name: "outbox", service: "SELECT INSERT", reader: "SELECT", sweep: "SELECT", door: "SELECT"},
	{name: "outbox_payloads", service: "INSERT DELETE", door: "SELECT"},
	{name: "schema_migrations", service: "SELECT", reader: "SELECT"},
	{name: "log_identity", log: true, service: "SELECT", reader: "SELECT"},
	{name: "log_epochs", log: true, service: "SELECT", reader: "SELECT", sweep: "SELECT", door: "SELECT"},
	{name: "audit_events", log: true, service: "SELECT", reader: "SELECT", sweep: "SELECT", door: "INSERT"},
	{name: "audit_leaves", log: true, service: "SELECT INSERT", reader: "SELECT"},
	{name: "audit_tiles", log: true, service: "SELECT INSERT", reader: "SELECT"},
	{name: "audit_checkpoints", log: true, service: "SELECT INSERT", reader: "SELECT"},
	{name: "audit_expiries", log: true, service: "SELECT", reader: "SELECT"},
}

// columns lists the grants on single columns, columns in alphabetical order.
var columns = []struct{ role, may, table, columns string }{
	{service, "SELECT", "tenant_fields", "tenant_id"},
	{service, "UPDATE", "tenant_fields", "avatar_url, client_key, principal_uuid, shared_secret, username, written_at"},
	{service, "UPDATE", "erasures", "erased_at, ledger_hash, ledger_seq, noted_at, principal_digest, verified_at, verified_by"},
	{service, "UPDATE", "replay_guard", "seen_at"},
	{service, "UPDATE", "api_tokens", "revoked_at"},
	{service, "UPDATE", "finding_events", "attempts, delivered_at, next_attempt_at"},
	{service, "UPDATE", "legal_holds", "released_at, released_by"},
	{service, "UPDATE", "deletion_requests", "approved_at, approved_by, attempts, backups_clear_after, certificate_id, deleted_live_at, " +
		"erasure_id, ground, held_from, moved_at, moved_by, moved_ref, not_before, retry_at, state, verified_at"},
	{service, "SELECT", "outbox_payloads", "delivery_id, tenant_id"},
	{service, "UPDATE", "outbox", "attempts, closed_at, dead_at, first_tried_at, last_outcome, last_tried_at, next_attempt_at, state"},
	{sweep, "SELECT", "outbox_payloads", "delivery_id, tenant_id"},
	{sweep, "SELECT", "tenant_fields", "tenant_id, written_at"},
}

const fixedPath = "search_path=pg_catalog, pg_temp"

// functions lists every function. body is the beginning of a SHA-256 over its language,
// volatility, result and text; a test prints the lines of this table.
var functions = []struct {
	name    string
	owner   string
	definer bool
	sets    []string
	callers []string // beside the owner
	body    string
}{
	{"door.append(bytea[])",
		door, true, []string{fixedPath, "plan_cache_mode=force_generic_plan"}, []string{owner, service}, "5b563e03535f188f"},
	{"door.read(bytea[])",
		door, true, []string{fixedPath, "enable_seqscan=off", "plan_cache_mode=force_generic_plan"}, []string{service}, "52e3bb8964d2850e"},
	{"door.note_field_key(bigint)", door, true, []string{fixedPath}, []string{service}, "e6035051019a1a33"},
	{"door.count_sealed()", door, true, []string{fixedPath}, []string{service}, "870253f549608692"},
	{"door.resealable(uuid,integer)", door, true, []string{fixedPath}, []string{service}, "1353d64e925d152a"},
	{"door.reseal(bytea[])", door, true, []string{fixedPath}, []string{service}, "a8cd4e5aaa06ad01"},
	{"door.resealable_payloads(uuid,integer)", door, true, []string{fixedPath}, []string{service}, "58b588a9748861f0"},
	{"door.reseal_payload(bytea)", door, true, []string{fixedPath}, []string{service}, "e8be0f9b64ac1c26"},
	{"door.activate_field_key(bytea,bigint)", door, true, []string{fixedPath}, []string{service}, "4f2fcd8770434c13"},
	{"door.destroy_field_key(bytea,bigint)", door, true, []string{fixedPath}, []string{service}, "01d3127e564bc137"},
	{"door.disclose(bytea)", door, true, []string{fixedPath}, []string{service}, "9334e2a4f0b1588f"},
	{"door.ensure_epoch()",
		owner, true, []string{fixedPath, "enable_seqscan=off", "enable_sort=off"}, []string{service}, "b368c57e4ad1ee63"},
	{"door.make_partitions(integer)", owner, true, []string{fixedPath}, []string{service}, "20e43d26e0f0535f"},
	{"door.tenant_columns()", sweep, true, []string{fixedPath}, []string{service}, "cfe273e52eaf0b22"},
	{"door.count_orphans(name,name,name)", sweep, true, []string{fixedPath}, []string{service}, "607356e5729d0d24"},
	{"door.pace()", sweep, false, []string{fixedPath}, nil, "8be305cb2da248e6"},
	{"door.source(name,name,name)", sweep, false, []string{fixedPath}, nil, "7e0bdf402e9bf9a4"},
	{"door.count_subject(bytea[])", sweep, true, []string{fixedPath}, []string{service}, "3267780bd37f85d7"},
	{"door.measure(name,name,name,timestamp with time zone)", sweep, true, []string{fixedPath}, []string{service}, "b9a2a115b8b34552"},
	{"door.count_tenant(uuid,text[])", sweep, true, []string{fixedPath}, []string{service}, "0f45c2a63a1b94e9"},
	{"door.plant_canary()", owner, true, []string{fixedPath}, []string{service}, "76e81f59239c5e83"},
	{"door.retirable(text,timestamp with time zone)", owner, true, []string{fixedPath}, []string{service}, "d8eaed5105cf7738"},
	{"door.retire(text,timestamp with time zone,integer)", owner, true, []string{fixedPath}, []string{service}, "fe698fc172c35799"},
	{"door.count_shaped(name,name,integer,xid8,bigint,integer)",
		sweep, true, []string{fixedPath, "enable_sort=off"}, []string{service}, "28a64794ec6f75cd"},
	{"door.value_shapes()", sweep, false, []string{fixedPath}, nil, "598a2448ba966180"},
	{"door.count_held()", door, true, []string{fixedPath}, []string{service}, "3df204a0c3cba83f"},
	{"door.holders(text[],uuid,integer)", door, true, []string{fixedPath}, []string{service}, "0d44307d68094fa7"},
	{"trakr.retention_rule(text)", owner, false, []string{fixedPath}, nil, "35b9f6b86649e2cb"},
	{"trakr.request_over(uuid,timestamp with time zone)", owner, false, []string{fixedPath}, nil, "2964234baad22abc"},
	{"trakr.history_stays()", owner, false, []string{fixedPath}, nil, "0ecad45158696e9a"},
	{"trakr.retention_links(text,text[])", owner, false, []string{fixedPath}, nil, "ad150c67ce96cc04"},
	{"trakr.retention_predicate(text)", owner, false, []string{fixedPath}, nil, "a422cd046c956e7e"},
	{"trakr.guard_growth(regclass,boolean)", owner, false, []string{fixedPath}, nil, "5d2997b754806393"},
	{"trakr.judge_request()", owner, true, []string{fixedPath}, nil, "af07f5489aff2e27"},
	{"trakr.judge_hold()", owner, true, []string{fixedPath}, nil, "4dd0a4e34670fd7d"},
	{"trakr.judge_payload_seal()", owner, true, []string{fixedPath}, nil, "3b05e67ecb90b80d"},
	{"trakr.judge_seal()", owner, true, []string{fixedPath}, nil, "a50f57ad5791eb64"},
	{"trakr.make_partition(timestamp with time zone)", owner, false, []string{fixedPath}, nil, "9e737cf4c38b4b72"},
	{"trakr.run_is_over()", owner, false, []string{fixedPath}, nil, "7eb65d05a20823c5"},
	{"trakr.tenant_goes_on()", owner, false, []string{fixedPath}, nil, "93cddced1aa96797"},
	{"trakr.erasure_goes_on()", owner, false, []string{fixedPath}, nil, "bc2ba265b5229e76"},
	{"trakr.delivery_goes_on()", owner, false, []string{fixedPath}, nil, "7f6e305c6ae26d32"},
	{"trakr.refuse_change()", owner, false, []string{fixedPath}, nil, "cad4aee4743b0031"},
}

// policies lists the row security of the values: each command needs, in its own
// transaction, a successful event of one of the actions, and meets a further condition.
var policies = []struct{ name, command, actions, also string }{
	{"recorded_read", "SELECT to PUBLIC using",
		"= ANY (ARRAY['tenant.read'::text, 'tenant.install'::text, 'tenant.update'::text, 'tenant.erase'::text, " +
			"'tenant.reencrypt'::text])", ""},
	{"recorded_install", "INSERT to PUBLIC check", "= 'tenant.install'::text", ""},
	{"recorded_update", "UPDATE to PUBLIC using", "= ANY (ARRAY['tenant.update'::text, 'tenant.reencrypt'::text])", ""},
	{"recorded_erase", "DELETE to PUBLIC using", "= 'tenant.erase'::text",
		"(tenant_id IN ( SELECT x.tenant_id FROM trakr.erasures x" +
			" WHERE ((x.noted_at IS NOT NULL) AND (x.erased_at IS NOT NULL))))" +
			" AND (NOT (tenant_id IN ( SELECT h.tenant_id FROM trakr.legal_holds h" +
			" WHERE ((h.released_at IS NULL) AND (h.until > now())))))"},
}

// expected is what a control's facts must be and may be.
type expected struct {
	must []string
	may  func(fact string) bool // nil: nothing else
}

// Ways out. Each names a command or a file, never only a fault.
const (
	runRoles   = "let an administrator run deploy/roles.sql in this database (trakr migrate does it when its login may)"
	putBack    = "the database was changed; restore what migrations/ creates, and look for who changed it with: trakr audit verify"
	ownLogin   = "give the service a login of its own: ALTER ROLE trakr_service LOGIN PASSWORD '…', and connect as it"
	makeMonths = "start the service, which makes them, or run as the owner: SELECT door.make_partitions(12)"
	serverSet  = "set it to on in postgresql.conf or with the provider, and reload the server"
)

// controls lists all controls, in the order in which they are shown.
var controls = []struct {
	id, name, wayOut string
	required         bool
	expect           func(found facts) expected
	remark           func(found []string) string
}{
	{"session", "the service acts as the role " + service, ownLogin, true, exactly("acts as " + service), nil},
	{"login", "the service's own login has no further rights", ownLogin, false, anything, weaker},
	{"roles", "roles have no attribute they do not need", runRoles, true, expectRoles, nil},
	{"memberships", "the service can act as no other role",
		"REVOKE the membership that is too much; " + runRoles, true, expectMemberships, nil},
	{"owners", "tables and functions belong to roles that cannot log in", putBack, true, expectOwners, nil},
	{"table grants", "roles may do to tables and columns what they need, no more", putBack, true, expectTableGrants, nil},
	{"function grants", "the door's functions can be called by the service alone", putBack, true, expectFunctionGrants, nil},
	{"creation", "the service can create nothing, not even a temporary table", runRoles, true, expectCreation, nil},
	{"row security", "values show only in a transaction that recorded it", putBack, true, expectRowSecurity, nil},
	{"triggers", "the audit only grows, and an erasure only goes on", putBack, true, expectTriggers, nil},
	{"functions", "the door's functions are the ones of this version", putBack, true, expectFunctions, nil},
	{"constraints", "no table takes a row that its checks and unique indexes refuse", putBack, true, expectConstraints, nil},
	{"partitions", "the audit's months are whole and hold an event once", putBack, true, expectPartitions, nil},
	{"ways around", "nothing reads values around the door", "drop what reads them, or revoke it from the service", true, exactly(), nil},
	{"role settings", "no setting weakens the service's sessions",
		"ALTER ROLE … RESET it, or REVOKE the right to set it", true, exactly(), nil},
	{"months ahead", "the audit has a place for this month and the next two", makeMonths, false, expectMonths, nil},
	{"synchronous_commit", "a commit is durable when confirmed", serverSet, false, settingOn, nil},
	{"fsync", "the database flushes to the disk", serverSet, false, exactly("fsync is on"), nil},
	{"full_page_writes", "a power failure tears no page", serverSet, false, exactly("full_page_writes is on"), nil},
}

func exactly(must ...string) func(facts) expected {
	return func(facts) expected { return expected{must: must} }
}

func anything(facts) expected { return expected{may: func(string) bool { return true }} }

// weaker returns a remark when the login behind SET ROLE has more rights than the role.
func weaker(found []string) string {
	login := strings.Join(found, ", ")
	if login == service || login == "a login of its own" {
		return ""
	}
	return "weaker: the connection logs in with the rights of " + login + " and only chose to act as " + service + "; " + ownLogin
}

// settingOn accepts every synchronous_commit that waits for the local disk.
func settingOn(facts) expected {
	return expected{may: func(f string) bool { return f != "synchronous_commit is off" }}
}

func expectRoles(facts) expected {
	var e expected
	var may []string
	for _, r := range roles {
		e.must = append(e.must, r.name+" exists")
		for _, a := range strings.Fields(r.may) {
			may = append(may, r.name+" "+a)
		}
	}
	e.may = in(may)
	return e
}

func expectMemberships(facts) expected {
	return expected{
		must: []string{owner + " is a member of " + door, owner + " is a member of " + sweep},
		// Where an administrator cannot give these, sweeps and backups report it or fail.
		may: in([]string{sweep + " is a member of pg_read_all_data", backup + " is a member of pg_read_all_data"}),
	}
}

// expectOwners: a table of a later version, which is not listed here, belongs to the owner.
func expectOwners(found facts) expected {
	e := expected{must: []string{"schema trakr belongs to " + owner, "schema door belongs to " + owner}}
	for _, t := range tables {
		e.must = append(e.must, "trakr."+t.name+" belongs to "+owner)
	}
	for _, f := range functions {
		e.must = append(e.must, f.name+" belongs to "+f.owner)
	}
	e.may = func(f string) bool { return strings.HasSuffix(f, " belongs to "+owner) && !strings.Contains(f, "(") }
	return e
}

func expectTableGrants(found facts) expected {
	var e expected
	for _, t := range tables {
		for _, g := range []struct{ role, may string }{{service, t.service}, {reader, t.reader}, {sweep, t.sweep}, {door, t.door}} {
			for _, p := range strings.Fields(g.may) {
				e.must = append(e.must, fmt.Sprintf("%s may %s trakr.%s", g.role, p, t.name))
			}
		}
	}
	for _, c := range columns {
		e.must = append(e.must, fmt.Sprintf("%s may %s trakr.%s (%s)", c.role, c.may, c.table, c.columns))
	}
	// The sweep counts rows of the tables of later versions too (default privileges in
	// migrations); on the values its grant covers two columns.
	e.may = func(f string) bool {
		table, ok := strings.CutPrefix(f, sweep+" may SELECT trakr.")
		return ok && table != "tenant_fields" && table != "outbox_payloads" && !strings.Contains(table, "(")
	}
	return e
}

func expectFunctionGrants(facts) expected {
	var e expected
	for _, f := range functions {
		for _, c := range f.callers {
			e.must = append(e.must, c+" may call "+f.name)
		}
	}
	return e
}

func expectCreation(facts) expected {
	return expected{must: []string{
		door + " has USAGE on schema door", door + " has USAGE on schema trakr",
		sweep + " has USAGE on schema door", sweep + " has USAGE on schema trakr",
		service + " has USAGE on schema door", service + " has USAGE on schema trakr",
		reader + " has USAGE on schema trakr",
		sweep + " may SELECT every new table of " + owner,
	}}
}

func expectRowSecurity(facts) expected {
	const values = "trakr.tenant_fields "
	e := expected{must: []string{
		values + "has row-level security enabled",
		values + "has row-level security forced",
		values + "sweep_counts: SELECT to " + sweep + " using true",
		values + "door_reads: SELECT to " + door + " using true",
	}}
	for _, p := range policies {
		recorded := "(tenant_id IN ( SELECT e.tenant_id FROM trakr.audit_events e" +
			" WHERE ((e.recorded_at = transaction_timestamp()) AND (e.epoch = ( SELECT max(n.epoch) AS max FROM trakr.log_epochs n))" +
			" AND (e.xid = pg_current_xact_id()) AND (e.outcome = 'success'::text)" +
			" AND (e.action " + p.actions + "))))"
		if p.also != "" {
			recorded = "(" + recorded + " AND " + p.also + ")"
		}
		e.must = append(e.must, values+p.name+": "+p.command+" "+recorded)
	}
	return e
}

func expectTriggers(found facts) expected {
	const history = " ON trakr.deletion_request_events FOR EACH "
	e := expected{must: []string{
		"request_moves AFTER INSERT OR UPDATE ON trakr.deletion_requests FOR EACH ROW EXECUTE FUNCTION trakr.judge_request() always",
		"rows_stay BEFORE DELETE OR UPDATE" + history + "ROW EXECUTE FUNCTION trakr.history_stays() always",
		"table_stays BEFORE TRUNCATE" + history + "STATEMENT EXECUTE FUNCTION trakr.refuse_change() always",
		"judge_seal BEFORE INSERT OR UPDATE ON trakr.tenant_fields FOR EACH ROW EXECUTE FUNCTION trakr.judge_seal() always",
		"judge_payload_seal BEFORE INSERT OR UPDATE ON trakr.outbox_payloads" +
			" FOR EACH ROW EXECUTE FUNCTION trakr.judge_payload_seal() always",
		"hold_changes AFTER INSERT OR UPDATE ON trakr.legal_holds FOR EACH ROW EXECUTE FUNCTION trakr.judge_hold() always",
	}}
	growing := months(found)
	for _, t := range tables {
		if t.log {
			growing = append(growing, "trakr."+t.name)
		}
	}
	for _, t := range growing {
		e.must = append(e.must,
			"rows_stay BEFORE DELETE OR UPDATE ON "+t+" FOR EACH ROW EXECUTE FUNCTION trakr.refuse_change() always",
			"table_stays BEFORE TRUNCATE ON "+t+" FOR EACH STATEMENT EXECUTE FUNCTION trakr.refuse_change() always")
	}
	for _, t := range moves {
		e.must = append(e.must, t.trigger+" BEFORE UPDATE ON trakr."+t.table+" FOR EACH ROW EXECUTE FUNCTION trakr."+t.trigger+"() always")
	}
	return e
}

// moves lists the tables whose rows change only as a trigger allows.
var moves = []struct{ table, trigger string }{
	{"erasures", "erasure_goes_on"},
	{"sweep_runs", "run_is_over"},
	{"tenants", "tenant_goes_on"},
	{"outbox", "delivery_goes_on"},
}

func expectFunctions(facts) expected {
	var e expected
	for _, f := range functions {
		security := " is SECURITY INVOKER"
		if f.definer {
			security = " is SECURITY DEFINER"
		}
		e.must = append(e.must, f.name+security, f.name+" has body "+f.body)
		for _, s := range f.sets {
			e.must = append(e.must, f.name+" sets "+s)
		}
	}
	return e
}

// expectConstraints: a table of a later version, which is not listed here, has its own.
func expectConstraints(facts) expected {
	var e expected
	known := map[string]bool{}
	for _, c := range constraints {
		known["trakr."+c.table] = true
		for _, what := range c.has {
			e.must = append(e.must, "trakr."+c.table+" has "+what)
		}
	}
	e.may = func(f string) bool {
		table, _, ok := strings.Cut(f, " has ")
		return ok && !known[table]
	}
	return e
}

// month is a partition as door.make_partitions makes it.
var month = regexp.MustCompile(`^(trakr\.audit_events_(\d{4})(\d{2})) is a month of the audit` +
	` FOR VALUES FROM \('(\d{4})-(\d{2})-01 00:00:00\+00'\) TO \('(\d{4})-(\d{2})-01 00:00:00\+00'\)$`)

func expectPartitions(found facts) expected {
	var e expected
	for _, m := range months(found) {
		e.must = append(e.must, m+" has each event_id once")
	}
	e.may = func(f string) bool {
		m := month.FindStringSubmatch(f)
		if m == nil {
			return false
		}
		next := func(y, mo string) string {
			var a, b int
			_, _ = fmt.Sscan(y, &a)
			_, _ = fmt.Sscan(strings.TrimPrefix(mo, "0"), &b)
			return fmt.Sprintf("%04d%02d", a+b/12, b%12+1)
		}
		return m[2] == m[4] && m[3] == m[5] && m[6]+m[7] == next(m[2], m[3])
	}
	return e
}

// months lists the partitions that exist.
func months(found facts) []string {
	var out []string
	for _, f := range found["partitions"] {
		if name, _, ok := strings.Cut(f, " is a month of the audit"); ok {
			out = append(out, name)
		}
	}
	return out
}

func expectMonths(facts) expected {
	return expected{may: func(f string) bool { return strings.HasSuffix(f, " is there") }}
}

func in(list []string) func(string) bool {
	return func(f string) bool { return slices.Contains(list, f) }
}
