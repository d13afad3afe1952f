#!/usr/bin/env bash
# Makes the certificates of these tests anew: an authority, a node `tally.test`, a client, each for a hundred
# years. Their keys are of nobody and protect nothing.
set -euo pipefail
cd "$(dirname "$0")"
key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
key ca
openssl req -x509 -new -key ca.key -subj "/CN=tally tests" -days 36500 -out ca.pem
for who in node client; do
    key "$who"
    openssl req -new -key "$who.key" -subj "/CN=$who" |
        openssl x509 -req -CA ca.pem -CAkey ca.key -days 36500 -out "$who.pem" \
            -extfile <(echo "subjectAltName=DNS:tally.test")
done
rm ca.key
