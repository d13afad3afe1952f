#!/usr/bin/env bash
# What an operator's work takes and what it does to the writes meanwhile: replacing a voter, a backup, a restore. A
# cluster of three is filled with keys, and puts go on at a fixed rate while the work is done; right before each they
# are measured without it. Backup and restore stand beside a plain copy of the same file on the same disk, with its
# fsync. Prints a table.
#
#   deploy/bench/operations.sh [--keys N] [--value-size BYTES] [--rate N] [--seconds N] [--rounds N] [--quick] [--doc]
#
#   --quick   50,000 keys, one round: does it all work?
#   --doc     put the table into docs/performance.md
#
# Values are random bytes, so that a backup can't be compressed: the file is as large as what it holds. The load writes
# over keys of its own. A restore has no load: until it is done, writes are refused. Each figure is the median of the
# rounds, and so is each ratio to what was measured in the same round. CPU time is that of the command and of all nodes,
# their share of the load included: it says what the work takes where the machine does other things, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

keys=1000000
value_size=256
rate=500
seconds=10
rounds=3
doc=no
while (($#)); do
    case "$1" in
        --quick) quick=yes keys=50000 seconds=3 rounds=1 ;;
        --keys) keys=${2:?}; shift ;;
        --value-size) value_size=${2:?}; shift ;;
        --rate) rate=${2:?}; shift ;;
        --seconds) seconds=${2:?}; shift ;;
        --rounds) rounds=${2:?}; shift ;;
        --doc) doc=yes ;;
        *) sed -n '7p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done

# Two seconds until the load is measured, and half of one for its connection: what is done begins then.
readonly WARM_UP=2 UNTIL_MEASURED=2.5
# Keys of one atomic step: as many as one may have (`tally apply --help`).
readonly STEP_KEYS=128
# Who fills at the same time.
readonly FILLERS=8
readonly BASE=$((PORTS + 2200))

# In milliseconds.
now() { date +%s%3N; }
load_average() { cut -d' ' -f1 /proc/loadavg; }

# --- Nodes ------------------------------------------------------------------------------------

declare -A pid_of=()
# Starts a node. Arguments: its id, further flags.
node() {
    local id=$1
    shift
    run "node$id" "$tallyd" serve --node-id "$id" --data-dir "$scratch/data/node$id" --metrics-listen "" \
        --client-listen "127.0.0.1:$((BASE + id))" --peer-listen "$(peer_address "$id")" "$@"
    pid_of[$id]=$started
}
peer_address() { echo "127.0.0.1:$((BASE + 100 + $1))"; }

# The nodes that are asked: their ids.
ask() {
    local id all=()
    for id in "$@"; do all+=("127.0.0.1:$((BASE + id))"); done
    TALLY_ENDPOINTS=$(joined "${all[@]}")
    export TALLY_ENDPOINTS
}

is_ready() { "$tallyd" health --service tally.linearizable --address "127.0.0.1:$((BASE + $1))"; }
# A node that waits to be added serves nobody yet.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$((BASE + 100 + $1))"); }

# A new cluster of these three ids.
cluster() {
    local id members=()
    mkdir -p "$scratch/data"
    for id in "$@"; do members+=("$id=$(peer_address "$id")"); done
    for id in "$@"; do node "$id" --initial-cluster "$(joined "${members[@]}")"; done
    ask "$@"
    for id in "$@"; do within 60 is_ready "$id" || fail "node $id does not get ready; see $scratch/node$id.log"; done
}

# Ids of the voters: all, or those of a role (leader, follower).
voters() {
    "$tally" cluster members | awk -v role="${1:-}" '$1 ~ /^[0-9]+$/ && $3 == "yes" && (role == "" || $2 == role) { print $1 }'
}

# --- What is there ----------------------------------------------------------------------------

# Puts keys from one number up to another, many to a step.
put_keys() {
    python3 - "$1" "$2" "$value_size" "$STEP_KEYS" <<'PYTHON' | "$tally" --deadline 60s shell --no-history >>"$scratch/fill.log" 2>&1
import base64, json, random, sys

first, end, size, step = map(int, sys.argv[1:])
draw = random.Random(first)
for begin in range(first, end, step):
    puts = [
        {"key_put": {"key": f"kept/{key:08}", "value_base64": base64.b64encode(draw.randbytes(size)).decode()}}
        for key in range(begin, min(begin + step, end))
    ]
    print("apply <<END\n" + json.dumps({"operations": puts}) + "\nEND")
PYTHON
}

fill() {
    local part=$(((keys + FILLERS - 1) / FILLERS)) at fillers=() began
    began=$(now)
    for ((at = 0; at < keys; at += part)); do
        put_keys "$at" $((at + part < keys ? at + part : keys)) &
        fillers+=("$!")
    done
    for at in "${fillers[@]}"; do wait "$at" || fail "it could not be filled: $(tail -n 1 "$scratch/fill.log")"; done
    say "$keys keys in $((($(now) - began) / 1000)) s"
}

# --- The load ---------------------------------------------------------------------------------

# Puts at a fixed rate, until load_ends; returns once they are measured.
load_begins() {
    "$tally" bench put --rate "$rate" --in-flight 2000 --no-prepare --keep --warmup "${WARM_UP}s" --duration 1h --json \
        >"$scratch/load.json" 2>>"$scratch/bench.log" &
    loading=$!
    pids+=("$loading")
    sleep "$UNTIL_MEASURED"
}

# Its figures are in $load: a line of JSON. Cut short it has status 130, and prints them.
load_ends() {
    local status=0
    kill -TERM "$loading"
    wait "$loading" || status=$?
    load=$(cat "$scratch/load.json")
    [[ $status == 130 && -n $(number p99_us "$load") ]] || fail "the load ended with status $status: $(tail -n 1 "$scratch/bench.log")"
}

# --- Measuring --------------------------------------------------------------------------------

# Of each work, a figure for each round.
declare -A took=() busy=() before50=() before99=() beside50=() beside99=() times99=() failed=() unstarted=() averages=()

# CPU time in milliseconds: of the nodes that run, and of what this script has waited for.
cpu_time() {
    local id
    {
        cat "/proc/$$/stat"
        for id in "${!pid_of[@]}"; do cat "/proc/${pid_of[$id]}/stat" 2>/dev/null || true; done
    } | awk -v me=$$ -v ticks="$(getconf CLK_TCK)" '{ name = $1; sub(/.*\) /, ""); all += name == me ? $14 + $15 : $12 + $13 }
        END { printf "%.0f", all * 1000 / ticks }'
}

# How long a command takes, and the CPU time of it and the nodes meanwhile, in milliseconds. It has to be done.
timed() {
    local began before
    before=$(cpu_time)
    began=$(now)
    "$@" >>"$scratch/work.log" 2>&1 || fail "exit status $? of: $*: $(tail -n 3 "$scratch/work.log")"
    milliseconds=$(($(now) - began))
    busy_milliseconds=$(($(cpu_time) - before))
}

# A command of `tally cluster` whose outcome is unknown (status 5) is given again, as the guide says: a leader that was
# kept from its processor for an election timeout is not sure of its quorum.
readonly GIVEN_AT_MOST=10
until_known() {
    local status=0 times
    for ((times = 1; times <= GIVEN_AT_MOST; times++)); do
        status=0
        "$@" || status=$?
        ((status == 5)) || return "$status"
        echo "$*" >>"$scratch/again"
    done
    return "$status"
}

# The writes without a work, then with it. Arguments: what it is called, the command.
beside_writes() {
    local what=$1 before
    shift
    load_begins
    sleep "$seconds"
    load_ends
    before=$load
    load_begins
    timed "$@"
    load_ends
    took[$what]+=" $milliseconds"
    busy[$what]+=" $busy_milliseconds"
    before50[$what]+=" $(number p50_us "$before")"
    before99[$what]+=" $(number p99_us "$before")"
    beside50[$what]+=" $(number p50_us "$load")"
    beside99[$what]+=" $(number p99_us "$load")"
    times99[$what]+=" $(of "$(number p99_us "$load")" "$(number p99_us "$before")")"
    failed[$what]+=" $(number errors "$load")"
    unstarted[$what]+=" $(number not_started "$load")"
    averages[$what]+=" $(load_average)"
    say "$what: $milliseconds ms, CPU $busy_milliseconds ms; writes before $(millis "$before" p50 p99) ms, meanwhile $(millis "$load" p50 p99 max) ms, $(number operations "$load") of them"
    [[ $(number errors "$before") == 0 ]] || fail "writes failed before it: $before"
    [[ $(number errors "$load") == 0 ]] || say "failed: $(sed -nE 's/.*"error_reasons":\{([^}]*)\}.*/\1/p' <<<"$load")"
}

plain_copy() {
    rm -f "$scratch/data/copy"
    cp "$1" "$scratch/data/copy"
    sync "$scratch/data/copy"
}

# A voter of this role goes, a new node has its place. Arguments: what it is called, the role.
replace() {
    local what=$1 old
    old=$(voters "$2" | tail -n 1)
    [[ -n $old ]] || fail "no voter is a $2: $("$tally" cluster members)"
    newest=$((newest + 1))
    node "$newest"
    within 30 listens "$newest" || fail "node $newest does not listen; see $scratch/node$newest.log"
    beside_writes "$what" until_known "$tally" cluster replace "$old" "$(peer_address "$newest")" --yes
    if grep -q 'a snapshot was installed' "$scratch/node$newest.log"; then
        caught_up[snapshot]=$((${caught_up[snapshot]:-0} + 1))
    else
        caught_up[log]=$((${caught_up[log]:-0} + 1))
    fi
    # shellcheck disable=SC2046 # ids, to be split
    ask $(voters)
    # Who was removed ends by itself.
    within 30 ended "${pid_of[$old]}" || fail "node $old was removed and runs on"
    rm -rf "$scratch/data/node$old"
}

# What was put is there again, by its first and its last key.
is_restored() {
    [[ $("$tally" kv get "kept/00000000" | wc -c) -ge $value_size &&
        $("$tally" kv get "kept/$(printf %08d $((keys - 1)))" | wc -c) -ge $value_size ]]
}

# --- The work ---------------------------------------------------------------------------------

build target
fill_page_cache
title "a cluster with $keys keys"
cluster 1 2 3
newest=3
declare -A caught_up=()
fill
: >"$scratch/again"
readonly FILE=$scratch/data/tally.backup
follower="replace a voter that follows" leader="replace the voter that leads"
backup="backup" copy="copy the backup's file, and fsync"
restore="restore into an empty cluster" quiet_copy="copy it, while nothing is written"

for ((round = 1; round <= rounds; round++)); do
    title "round $round of $rounds"
    beside_writes "$backup" "$tally" backup --force --json "$FILE"
    beside_writes "$copy" plain_copy "$FILE"
    replace "$follower" follower
    replace "$leader" leader
done
profile=$(sed -nE 's/.* profile="([a-z]+)".*/\1/p' "$scratch/node1.log" | head -n 1)
known=$("$tally" backup inspect --json "$FILE")

title "restore"
for ((round = 1; round <= rounds; round++)); do
    stop "${pids[@]}"
    pids=()
    rm -rf "$scratch"/data/node*
    cluster 1 2 3
    timed "$tally" restore "$FILE"
    took[$restore]+=" $milliseconds"
    busy[$restore]+=" $busy_milliseconds"
    averages[$restore]+=" $(load_average)"
    is_restored || fail "not all keys are there after the restore"
    timed plain_copy "$FILE"
    took[$quiet_copy]+=" $milliseconds"
    busy[$quiet_copy]+=" $busy_milliseconds"
    averages[$quiet_copy]+=" $(load_average)"
    say "restored in ${took[$restore]##* } ms, CPU ${busy[$restore]##* } ms; copied in $milliseconds ms"
done

# --- The table --------------------------------------------------------------------------------

# The figures of one round over those of the same round of another work, the one in the middle.
ratio() {
    local -a these those
    local at all=()
    read -ra these <<<"$1"
    read -ra those <<<"$2"
    for at in "${!these[@]}"; do all+=("$(of "${these[at]}" "${those[at]}")"); done
    middle "${all[@]}"
}

# shellcheck disable=SC2086 # numbers, to be split
median() { middle $1; }
sum() { echo $((0${1// /+})); }
# Microseconds, or milliseconds, by what they are divided by.
fraction() { awk -v it="$(median "$1")" -v by="$2" 'BEGIN { printf "%.2f", it / by }'; }
# shellcheck disable=SC2086 # numbers, to be split
range() { printf '%s\n' $1 | sort -gu | sed -n '1p;$p' | uniq | paste -sd ' ' | sed 's/ / to /'; }

# A line. Arguments: what, of what copy its time is a ratio if there is one.
line() {
    local what=$1 of=${2:-} ratio="" writes="- | - | - | - | -"
    [[ -z $of ]] || ratio="**$(ratio "${took[$what]}" "${took[$of]}")**"
    if [[ -n ${before50[$what]:-} ]]; then
        writes="$(fraction "${before50[$what]}" 1000), $(fraction "${before99[$what]}" 1000)"
        writes+=" | $(fraction "${beside50[$what]}" 1000), $(fraction "${beside99[$what]}" 1000)"
        writes+=" | **$(median "${times99[$what]}")** | $(sum "${failed[$what]}") | $(sum "${unstarted[$what]}")"
    fi
    echo "| $what | $(fraction "${took[$what]}" 1000) | ${ratio:--} | $(fraction "${busy[$what]}" 1000) | $writes | $(range "${averages[$what]}") |"
}

{
    printf 'Measured by deploy/bench/operations.sh: %s keys of %s bytes, %s puts a second meanwhile, %s round%s. ' \
        "$(commas <<<"$keys")" "$value_size" "$(commas <<<"$rate")" "$rounds" "$([[ $rounds == 1 ]] || echo s)"
    printf 'The backup has %s bytes and holds %s of records. New voters caught up by a snapshot %d times, from the log alone %d times; replacements that were given again, as the outcome was unknown: %d. ' \
        "$(grouped file_bytes "$known")" "$(grouped record_bytes "$known")" "${caught_up[snapshot]:-0}" "${caught_up[log]:-0}" \
        "$(wc -l <"$scratch/again")"
    printf '%s, profile %s. %s\n\n' "$("$tallyd" --version)" "$profile" "$(machine_line)"
    echo "| what | seconds | times the copy | CPU, s | writes before: p50, p99 in ms | meanwhile | p99, times that | failed | not started | load average |"
    echo "|---|---|---|---|---|---|---|---|---|---|"
    line "$backup" "$copy"
    line "$copy"
    line "$follower"
    line "$leader"
    line "$restore" "$quiet_copy"
    line "$quiet_copy"
} >"$scratch/table"
title "table"
cat "$scratch/table"
if [[ $doc == yes ]]; then
    python3 deploy/bench/report.py --insert operations docs/performance.md <"$scratch/table"
    say "docs/performance.md has it"
fi
