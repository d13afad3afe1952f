#!/usr/bin/env bash
# What size costs: the same load on a small and on a large state, what flushes do to it, and what a restart
# and a snapshot take then. Prints a table; the figures behind it are lines of JSON in the results.
#
#   deploy/bench/growth.sh [--quick] [--counters N] [--keys N] [--sessions N] [--idempotency-keys N]
#                          [--seconds N] [--serve FLAG=VALUE]... [--results FILE] [--doc NAME]
#
#   --serve   a flag for every node, for example --state-cache-bytes=2147483648
#   --doc     write the table into docs/performance.md, between the markers of this name
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
small_keys=100000
seconds=10
# Longer than two flush intervals of 30 s.
flushes_seconds=70
doc=
# How many flushes there were is in the nodes' logs.
serve_flags=(--log-filter "info,tally_node::storage::state=debug")
results=target/bench/growth.jsonl
# Names of 16 bytes, values of 8 and of 256.
counter_bytes=24
key_bytes=272
while (($#)); do
    case "$1" in
        --quick) quick=yes counters=100000 keys=10000 sessions=1000 idempotency_keys=10000 small=1000 small_keys=1000 seconds=2 flushes_seconds=4 ;;
        --doc) doc=${2:?}; shift ;;
        --serve) serve_flags+=("${2:?}"); shift ;;
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

# The most memory that a process has had so far, in MiB.
most_memory() { awk '/^VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
# A directory of node 1, in MiB.
disk() { du -sm "$scratch/data/tally1/$1" | cut -f1; }
# In milliseconds.
now() { date +%s%3N; }
snapshot_index() { "$tally" status --json | grep -oE '"snapshot_index":[0-9]+' | cut -d: -f2 | sort -n | head -n 1; }

keep() { printf '{"what":"%s",%s\n' "$1" "${2#\{}" >>"$results"; }

# What one leaves the next one finds.
bench() { "$tally" bench "$@" --keep --json 2>>"$scratch/bench.log"; }

# Bytes that the data's disk has written so far: as the disk counts them, since the kernel's count for a
# process (/proc/PID/io) has the whole folio of page cache where a page of it was changed: ten times as
# much here. Nothing if the data is not on a disk.
disk_written() {
    local device
    device=$(stat -c '%Hd:%Ld' "$scratch/data")
    awk '{ printf "%.0f", $7 * 512 }' "/sys/dev/block/$device/stat" 2>/dev/null || true
}

# A closed loop over names all of which are there. Arguments: what it is, its workload and spread. The
# warm-up is a load of its own, so that what the disk writes is of the operations that count.
load() {
    local what=$1 workload=$2 spread=$3 figures before after written=""
    closed() {
        bench "$workload" --clients 256 --depth 16 --spread "$spread" --no-prepare --warmup 0ms --duration "$1"
    }
    closed 2s >/dev/null
    before=$(disk_written)
    figures=$(closed "${seconds}s")
    after=$(disk_written)
    keep "$what, $workload" "$figures"
    if [[ -n $after ]]; then
        written=", $(((after - before) / $(number operations "$figures"))) bytes written by the disk"
    fi
    row "$what: $workload a second" \
        "**$(grouped ops_per_second "$figures")**, p50 and p99 $(millis "$figures" p50 p99) ms, $(number server_cpu_us_per_op "$figures") µs of server CPU$written"
    rate=$(number ops_per_second "$figures")
}

# Adds, puts and reads. Arguments: what it is, counters, keys.
loads() {
    load "$1" put "$3"
    load "$1" get "$3"
    load "$1" add-spread "$2"
}

# How many flushes a node's log tells of.
flushes() { grep -c 'flushed the state' "$scratch/tally1.log" || true; }

# An open loop at half of what a closed one does, for so long that flushes fall into it: do they show?
flushing() {
    local peak rate figures before after
    peak=$(bench put --clients 64 --spread "$1" --duration "${seconds}s" --warmup 2s)
    rate=$(awk -v rate="$(number ops_per_second "$peak")" 'BEGIN { printf "%.0f", rate / 2 }')
    before=$(flushes)
    figures=$(bench put --rate "$rate" --in-flight 5000 --spread "$1" --duration "${flushes_seconds}s" --warmup 2s)
    after=$(flushes)
    keep "open loop at half the peak" "$figures"
    row "puts at a fixed rate, half of what 64 callers do" "$(grouped rate "$figures") a second for $flushes_seconds s"
    row "  flushes of node 1 meanwhile" "$((after - before))"
    row "  p50, p99, p99.9, max in ms" "$(millis "$figures" p50 p99 p999 max)"
    row "  p99.9, of p50; at most 10 wanted" "$(of "$(number p999_us "$figures")" "$(number p50_us "$figures")")"
}

fill() { "$tally" fill --for-bench --keep --deadline 60s "$@" 2>>"$scratch/bench.log"; }

# Arguments: what it is, and the bytes of the names and values in it.
state() {
    row "$1: memory of node 1, 2, 3 in MiB, the most so far" "$(most_memory "${tally_pid[1]}") $(most_memory "${tally_pid[2]}") $(most_memory "${tally_pid[3]}")"
    row "$1: disk of node 1 in MiB: state, snapshots, log" "$(disk state) $(disk snap) $(disk wal)"
    row "  its state, of the names and values alone" "$(of $(($(disk state) * 1048576)) "$2")"
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

# The newest snapshot of a node, from its log: bytes and milliseconds.
built() {
    sed -nE 's/.*built a snapshot .*bytes=([0-9]+) elapsed_ms=([0-9]+).*/\1 \2/p' "$scratch/tally$1.log" | tail -n 1
}

# Writes at a modest fixed rate while snapshots are built: the longest of them is the stall.
snapshot() {
    local before after figures
    before=$(snapshot_index)
    figures=$(bench put --rate 500 --in-flight 5000 --spread "$keys" --duration "$1" --warmup 1s)
    keep "open loop while snapshots are $2" "$figures"
    row "500 puts a second, snapshots $2: p50, p99.9, max in ms" "$(millis "$figures" p50 p999 max)"
    after=$(snapshot_index)
    row "  oldest snapshot index before, after" "$before, $after"
    [[ $2 == rest || $after -gt $before ]] || skip "the stall by a snapshot: not every node built one"
}

build target
# The clients that measure have sessions, too.
serve_flags+=(--sessions-max $((sessions * 2 + 1000)))
fill_page_cache
start_tally
title "small: $small counters, $small_keys keys"
fill --counters "$small"
fill --keys "$small_keys"
loads "small" "$small" "$small_keys"
small_rate=$rate
state "small" $((small * counter_bytes + small_keys * key_bytes))
flushing "$small_keys"

title "large: $counters counters, $keys keys, $sessions sessions, $idempotency_keys idempotency keys"
fill --first "$small" --counters $((counters - small))
fill --first "$small_keys" --keys $((keys - small_keys))
fill --sessions "$sessions" --idempotency-keys "$idempotency_keys"
row "small is" "$small counters, $small_keys keys"
row "large is" "$counters counters, $keys keys, $sessions sessions, $idempotency_keys idempotency keys"
loads "large" "$counters" "$keys"
row "add-spread, small to large; at most 1.5 wanted" "$(of "$small_rate" "$rate")"
state "large" $((counters * counter_bytes + keys * key_bytes))
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
for id in 1 2 3; do
    read -r bytes milliseconds <<<"$(built "$id")"
    # Said above, if there is none.
    [[ -n $bytes ]] || continue
    row "  the newest of node $id: MiB, built within" "$((bytes / 1048576)), $milliseconds ms"
    keep "snapshot of node $id" "{\"bytes\":$bytes,\"ms\":$milliseconds}"
done
say "the figures are in $results"
if [[ -n $doc ]]; then write_doc "$doc" deploy/bench/growth.sh; fi
