#!/usr/bin/env bash
# What size costs: the same load on a small and on a large state, and what a restart and a snapshot take
# then. Prints a table; every row is also a line of JSON in the results.
#
#   deploy/bench/growth.sh [--quick] [--counters N] [--keys N] [--sessions N] [--idempotency-keys N]
#                          [--seconds N] [--results FILE] [--doc]
#
#   --doc     write the table into docs/performance.md
#   --quick   a hundredth of everything, 2 s a load: does it all work?
#
# The default is 10 M counters, 1 M keys of 256 bytes, 100,000 sessions and 1 M idempotency keys; the data
# of three nodes lies in TMPDIR meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

counters=10000000
keys=1000000
sessions=100000
idempotency_keys=1000000
small=100000
seconds=10
doc=no
results=target/bench/growth.jsonl
while (($#)); do
    case "$1" in
        --quick) quick=yes counters=100000 keys=10000 sessions=1000 idempotency_keys=10000 small=1000 seconds=2 ;;
        --doc) doc=yes ;;
        --counters) counters=${2:?}; shift ;;
        --keys) keys=${2:?}; shift ;;
        --sessions) sessions=${2:?}; shift ;;
        --idempotency-keys) idempotency_keys=${2:?}; shift ;;
        --seconds) seconds=${2:?}; shift ;;
        --results) results=${2:?}; shift ;;
        *) sed -n '5,6p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done
mkdir -p "$(dirname "$results")"
: >"$results"

rss() { awk '/^VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
disk() { du -sm "$scratch/data/tally1" | cut -f1; }
# In milliseconds.
now() { date +%s%3N; }
snapshot_index() { "$tally" status --json | grep -oE '"snapshot_index":[0-9]+' | cut -d: -f2 | sort -n | head -n 1; }

keep() { printf '{"what":"%s",%s\n' "$1" "${2#\{}" >>"$results"; }

# The same load over so many names, all of which are there.
load() {
    local what=$1 spread=$2 figures
    figures=$("$tally" bench add-spread --clients 256 --depth 16 --spread "$spread" --duration "${seconds}s" \
        --warmup 2s --json 2>>"$scratch/bench.log")
    keep "$what" "$figures"
    row "$what, adds a second" "$(number ops_per_second "$figures"), p99 $(number p99_us "$figures") µs"
    rate=$(number ops_per_second "$figures")
}

fill() { "$tally" fill --for-bench --deadline 60s "$@" 2>>"$scratch/bench.log"; }

state() {
    row "$1: memory of node 1, 2, 3 in MiB" "$(rss "${tally_pid[1]}") $(rss "${tally_pid[2]}") $(rss "${tally_pid[3]}")"
    row "$1: disk of node 1 in MiB, its log and snapshots too" "$(disk)"
}

# Stops one node and starts it again: how long until it serves linearizable reads.
restart() {
    local id=$1 how=$2 began
    kill "-$how" "${tally_pid[id]}"
    within 60 ended "${tally_pid[id]}" || fail "node $id does not end"
    wait "${tally_pid[id]}" 2>/dev/null || true
    began=$(now)
    tally_node "$id"
    within 300 "$tallyd" health --service tally.linearizable --address "127.0.0.1:$((PORTS + 400 + id))" ||
        fail "node $id does not get ready again"
    row "node $id starts after SIG$how, ready within" "$(($(now) - began)) ms"
    keep "restart SIG$how" "{\"ms\":$(($(now) - began))}"
}

# Writes at a modest fixed rate while snapshots are built: the longest of them is the stall.
snapshot() {
    local before after figures
    before=$(snapshot_index)
    figures=$("$tally" bench put --rate 500 --in-flight 5000 --spread "$keys" --duration "$1" --warmup 1s --json \
        2>>"$scratch/bench.log")
    keep "open loop while snapshots are $2" "$figures"
    row "500 puts a second, snapshots $2: p99.9, max in µs" "$(number p999_us "$figures"), $(number max_us "$figures")"
    after=$(snapshot_index)
    row "  oldest snapshot index before, after" "$before, $after"
    [[ $2 == rest || $after -gt $before ]] || skip "the stall by a snapshot: not every node built one"
}

build target
# The clients that measure have sessions, too.
serve_flags=(--sessions-max $((sessions * 2 + 1000)))
fill_page_cache
start_tally
title "small: $small counters"
fill --counters "$small"
load "$small counters" "$small"
small_rate=$rate
state "$small counters"

title "large: $counters counters, $keys keys, $sessions sessions, $idempotency_keys idempotency keys"
fill --first "$small" --counters $((counters - small))
fill --keys "$keys"
fill --sessions "$sessions" --idempotency-keys "$idempotency_keys"
load "$counters counters" "$counters"
row "rate, small to large" "$(awk -v a="$small_rate" -v b="$rate" 'BEGIN { printf "%.2f", a / b }')"
state "all of it"
"$tally" status | tail -n 1

title "restart"
restart 3 TERM
restart 2 KILL

title "snapshots"
snapshot "${seconds}s" "rest"
# Nodes that build one whenever there is a little more log: some four during the load.
serve_flags+=(--snapshot-after-entries $((500 * seconds * 3 / 4)))
for id in 1 2 3; do restart "$id" TERM; done
snapshot "$((seconds * 3))s" "are built"
say "the figures are in $results"
if [[ $doc == yes ]]; then write_doc growth deploy/bench/growth.sh; fi
