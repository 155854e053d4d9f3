#!/bin/sh
# make demo: the whole story on this machine, in a data directory of its own.
# Starts the service, plays Bitbucket against it, sweeps, issues both reports,
# stops the service and says where to look.
set -eu

trakr=$(pwd)/bin/trakr
dir=$(pwd)/data/demo
mkdir -p "$dir"
export TRAKR_DATA_DIR="$dir" TRAKR_LISTEN=127.0.0.1:18080 TRAKR_ADMIN_LISTEN=127.0.0.1:18081 TRAKR_BITBUCKET_API_URL=http://127.0.0.1:18090

say() { printf '\n== %s\n' "$*"; }

say "starting the service (its log: $dir/service.log)"
"$trakr" serve --dev >"$dir/service.out" 2>"$dir/service.log" &
service=$!
trap 'kill -INT "$service" 2>/dev/null || true; wait "$service" 2>/dev/null || true' EXIT

tries=0
until "$trakr" doctor >"$dir/doctor.txt" 2>&1; do
	tries=$((tries + 1))
	if [ "$tries" -gt 60 ] || ! kill -0 "$service" 2>/dev/null; then
		echo "the service did not start:" >&2
		tail -n 5 "$dir/service.log" "$dir/doctor.txt" >&2
		exit 3
	fi
	sleep 1
done
cat "$dir/doctor.txt"

say "Bitbucket: installs, reads, replays, forgeries, uninstalls"
"$trakr" simulate --target "http://$TRAKR_LISTEN" --admin "http://$TRAKR_ADMIN_LISTEN" --api 127.0.0.1:18090 \
	--installs 20 --uninstalls 8 --reads 60 --repeats 5 --replays 5 --forgeries 18 --drops 2

say "sweep: does anything of the uninstalled remain?"
"$trakr" sweep run orphans

say "reports"
"$trakr" report location --format html --out "$dir/location.html"
"$trakr" report retention --format html --out "$dir/retention.html"
"$trakr" audit export --format csv --out "$dir/audit.csv"

say "the newest audit events"
"$trakr" audit list --limit 8

say "where to look"
echo "  $dir/location.html    where data lies, declared and observed"
echo "  $dir/retention.html   how long it is kept, and that it goes"
echo "  $dir/audit.csv        who touched which field, when and why"
