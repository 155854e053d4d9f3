// Package census counts in the live catalog. No list of tables is kept by hand: the
// database's own functions list every column of every table, as a role that sees every
// row and returns no value, and the policy declares what each is.
//
// Four counts exist: rows of tenants that are not live (Orphans), rows of one tenant
// (Tenant), values shaped like an e-mail address or a telephone number (Shapes), and the
// columns themselves (Catalog). A count that cannot be made is Unjudged and never zero.
//
// The package writes only its own bookkeeping: the canary, which proves that Orphans sees
// every row, and the position up to which Shapes has searched the audit. Package findings
// stores the counts.
package census

import "trakr/internal/store"

// Store counts in one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }
