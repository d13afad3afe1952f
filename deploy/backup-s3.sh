#!/usr/bin/env bash
# Backups in an object store (docs/backup.md), against a real server: MinIO, over TLS, on this machine. A node of three
# makes them on schedule while clients write; its credentials are refused and mended; the store is killed in the middle
# of an upload, is away until an attempt has failed, and comes back; then all nodes and disks are lost, and a new cluster goes on
# from the newest object. Everything that has a backup's name is read and found right all along.
#
#     deploy/backup-s3.sh DIRECTORY     (with tallyd and tally)
#     deploy/backup-s3.sh --build       (makes the server from its Go module, once, into ~/.cache/tally-ci/bin)
#
# Without the server, which needs Go and some minutes to be made, it says SKIPPED. It is a tool of this test alone:
# nothing of it is linked or given away.

set -euo pipefail

readonly SERVER=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
readonly BIN="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci/bin"
readonly STORE=127.0.0.1:23390 CONSOLE=127.0.0.1:23391
readonly BUCKET=backups PREFIX=of/tally
readonly KEPT=3

if [[ ${1:-} == --build ]]; then
    mkdir -p "$BIN"
    GOBIN=$BIN go install -trimpath -ldflags "-s -w" "$SERVER"
    "$BIN/minio" --version
    exit
fi
programs=$(cd "${1:?usage: deploy/backup-s3.sh DIRECTORY | --build}" && pwd)
if [[ ! -x $BIN/minio ]]; then
    echo "*** SKIPPED: backups in an object store: there is no server (deploy/backup-s3.sh --build)"
    exit
fi
if ! command -v curl >/dev/null; then
    echo "*** SKIPPED: backups in an object store: there is no curl"
    exit
fi
export PATH=$programs:$PATH
work=$(mktemp --directory)
unset TALLY_TOKEN TALLY_ENDPOINTS AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
store=
writer=
declare -A nodes=()

fail() {
    echo "backups in an object store: $1" >&2
    tail -n 5 "$work"/*.log >&2 || true
    exit 1
}
said() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# Ends a process as a fire would.
burn() {
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
clean_up() {
    local status=$? pid
    for pid in $writer "${nodes[@]}" $store; do burn "$pid"; done
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
# What ends it says where: most of what it calls is quiet.
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR

within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

cd "$work"
id=tally-$RANDOM$RANDOM secret=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
tally cert init >/dev/null
tally cert node 9 --hosts localhost,127.0.0.1 >/dev/null
mkdir certs objects
cp certificates/node-9.crt certs/public.crt
cp certificates/node-9.key certs/private.key

s3() { curl --silent --show-error --fail --max-time 10 --cacert certificates/ca.crt --aws-sigv4 aws:amz:us-east-1:s3 --user "$id:$secret" "$@"; }
answers() { curl --silent --fail --max-time 2 --cacert certificates/ca.crt "https://$STORE/minio/health/ready"; }
start_store() {
    MINIO_ROOT_USER=$id MINIO_ROOT_PASSWORD=$secret MINIO_BROWSER=off \
        "$BIN/minio" server --quiet --certs-dir certs --address $STORE --console-address $CONSOLE objects >>store.log 2>&1 &
    store=$!
    within 60 answers || fail "the store does not start"
}
# Names of all objects, as the store says.
objects() { s3 "https://$STORE/$BUCKET?list-type=2" | grep -o '<Key>[^<]*</Key>' | sed 's,</\?Key>,,g'; }
backups() { objects | grep '\.backup$' || true; }
# What node 2 says of its backups; nothing if it did not answer in time. (A `null` would end this script where a number is
# compared, as the name of a variable that is not set, and within `within` without a word.)
of_node_2() { tally status --json | jq -r ".nodes[] | select(.id == 2) | .backups.$1 // empty"; }
fails() { [[ -n $(of_node_2 error) ]]; }
works() { [[ -z $(of_node_2 error) && $(of_node_2 made) -gt ${1:-0} ]]; }
says() { of_node_2 error | grep -q "$1"; }

start_nodes() {
    local n store_of
    for n in 1 2 3; do
        store_of=()
        [[ $n != 2 || $1 != old ]] || store_of=(--backup-to "s3://$BUCKET/$PREFIX" --backup-interval-ms 4000 --backups-kept "$KEPT"
            --backup-s3-endpoint "https://$STORE" --backup-s3-ca-file certificates/ca.crt --backup-s3-credentials-file credentials)
        # What is there for `tally` says nothing to a node without a store.
        env -u TALLY_BACKUP_S3_ENDPOINT -u TALLY_BACKUP_S3_CA_FILE -u TALLY_BACKUP_S3_CREDENTIALS_FILE \
            tallyd serve --node-id $n --data-dir "$1-$n" --client-listen 127.0.0.1:2331$n --peer-listen 127.0.0.1:2332$n \
            --metrics-listen 127.0.0.1:2333$n --initial-cluster 1=127.0.0.1:23321,2=127.0.0.1:23322,3=127.0.0.1:23323 \
            "${store_of[@]}" >>"$1-$n.log" 2>&1 &
        nodes[$n]=$!
    done
    within 60 tally status --check || fail "no cluster"
}
# The state, the store and its copies are on one machine and its disk: elections are not what is tried.
export TALLY_HEARTBEAT_INTERVAL_MS=200 TALLY_ELECTION_TIMEOUT_MS_MIN=2000 TALLY_ELECTION_TIMEOUT_MS_MAX=4000
export TALLY_ENDPOINTS=127.0.0.1:23311,127.0.0.1:23312,127.0.0.1:23313
with_credentials() { (umask 077; printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$id" "$1" >credentials.new); mv credentials.new credentials; }

start_store
s3 --request PUT "https://$STORE/$BUCKET" || fail "no bucket"

# --- Credentials that are wrong, that others may read, and that are mended without a restart.
with_credentials hush
start_nodes old
within 30 says "refuses these credentials" || fail "wrong credentials are not told: $(of_node_2 error)"
said "refused: $(of_node_2 error)"
with_credentials "$secret"
chmod 644 credentials
within 30 says "chmod 600" || fail "a file that others read is taken: $(of_node_2 error)"
chmod 600 credentials
within 30 works || fail "no backup with the right ones: $(of_node_2 error)"

# --- A state of several parts that do not compress, and writers that say what was acknowledged.
for ((at = 1; at <= 24; at++)); do head -c 500000 /dev/urandom | base64 --wrap=0 | tally kv put "large/$at" - >/dev/null; done
(for ((order = 1; ; order++)); do
    [[ ! -e stop ]] || exit 0
    # Under its key it counts once, however often it is sent.
    until tally counter add stock 1 --idempotency-key "order-$order" --idempotency-window 1h >/dev/null 2>&1; do sleep 0.2; done
    echo "$order" >acknowledged.new
    mv acknowledged.new acknowledged # whoever reads it finds a whole one
done) &
writer=$!
within 30 works || fail "node 2 says nothing of its backups"
made=$(of_node_2 made)
within 60 works $((made + KEPT + 1)) || fail "no more backups: $(of_node_2 error)"
right() {
    local name count=0
    for name in $(backups); do
        tally backup verify "s3://$BUCKET/$name" >verified 2>&1 || {
            # One that is removed meanwhile is not there, and that is all that may be wrong.
            grep -q "it is not there" verified && continue
            fail "$name: $(cat verified)"
        }
        count=$((count + 1))
    done
    ((count >= 1)) || fail "no backup is right"
    said "$count backups are there, all right: $(tail -n 1 verified)"
}
export TALLY_BACKUP_S3_ENDPOINT=https://$STORE TALLY_BACKUP_S3_CA_FILE=certificates/ca.crt TALLY_BACKUP_S3_CREDENTIALS_FILE=credentials
right
(($(backups | wc -l) <= KEPT + 1)) || fail "more than $KEPT are kept: $(backups)"

# --- The store dies while parts are coming in.
parts() { find objects/.minio.sys/multipart -name 'part.*' 2>/dev/null | wc -l; }
# Stopped first, so that what is seen is still so when it dies.
uploads() {
    (($(parts) > 0)) || return 1
    kill -STOP "$store"
    (($(parts) > 0)) || { kill -CONT "$store"; return 1; }
}
failed=$(of_node_2 failed)
within 120 uploads || fail "no upload is seen"
burn "$store"
store=
before=$(cat acknowledged)
said "the store was killed, with $(parts) parts of an upload"
within 150 fails || fail "nobody says that the store is away"
said "away: $(of_node_2 error)"
after=$(cat acknowledged)
((after > before)) || fail "writes wait for the store"
curl --silent --fail http://127.0.0.1:23332/metrics | grep '^tally_backup' >metrics
(($(sed -n 's/^tally_backups_total{result="failed"} //p' metrics) > failed)) || fail "the metrics do not count it: $(cat metrics)"
made=$(of_node_2 made)
start_store
right
within 150 works "$made" || fail "no backup with the store back: $(of_node_2 error)"
said "back: $((after - before)) writes went on meanwhile; $(of_node_2 made) made, $(($(of_node_2 failed) - failed)) failed"
right

# --- All is lost but the store. What was acknowledged before a backup was begun is in it.
before=$(cat acknowledged)
revision=$(tally counter get stock --json | jq .modified_revision)
has_it() { (($(of_node_2 last_revision) >= revision)); }
within 60 has_it || fail "no backup that is new enough"
touch stop
wait "$writer"
writer=
last=$(cat acknowledged)
for n in 1 2 3; do burn "${nodes[$n]}"; done
rm -rf old-[123]
newest=$(backups | sort | tail -n 1)
start_nodes new
tally restore "s3://$BUCKET/$newest" | tee restore.log
# By whichever node it was done: the one that is asked next may not have applied the end.
(($(sed -n 's/^revisions go on above //p' restore.log) > 1 << 40)) || fail "revisions do not go on above those of before"
restored=$(tally counter get stock)
((restored >= before && restored <= last)) || fail "$restored restored, $before to $last acknowledged"
[[ $(tally kv get large/7 | wc -c) -gt 600000 ]] || fail "a key is gone"
for ((order = 1; order <= last; order++)); do
    tally counter add stock 1 --idempotency-key "order-$order" --idempotency-window 1h >/dev/null
done
total=$(tally counter get stock)
((total == last)) || fail "$total counted, $last sent"

# --- And to a point in time, from the prefix, into yet another one.
for n in 1 2 3; do burn "${nodes[$n]}"; done
rm -rf new-[123]
oldest=$(backups | sort | head -n 1)
oldest_revision=$(tally backup inspect "s3://$BUCKET/$oldest" --json | jq .revision)
start_nodes again
tally restore --at-revision "$oldest_revision" "s3://$BUCKET/$PREFIX" --json | jq -e ".backup.revision == $oldest_revision" >/dev/null \
    || fail "another one was restored"

! grep -F -e "$secret" -- *.log || fail "the secret is in a log"
objects | grep -v '\.backup$\|\.partial$' && fail "other objects are there"
said "done: $restored restored, $total after $last retries, and revision $oldest_revision from the prefix"
