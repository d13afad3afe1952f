#!/usr/bin/env bash
# Twice as much as the cluster can do: the peak by a closed loop, then an open loop at twice that rate,
# unary so that it is refused and not slowed down. In turn, five times, as what a machine does varies by
# more than overload may cost; the table is of the round whose ratio is in the middle. Prints one JSON object
# a load, and the table.
#
#   deploy/bench/overload.sh [--seconds N] [--rounds N] [--factor N] [--clients N] [--in-flight N]
#                            [--deadline TIME] [--limit WRITES] [--doc]
#
# Twice: with the default limits, under which all that the connections' streams carry is admitted and
# waits; and with nodes that admit only so few writes (`--limit`) that this is what is short and not the
# processors, which the client needs too: what is above it is refused, and how soon can be seen.
#
# First, what one caller gets beside a client that pipelines.
#
# Looked at meanwhile: throughput against the peak, time to a refusal, memory, the health services
# (polled ten times a second during both, each probe of a process of its own), and the terms before and
# after.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

seconds=10
rounds=5
factor=2
clients=256
connections=4
# As many as the connections have streams (1,024 each), and some that wait for one.
in_flight=6000
# With a short one the library's retries come on top of the load: an attempt gets a quarter of it.
deadline=10s
limit=4
doc=no
while (($#)); do
    case "$1" in
        --deadline) deadline=${2:?}; shift ;;
        --limit) limit=${2:?}; shift ;;
        --doc) doc=yes ;;
        --seconds) seconds=${2:?}; shift ;;
        --rounds) rounds=${2:?}; shift ;;
        --factor) factor=${2:?}; shift ;;
        --clients) clients=${2:?}; shift ;;
        --in-flight) in_flight=${2:?}; shift ;;
        *) sed -n '7,8p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done

# Asks a health service until the file is gone: a line for each answer that is not SERVING, and the
# number of answers at the end.
poll() {
    local service=$1 asked=0 failed=0 id
    while [[ -e $scratch/polling ]]; do
        for id in 1 2 3; do
            asked=$((asked + 1))
            timeout 2 "$tallyd" health --service "$service" \
                --address "127.0.0.1:$((PORTS + 400 + id))" >/dev/null 2>&1 || failed=$((failed + 1))
        done
        sleep 0.1
    done
    echo "$failed $asked" >"$scratch/poll-${service:-empty}"
}

# The highest term that a node is in.
term() {
    "$tally" status --json | grep -oE '"term":[0-9]+' | cut -d: -f2 | sort -n | tail -n 1
}

# What is removed after one measurement would be a load before the next.
bench() {
    "$tally" bench add-spread --keep --transport unary --connections "$connections" --warmup 2s --json "$@" 2>>"$scratch/bench.log"
}

# The lowest and the highest of a time in milliseconds, of all rounds.
range() {
    local it all
    all=$(for it in "${by_ratio[@]}"; do number "$1" "$it"; done | sort -n)
    [[ -n $all ]] || { echo none; return; }
    awk 'NR == 1 { printf "%.1f to ", $1 / 1000 } END { printf "%.1f", $1 / 1000 }' <<<"$all"
}

# A cluster of its own, at its peak and beyond. Arguments: what its rows begin with, callers at the peak,
# and flags for the load beyond it.
overload() {
    local what=$1 clients=$2 round peak over again rate ratio wanted before after memory=()
    local why failed asked failed_linearizable asked_linearizable
    local pollers=() by_ratio=()
    shift 2
    fill_page_cache
    title "a cluster: $what"
    start_tally
    # Thirty processes a second take a good part of a small machine, so they run beside the peak, too.
    : >"$scratch/polling"
    poll "" &
    pids+=("$!")
    pollers+=("$!")
    poll tally.linearizable &
    pids+=("$!")
    pollers+=("$!")
    before=$(term)
    for ((round = 1; round <= rounds; round++)); do
        title "round $round of $rounds: the peak, $clients callers"
        peak=$(bench --clients "$clients" --duration "${seconds}s")
        echo "$peak"
        rate=$(number ops_per_second "$peak")
        wanted=$(awk -v rate="$rate" -v factor="$factor" 'BEGIN { printf "%.0f", rate * factor }')
        title "$factor x the peak: $wanted operations a second"
        over=$(bench --deadline "$deadline" --rate "$wanted" --in-flight "$in_flight" --duration "${seconds}s" "$@")
        echo "$over"
        ratio=$(of "$(number ops_per_second "$over")" "$rate")
        by_ratio+=("$ratio $rate $over")
        memory+=("$(of "$(number server_rss_max_bytes "$over")" 1048576)")
    done
    rm "$scratch/polling"
    wait "${pollers[@]}"
    after=$(term)
    title "again, without overload"
    again=$(bench --clients "$clients" --duration 5s)
    echo "$again"
    read -r failed asked <"$scratch/poll-empty"
    read -r failed_linearizable asked_linearizable <"$scratch/poll-tally.linearizable"
    mapfile -t by_ratio < <(printf '%s\n' "${by_ratio[@]}" | sort -n)
    read -r ratio rate over <<<"${by_ratio[rounds / 2]}"
    figure() { grouped "$1" "$over"; }
    row "$what: peak, operations a second" "${rate%.*}"
    row "  $factor x the peak: done, a second" "$(figure ops_per_second)"
    row "  of the peak: the middle of $rounds rounds, the lowest, the highest" \
        "**$ratio**, ${by_ratio[0]%% *}, ${by_ratio[-1]%% *}"
    row "  done after p50, p99 in ms" "$(millis "$over" p50 p99)"
    why=$(sed -nE 's/.*"error_reasons":\{([^}]*)\}.*/\1/p' <<<"$over" | tr -d '"')
    row "  failed: why" "${why:-none}"
    row "  told so after p50, p99 in ms: in this round" "$(millis "$over" error_p50 error_p99)"
    row "    the lowest and the highest p50, and p99, of all rounds" "$(range error_p50_us), $(range error_p99_us)"
    row "  not started: too many were in flight" "$(figure not_started)"
    row "  started late by p50, p99 in ms" "$(millis "$over" late_p50 late_p99)"
    row "  memory of the largest node in MiB, round by round" "${memory[*]}"
    row "  health, empty service: not SERVING" "$failed of $asked"
    row "  health, tally.linearizable: not SERVING" "$failed_linearizable of $asked_linearizable"
    row "  term before, after" "$before, $after"
    row "  afterwards, operations a second" "$(grouped ops_per_second "$again")"
    stop_all
}

# What one caller, with one call under way, gets beside a client that keeps thousands under way. Both add
# to counters of the same names, and meet at the same leader.
fairness() {
    local alone beside greedy
    lone() { "$tally" bench add-spread --keep --clients 1 --warmup 1s --duration "${seconds}s" --json 2>>"$scratch/bench.log"; }
    waited() { millis "$1" p50 p99; }
    fill_page_cache
    title "one caller beside a greedy client"
    start_tally
    alone=$(lone)
    echo "$alone"
    # It begins before the caller and ends after it.
    "$tally" bench add-spread --keep --clients 64 --depth 256 --warmup 1s --duration "$((seconds + 4))s" --json \
        >"$scratch/greedy.json" 2>>"$scratch/bench.log" &
    greedy=$!
    pids+=("$greedy")
    sleep 2
    beside=$(lone)
    echo "$beside"
    wait "$greedy"
    greedy=$(cat "$scratch/greedy.json")
    echo "$greedy"
    row "one caller alone: p50, p99 in ms" "$(waited "$alone")"
    row "  beside 16,384 writes of another client" "$(waited "$beside")"
    row "  which waits itself" "$(waited "$greedy")"
    row "  and does, a second" "$(grouped ops_per_second "$greedy")"
    stop_all
}

build target
fairness
overload "default limits" "$clients"
serve_flags=(--writes-in-flight "$limit")
overload "$limit writes admitted" "$limit" --max-attempts 1
if [[ $doc == yes ]]; then write_doc overload deploy/bench/overload.sh; fi
