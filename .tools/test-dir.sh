#!/bin/sh
# Prints a new directory for one run of the tests; the caller removes it.
#
# It is in memory where that is possible: the tests copy some hundred databases, and on a
# disk most of their time is the kernel's. /dev/shm is used when it has 6 GB free and
# programs may run from it (a container's often has 64 MB and is mounted noexec).
set -eu

usable() {
	[ "$(df -Pk "$1" | awk 'NR == 2 { print $4 }')" -ge 6000000 ] || return 1
	printf '#!/bin/sh\n' >"$1/probe" && chmod 755 "$1/probe" && "$1/probe" 2>/dev/null && rm "$1/probe"
}

if dir=$(mktemp -d /dev/shm/trakr-test.XXXXXX 2>/dev/null); then
	if ! usable "$dir"; then
		rm -rf "$dir"
		dir=
	fi
fi
[ -n "${dir:-}" ] || dir=$(mktemp -d)
chmod 755 "$dir" # the database's user must get through
echo "$dir"
