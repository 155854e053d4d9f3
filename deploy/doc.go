// Package deploy contains the files by which operators run the service: a container
// image, Compose with PostgreSQL, a systemd unit, a spec for DigitalOcean App
// Platform, the database's roles, and the generated table of settings. README.md helps
// to choose. As a package it only embeds roles.sql, for the migrations.
//
// Its tests check those files as far as a machine without a container engine, a
// running systemd or a DigitalOcean account can: each rule is checked by the
// tests' own reading of the file, and where openssl or systemd-analyze is
// installed by that too. They do not start a container.
package deploy
