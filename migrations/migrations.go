// Package migrations embeds the numbered SQL files that make the database what the
// service expects. The store applies them under a lock, each in one transaction.
//
// The first nine, one for each aggregate, are the baseline: they make the whole database
// of the first version that is deployed. From there on every change of the schema is a
// new file with the next number, and no existing file changes: a database that has it
// would differ from a new one. The head of a file explains to the operator what it costs
// on a big live table; old code must be able to run beside it, or the head must
// state that it cannot.
//
// trakr.schema_migrations carries the mark of the baseline as its comment. The store
// refuses a database that has versions and no mark: its numbers mean other files.
package migrations

import "embed"

// FS contains the files, at its root.
//
//go:embed *.sql
var FS embed.FS
