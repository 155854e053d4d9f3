#!/bin/sh
# Makes the secret files of compose.yaml beside it, in secrets/, for the operator
# who sets it up. What is there is kept. Run as root: each file belongs to the
# user that reads it in its container.
#
# usage: secrets.sh COMMAND...
#   COMMAND is how to run trakr, for the keyring. With the image:
#     sudo sh secrets.sh docker run --rm --network none trakr:local
#
# Keep a copy of secrets/keys.json where no backup of the database goes: without
# it tenant values cannot be read, and with both they can.
set -eu
umask 077

[ $# -gt 0 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "secrets.sh: run it as root, to hand the files to the containers' users" >&2; exit 2; }

postgres=999 trakr=65532 # as in compose.yaml and the Dockerfile
dir=$(cd "$(dirname "$0")" && pwd)/secrets
mkdir -p "$dir"
chmod 0711 "$dir"

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# keep NAME OWNER MODE: standard input becomes the file, whole or not at all.
keep() {
	cat >"$dir/.$1.new"
	[ -s "$dir/.$1.new" ] || { rm -f "$dir/.$1.new"; echo "secrets.sh: nothing came for $1" >&2; exit 1; }
	chown "$2" "$dir/.$1.new"
	chmod "$3" "$dir/.$1.new"
	mv "$dir/.$1.new" "$dir/$1"
	echo "secrets.sh: $dir/$1 made"
}

[ -e "$dir/superuser" ] || random | keep superuser "$postgres:$postgres" 0400
# Read by the service as password files, and once by database.sql.
[ -e "$dir/database" ] || printf 'postgres:5432:trakr:trakr_service:%s\n' "$(random)" | keep database "$trakr:$postgres" 0440
[ -e "$dir/migration" ] || printf 'postgres:5432:trakr:trakr_migration:%s\n' "$(random)" | keep migration "$trakr:$postgres" 0440
# The service refuses a keyring that its group or others can read.
if ! [ -e "$dir/keys.json" ]; then
	keys=$("$@" keys create --out -) || { echo "secrets.sh: this does not make a keyring: $* keys create --out -" >&2; exit 1; }
	printf '%s\n' "$keys" | keep keys.json "$trakr:$trakr" 0400
fi
