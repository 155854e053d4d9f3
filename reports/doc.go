// Package reports turns the policy (what is promised) and the facts (what the database
// contains) into documents that a compliance reviewer can forward: JSON, CSV and
// self-contained printable HTML.
//
// The package is pure: the same policy, facts and version give the same bytes. It never
// receives a tenant's value; Facts has no field for one.
//
// # Which check makes a sentence true
//
// The security statement's sentences are in policy/statement.yaml. Each sentence lists
// the ids of the checks that must pass for it to be true: the sentence "location", for
// example, needs "one-place", "observed-place" and "policy". The variable checks in
// statement_checks.go lists every id beside the function that decides it. A new check is
// one line there, one function, and its id in statement.yaml.
//
// # Which report answers which question
//
//	location     where each store is, and what the running system shows of it
//	retention    how long each class of data is kept, and whether that is carried out
//	requests     customers' deletion requests and their dates
//	attestation  that no row of an erased tenant remains
//	statement    the public security statement, each sentence with its checks
//	marketplace  Atlassian's Privacy & Security document
package reports
