#!/bin/sh
# Makes the certificate of the PostgreSQL in compose.yaml, by which the service
# knows that it talks to that server. Run by the one-shot service "certificate".
#
# usage: certificate.sh NAME SERVER_DIR CA_DIR
#   NAME        host name the service connects to
#   SERVER_DIR  gets server.crt and server.key (0640, for the group it runs as)
#   CA_DIR      gets ca.crt
#
# The authority signs this one certificate and its key is then thrown away, so
# nobody can make a second. What is there is kept while it is valid for another
# 90 days; after that, `docker compose down` and `up` make and use a new one.
set -eu
umask 077

name=$1 server=$2 ca=$3
days=3650

if openssl verify -CAfile "$ca/ca.crt" -verify_hostname "$name" "$server/server.crt" >/dev/null 2>&1 &&
	openssl x509 -in "$server/server.crt" -noout -checkend 7776000 >/dev/null &&
	[ -s "$server/server.key" ]; then
	echo "certificate: the one for $name is valid; kept"
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/conf" <<CONF
[req]
distinguished_name = subject
prompt = no
[subject]
CN = $name
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:$name
authorityKeyIdentifier = keyid
CONF

curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
# shellcheck disable=SC2086 # several arguments on purpose
openssl req -x509 $curve -config "$work/conf" -extensions authority -subj "/CN=Trakr database authority" \
	-days "$days" -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
# shellcheck disable=SC2086
openssl req -new $curve -config "$work/conf" -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
	-days "$days" -extfile "$work/conf" -extensions server -out "$work/server.crt" 2>/dev/null

# put FILE DIR MODE: whole or not at all. A crash between two files leaves a pair
# that does not verify, and the next run makes all of them anew.
put() {
	cp "$work/$1" "$2/.$1.new"
	chmod "$3" "$2/.$1.new"
	mv "$2/.$1.new" "$2/$1"
}
put ca.crt "$ca" 0644
put server.key "$server" 0640
put server.crt "$server" 0644
echo "certificate: made for $name, valid for $days days"
