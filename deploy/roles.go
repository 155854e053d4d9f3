package deploy

import _ "embed"

// Roles is roles.sql: the file that an administrator runs once in a new database.
//
//go:embed roles.sql
var Roles string
