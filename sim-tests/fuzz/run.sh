#!/usr/bin/env bash
# Fuzzes: each target for so many seconds, from its seeds and its kept corpus. With stable Rust and a C++ compiler.
#
#   sim-tests/fuzz/run.sh [--seconds N] [--cpu] [--keep] [TARGET…]
#
#   --seconds N   for each target (60). 0 only replays what there is
#   --cpu         the seconds are of CPU time, as the system counts it: a busy machine takes longer, not less
#   --keep        what reached new code is added to the kept corpora, which are minimised
#
# A finding ends the script with 1, and its bytes are in target/fuzz/found/TARGET. docs/fuzzing.md says more.
set -euo pipefail
cd "$(dirname "$0")"

seconds=60 cpu=no keep=no targets=()
while (($#)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --cpu) cpu=yes ;;
        --keep) keep=yes ;;
        -*) echo "usage: run.sh [--seconds N] [--cpu] [--keep] [TARGET…]" >&2; exit 2 ;;
        *) targets+=("$1") ;;
    esac
    shift
done
((${#targets[@]})) || for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../../target/fuzz}
# LLVM's own pass for coverage, which stable compilers have too; what `cargo fuzz` asks for with `--sanitizer none`.
# Named for the host, so that build scripts are built without.
flags=(--cfg tokio_unstable -Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
RUSTFLAGS="${flags[*]}" cargo build --release --locked --features engine --target "$host" --bins --example seeds
built=$CARGO_TARGET_DIR/$host/release
work=$CARGO_TARGET_DIR/work
rm -rf "$work/seeds" "$work/kept"
mkdir -p "$work" corpus
"$built/examples/seeds" "$work"

# The CPU seconds that a process and its threads have had, in user and in system mode.
cpu_of() {
    local fields
    fields=$(<"/proc/$1/stat") || return 1
    read -ra fields <<<"${fields##*) }"
    echo $(((fields[11] + fields[12]) / $(getconf CLK_TCK)))
}

# Runs the target; with --cpu, asks it to end (SIGUSR1: it finishes its input) when it has had its time. Sets `spent`.
run() {
    "$@" >"$log" 2>&1 &
    local pid=$! now
    spent=0
    while now=$(cpu_of "$pid" 2>/dev/null); do
        spent=$now
        if [[ $cpu == yes ]] && ((seconds > 0 && spent >= seconds)); then kill -USR1 "$pid" || true; fi
        [[ $(ps -o stat= -p "$pid") != Z* ]] || break
        sleep 1
    done
    wait "$pid"
}

found=()
for target in "${targets[@]}"; do
    mkdir -p "$work/new/$target" "$CARGO_TARGET_DIR/found/$target"
    options=(-artifact_prefix="$CARGO_TARGET_DIR/found/$target/" -timeout=20 -rss_limit_mb=2048 -max_len=8300)
    from=("$work/kept/$target" "$work/seeds/$target")
    if [[ -d cases/$target ]]; then from+=("cases/$target"); fi
    if ((seconds > 0)); then
        options+=(-print_final_stats=1)
        if [[ $cpu == no ]]; then options+=(-max_total_time="$seconds"); fi
        from=("$work/new/$target" "${from[@]}")
    else
        options+=(-runs=0)
    fi
    log=$work/$target.log
    if run "$built/$target" "${options[@]}" "${from[@]}"; then
        last=$(grep -E 'cov: [0-9]+' "$log" | tail -n 1)
        printf '%-14s %4s CPU s, %s\n' "$target" "$spent" "$(sed 's/^#\([0-9]*\)[^c]*/\1 executions, /; s/ lim:.*exec/, exec/; s/ rss.*//' <<<"$last")"
    else
        found+=("$target")
        printf '%-14s FOUND something:\n' "$target"
        grep -E -A 2 'panicked at|ERROR: libFuzzer|Test unit written' "$log" | sed 's/^/    /'
    fi
    if [[ $keep == yes ]]; then
        # What reaches code that no seed does, once and in few bytes: how often it is reached is found again soon.
        minimised=$work/minimised
        rm -rf "$minimised"
        cp -r "$work/seeds/$target" "$minimised"
        "$built/$target" -merge=1 -set_cover_merge=1 -use_counters=0 -max_len=1024 \
            "$minimised" "$work/kept/$target" "$work/new/$target" >>"$log" 2>&1
        for seed in "$work/seeds/$target"/*; do rm "$minimised/${seed##*/}"; done
        "$built/examples/seeds" --pack "$minimised" "corpus/$target"
    fi
done
if ((${#found[@]})); then
    echo "found: ${found[*]}; the inputs are in $CARGO_TARGET_DIR/found" >&2
    exit 1
fi
