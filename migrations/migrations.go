// Package migrations embeds the numbered SQL files that make the database what
// the service expects. Files only go forward; each says what it costs on a big
// live table. The store applies them under a lock.
package migrations

import "embed"

// FS holds the files, at its root.
//
//go:embed *.sql
var FS embed.FS
