// Package deploy holds the files by which operators run the service: a container
// image, Compose with PostgreSQL, a systemd unit, a spec for DigitalOcean App
// Platform, and the database's roles. README.md says which is for whom. As a
// package it only hands roles.sql to the migrations.
//
// Its tests judge those files as far as a machine without a container engine, a
// running systemd or a DigitalOcean account can: each rule is checked by the
// tests' own reading of the file, and where openssl or systemd-analyze is
// installed by that too. They do not start a container.
package deploy
