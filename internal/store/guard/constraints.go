package guard

// constraints lists what each table makes sure of by itself, the months of the audit
// apart: constraints and unique indexes by name, and the columns that are always
// filled, each with the beginning of a SHA-256 over its definition. The test that
// prints the digests of functions prints these lines anew.
var constraints = []struct {
	table string
	has   []string
}{
	{"api_tokens", []string{
		"api_tokens_hash_form 3c9a72196bce0a69",
		"api_tokens_hash_once 0d30b45d95b82cf6",
		"api_tokens_pk 8c8464f42472e42e",
		"api_tokens_role_known d0a49c580b50e14d",
		"columns that are always filled ccc9c28ddc635618",
	}},
	{"audit_checkpoints", []string{
		"audit_checkpoints_pk 2e5f8a39a9a68b83",
		"audit_checkpoints_some 6c4fbe34c8a64ee8",
		"columns that are always filled a92e954be509a2f7",
	}},
	{"audit_events", []string{
		"audit_events_action_form 5c2d1486ef64fac9",
		"audit_events_actor_known f350b01f65720e57",
		"audit_events_outcome_known e0a52639397aa375",
		"audit_events_pk 83bfd79eb57c4144",
		"columns that are always filled 559c3e1a9178ee9b",
	}},
	{"audit_expiries", []string{
		"audit_expiries_pk e23c42f97787b707",
		"columns that are always filled 95c20083deccc7c8",
	}},
	{"audit_leaves", []string{
		"audit_leaves_from_zero b5a4741f57a03a65",
		"audit_leaves_one_hash_each c997043a9c9ee88b",
		"audit_leaves_pk 70debd392b5e2160",
		"audit_leaves_some 02f8e804d617ffd7",
		"columns that are always filled 4d8cb3dd7d8aeb8f",
	}},
	{"audit_tiles", []string{
		"audit_tiles_full 682f2f798591f53b",
		"audit_tiles_pk bce0b9b5a2d42933",
		"columns that are always filled 2086fb6aaf9bb48f",
	}},
	{"certificates", []string{
		"certificates_of 2a9781b57889e9e9",
		"certificates_of_something 45fd0b1830d7dd92",
		"certificates_one_a_request 42b491790b4db13f",
		"certificates_one_each 6eee3117cad1e2c4",
		"certificates_pk 85696a1924cc1c71",
		"columns that are always filled 39de75ab3c284ba3",
	}},
	{"deletion_request_events", []string{
		"columns that are always filled 66b71b6e6eb71c5c",
		"deletion_request_events_of f91844e669df96ab",
		"deletion_request_events_pk 075dc02849867209",
	}},
	{"deletion_requests", []string{
		"columns that are always filled 7183adcb47aa9628",
		"deletion_requests_approval_whole 994d04002b194954",
		"deletion_requests_completed_with_proof bb1191552120f031",
		"deletion_requests_denied_on_ground e5707e6bd7df881a",
		"deletion_requests_duplicate_of_one 9e00ae84ed1135d8",
		"deletion_requests_existing 624485c7f637b46a",
		"deletion_requests_ground_known 519cc2aa522d0219",
		"deletion_requests_held_from_somewhere c7233ba079d577f9",
		"deletion_requests_of_something 125f434a22982f92",
		"deletion_requests_pk 9949b7b661468b32",
		"deletion_requests_state_known ea84cb0a53e2429f",
		"deletion_requests_tenant 5bccc2298ce42697",
		"deletion_requests_ticket_form 95cd3fc65b8ca201",
		"deletion_requests_two_people 0e70658fae8cbd6b",
		"trakr.deletion_requests_one_open 8d5f51c0293dd562",
	}},
	{"erasure_counts", []string{
		"columns that are always filled 056a82089d38c0f6",
		"erasure_counts_of 2a9781b57889e9e9",
		"erasure_counts_pk 7a3e641e43513e18",
		"erasure_counts_step_known 2933550290799c64",
	}},
	{"erasures", []string{
		"columns that are always filled ca05f94e8d981c76",
		"erasures_in_order aba1d66028c25a76",
		"erasures_ingress_known bec25ad9938c9ce0",
		"erasures_ledger_form 60caae039b11c38d",
		"erasures_once 71be5d2e07b5ebc3",
		"erasures_pk f071cc98ed7c46af",
		"erasures_subject_form 511587954f21a8d4",
		"erasures_tenant 5bccc2298ce42697",
		"erasures_token_form 3ba54ce4e48e7c2a",
		"erasures_trigger_known 4c8da54074cc2f4b",
	}},
	{"finding_events", []string{
		"columns that are always filled 08c5a5cbc9492bfe",
		"finding_events_finding 1060dc1ef5357a13",
		"finding_events_pk 1f4ed29be0083602",
		"finding_events_run 70330de577b696cc",
		"finding_events_transition_known 1a5fc7ae7b421e7e",
		"trakr.finding_events_once 0623c3ef748ff35a",
	}},
	{"findings", []string{
		"columns that are always filled 24e4e5fb561c3d7a",
		"findings_acknowledged_whole c3c13036014924b7",
		"findings_pk 6d7ea10845486e91",
		"findings_run 198ff9f8e6f20361",
		"findings_severity_known 1ae9da73ccda6925",
		"trakr.findings_open_once d5165e94cf609ab2",
	}},
	{"job_heartbeats", []string{
		"columns that are always filled 9216a67eca75a1e1",
		"job_heartbeats_interval_positive 104e3ef0e4b8869c",
		"job_heartbeats_jitter_known b2acadb21f04c70f",
		"job_heartbeats_pk e6b843e146155e19",
	}},
	{"keyring_checks", []string{
		"columns that are always filled 1cfe9209f5e2b680",
		"keyring_checks_form 2b3d3a09b2a8c52b",
		"keyring_checks_pk 32c1f183ef280581",
	}},
	{"ledger_identity", []string{
		"columns that are always filled b2b640bde5dbbe77",
		"ledger_identity_pk 2c7d7a149eeaf5b7",
	}},
	{"legal_holds", []string{
		"columns that are always filled 413e217efcf676b9",
		"legal_holds_end 01afc0f9c97fdbfa",
		"legal_holds_ground_known 32b41b02df1969b3",
		"legal_holds_pk 857641dfb14b8912",
		"legal_holds_ref_form 3f60cccc6c310181",
		"legal_holds_released_by_somebody 8aed4730acd31810",
		"legal_holds_tenant 5bccc2298ce42697",
	}},
	{"log_epochs", []string{
		"columns that are always filled 67eecfe5111bb99c",
		"log_epochs_pk 6d05dbfd9b36ae20",
	}},
	{"log_identity", []string{
		"columns that are always filled 3dd1d9e1c2bb55ed",
		"log_identity_pk 540dc6277eff06df",
	}},
	{"payload_keys_seen", []string{
		"columns that are always filled 9f9129419201c254",
		"payload_keys_seen_form f0321a91b65c5ee3",
		"payload_keys_seen_pk 7bae5e355e1887cc",
	}},
	{"replay_guard", []string{
		"columns that are always filled 5993b193127fcea4",
		"replay_guard_form 3ba54ce4e48e7c2a",
		"replay_guard_pk 7f83f75b65dd247e",
		"replay_guard_tenant 5bccc2298ce42697",
	}},
	{"reports_issued", []string{
		"columns that are always filled 6cad28275dfdcab6",
		"reports_issued_pk d730f7f65dfbbd93",
	}},
	{"schedule_state", []string{
		"columns that are always filled c02f95d9eedf6183",
		"schedule_state_pk e6b843e146155e19",
	}},
	{"schema_migrations", []string{
		"columns that are always filled 3fe246c9bda8fdd1",
		"schema_migrations_pkey 8c8464f42472e42e",
	}},
	{"shape_scans", []string{
		"columns that are always filled a2b2af199d9b1afb",
		"shape_scans_counted 610ddfffd3038f68",
		"shape_scans_pk 5bdd25fd293c49ae",
	}},
	{"sweep_canaries", []string{
		"columns that are always filled 50333fe7202a7e97",
		"sweep_canaries_pk 4f686577632e2af7",
		"sweep_canaries_reserved 75b405c28e44c2e6",
	}},
	{"sweep_results", []string{
		"columns that are always filled 69d772fb562c3a67",
		"sweep_results_disposition_known e45c5bed281af8df",
		"sweep_results_duration_known 3829788b6cec6dc2",
		"sweep_results_pk 04fd933329b1bce4",
		"sweep_results_rows_counted d19c651e2fc12dd4",
		"sweep_results_run 70330de577b696cc",
	}},
	{"sweep_runs", []string{
		"columns that are always filled f05411bd19249e53",
		"sweep_runs_finished_has_result 8490fcf3606dc0ab",
		"sweep_runs_pk 360aa242ca7cb29e",
		"sweep_runs_result_known 35d0130ff59095cb",
		"sweep_runs_trigger_known 11c6ad66e1335eaf",
	}},
	{"tenant_fields", []string{
		"columns that are always filled 11cc8377380ea262",
		"tenant_fields_pk 6389a079a1ff3a19",
		"tenant_fields_tenant 5bccc2298ce42697",
	}},
	{"tenant_liveness", []string{
		"columns that are always filled 203a0110367f3374",
		"tenant_liveness_counted 1e6071bbeec40958",
		"tenant_liveness_pk 6389a079a1ff3a19",
		"tenant_liveness_suspicion_has_times 919d3ba9400b2c1b",
		"tenant_liveness_tenant 5bccc2298ce42697",
	}},
	{"tenants", []string{
		"columns that are always filled 9baab3da92cd5a1d",
		"tenants_erased_is_empty 516baf62ae177649",
		"tenants_ingress_known bec25ad9938c9ce0",
		"tenants_never_the_canary 79d7e16c729e2eab",
		"tenants_pk 6389a079a1ff3a19",
		"tenants_principal_form 9bdc66ba6e9867d1",
		"tenants_state_known 157bff536265d742",
		"tenants_subject_form 511587954f21a8d4",
		"trakr.tenants_subject_live 745c063a90aac125",
	}},
	{"verified_log", []string{
		"columns that are always filled 41407e2fea3fb0dd",
		"verified_log_pk 8c8464f42472e42e",
		"verified_log_root_form fc44c96b7d56dd40",
		"verified_log_some 6c4fbe34c8a64ee8",
	}},
}
