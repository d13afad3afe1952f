#!/usr/bin/env bash
# Counts the instructions of the micro-benchmarks (node/benches/micro) and compares them with what is
# stored beside this script. Seconds need a quiet machine; instructions do not.
#
#   deploy/bench/instructions.sh [--update] [--tolerance PERCENT]
#
#   --update   store the new counts. They are of one toolchain and one kind of processor: store them
#              again when either changes, in a commit of their own.
#
# It fails if a workload takes more than 3 % more than stored, and asks for an update if one takes
# that much less. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly STORED=deploy/bench/instructions.txt
update=no
tolerance=3
while (($#)); do
    case "$1" in
        --update) update=yes ;;
        --tolerance) tolerance=${2:?}; shift ;;
        *) sed -n '5p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done
if ! command -v valgrind >/dev/null; then
    printf '***\n*** SKIPPED: instruction counts: there is no valgrind\n***\n' >&2
    exit 0
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-instructions.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# cargo says where it put the program.
program=$(cargo bench --locked -p tally-node --bench micro --no-run --message-format=json 2>"$scratch/cargo.log" |
    sed -nE 's/.*"name":"micro".*"executable":"([^"]+)".*/\1/p' | tail -n 1) || true
if [[ -z $program ]]; then
    cat "$scratch/cargo.log" >&2
    exit 1
fi

# Only what is inside the section is counted, not the preparation.
count() {
    valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*measured_section*' \
        --callgrind-out-file="$scratch/out" "$program" --once "$1" >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
    sed -nE 's/.*Collected : ([0-9]+).*/\1/p' "$scratch/log"
}

{
    echo "# Instructions an operation of the micro-benchmarks, counted by deploy/bench/instructions.sh."
    echo "# $(rustc --version); $(uname -m)"
    "$program" --operations | while read -r name operations; do
        echo "$name $(($(count "$name") / operations))"
    done
} >"$scratch/counts"
grep -qE '^[a-z-]+ [1-9]' "$scratch/counts" || { echo "nothing was counted" >&2; exit 1; }

if [[ $update == yes || ! -e $STORED ]]; then
    cp "$scratch/counts" "$STORED"
    cat "$STORED"
    exit 0
fi

diff <(head -n 2 "$STORED" | tail -n 1) <(head -n 2 "$scratch/counts" | tail -n 1) >/dev/null ||
    echo "note: the stored counts are of another toolchain: $(sed -n '2s/^# //p' "$STORED")" >&2
awk -v tolerance="$tolerance" '
    /^#/ { next }
    NR == FNR { stored[$1] = $2; next }
    {
        seen[$1] = 1
        if (!($1 in stored)) { printf "%-20s %9d  new: --update stores it\n", $1, $2; failed = 1; next }
        change = ($2 - stored[$1]) * 100 / stored[$1]
        verdict = change > tolerance ? "MORE" : change < -tolerance ? "less: --update stores it" : "as before"
        if (change > tolerance) failed = 1
        printf "%-20s %9d  stored %9d  %+6.1f %%  %s\n", $1, $2, stored[$1], change, verdict
    }
    END {
        for (name in stored) if (!(name in seen)) { printf "%-20s is gone: --update\n", name; failed = 1 }
        exit failed
    }
' "$STORED" "$scratch/counts"
