#!/usr/bin/env bash
# What one user's calls take while another user asks for all that there is: adds of one caller with one call under way,
# alone and beside floods of another user, in turn. Prints a table.
#
#   deploy/bench/flood.sh [--seconds N] [--rounds N] [--doc]
#
#   --doc   put the table into docs/security-model.md
#
# (`bench` looks at the status of the nodes, which takes `monitor`.) One user is one client, however many connections it has. The flood's own program has the lowest priority, as its
# machine would be another one. Each figure is the median of the rounds, and so is each ratio to what was measured alone
# in the same round.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

seconds=5
rounds=5
doc=no
while (($#)); do
    case "$1" in
        --seconds) seconds=${2:?}; shift ;;
        --rounds) rounds=${2:?}; shift ;;
        --doc) doc=yes ;;
        *) sed -n '5p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done

# As the user of a token file, adds to random counters; a line of JSON.
adds() {
    local user=$1
    shift
    "$tally" --token-file "$scratch/data/$user" bench add-spread --spread 10000 --keep --warmup 1s --json "$@" 2>>"$scratch/bench.log" ||
        fail "a load failed: $(tail -n 1 "$scratch/bench.log")"
}

build target
fill_page_cache
title "one user beside another"
start_tally
umask 077
"$tally" auth enable >"$scratch/data/admin"
for user in caller flood; do
    "$tally" --token-file "$scratch/data/admin" auth role put "$user" --allow read,increase:counter: --monitor >/dev/null
    "$tally" --token-file "$scratch/data/admin" auth user put "$user" --role "$user" >/dev/null
    "$tally" --token-file "$scratch/data/admin" auth token create "$user" --lifetime 24h >"$scratch/data/$user"
done

# Connections, callers, calls of each under way, transport.
floods=("1 64 1 stream" "1 64 16 stream" "16 256 16 stream" "16 4096 1 unary")
declare -A p50=() p99=() r50=() r99=() rate=()
for ((round = 1; round <= rounds; round++)); do
    alone=$(adds caller --clients 1 --duration "${seconds}s")
    a50=$(number p50_us "$alone") a99=$(number p99_us "$alone")
    p50[alone]+=" $a50"
    p99[alone]+=" $a99"
    for flood in "${floods[@]}"; do
        read -r connections callers depth transport <<<"$flood"
        # It begins before the caller and ends after it.
        nice -n 19 "$tally" --token-file "$scratch/data/flood" bench add-spread --spread 10000 --keep --warmup 1s --json \
            --connections "$connections" --clients "$callers" --depth "$depth" --transport "$transport" \
            --duration "$((seconds + 4))s" >"$scratch/flood.json" 2>>"$scratch/bench.log" &
        pids+=("$!")
        sleep 2
        beside=$(adds caller --clients 1 --duration "${seconds}s")
        wait "${pids[-1]}" || fail "the flood failed: $(tail -n 1 "$scratch/bench.log")"
        [[ $(number errors "$beside") == 0 ]] || fail "the caller was refused: $beside"
        p50[$flood]+=" $(number p50_us "$beside")"
        p99[$flood]+=" $(number p99_us "$beside")"
        r50[$flood]+=" $(of "$(number p50_us "$beside")" "$a50")"
        r99[$flood]+=" $(of "$(number p99_us "$beside")" "$a99")"
        rate[$flood]+=" $(number ops_per_second "$(cat "$scratch/flood.json")")"
        say "round $round, $flood: alone $(millis "$alone" p50 p99) ms, beside $(millis "$beside" p50 p99) ms"
    done
done

ms() { awk -v us="$1" 'BEGIN { printf "%.2f", us / 1000 }'; }
{
    printf 'Measured by deploy/bench/flood.sh: three nodes, %d rounds of %d s. %s\n\n' "$rounds" "$seconds" "$(machine_line)"
    echo "| another user's writes under way | p50 of a caller, ms | p99, ms | the other's adds a second |"
    echo "|---|---|---|---|"
    # shellcheck disable=SC2086 # numbers, to be split
    echo "| none | $(ms "$(middle ${p50[alone]})") | $(ms "$(middle ${p99[alone]})") | |"
    for flood in "${floods[@]}"; do
        read -r connections callers depth transport <<<"$flood"
        # shellcheck disable=SC2086 # numbers, to be split
        printf '| %s on %s connection%s, %s | %s (%s times) | %s (**%s times**) | %s |\n' \
            "$((callers * depth))" "$connections" "$([[ $connections == 1 ]] || echo s)" "$transport" \
            "$(ms "$(middle ${p50[$flood]})")" "$(middle ${r50[$flood]})" "$(ms "$(middle ${p99[$flood]})")" "$(middle ${r99[$flood]})" \
            "$(printf '%.0f' "$(middle ${rate[$flood]})" | commas)"
    done
} >"$scratch/table"
title "table"
cat "$scratch/table"
if [[ $doc == yes ]]; then
    python3 deploy/bench/report.py --insert flood docs/security-model.md <"$scratch/table"
    say "docs/security-model.md has it"
fi
