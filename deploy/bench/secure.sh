#!/usr/bin/env bash
# What trust and watching cost: the same loads on clusters of Tally as it is, with TLS and authentication on, with an
# audit log, and built to count nothing, and on etcd without TLS and authentication and with both, in turn. All nodes
# are there at once, and those that are not asked do next to nothing. Prints a table.
#
#   deploy/bench/secure.sh [--seconds N] [--rounds N] [--clients N] [--no-etcd] [--case WORDS] [--beside NAMES] [--doc]
#
#   --case     only the cases with these words in their names
#   --beside   only these clusters beside the first: "secure", "audited", "unmetered", or several of them
#   --doc      put the table into docs/performance.md
#
# TLS is on both ports. Tally's clients show a token, whose user is an administrator; etcd's a certificate,
# whose common name is its user root: that is the cheapest that each has. etcd and etcdctl are taken from PATH; without
# them, or with --no-etcd, their columns are left out, loudly.
#
# What counts nothing is the feature `unmetered`: no counter, no histogram, no hottest items. The clock is still read where
# a duration would have been recorded.
#
# Each cell is the median of the rounds; a ratio is the median of the rounds' ratios, as what the machine does varies
# from minute to minute.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/bench/lib.sh
. deploy/bench/lib.sh

seconds=5
rounds=5
clients=64
etcd=yes
only=
beside="secure audited unmetered"
doc=no
while (($#)); do
    case "$1" in
        --seconds) seconds=${2:?}; shift ;;
        --rounds) rounds=${2:?}; shift ;;
        --clients) clients=${2:?}; shift ;;
        --no-etcd) etcd=no ;;
        --case) only=${2:?}; shift ;;
        --beside) beside=${2:?}; shift ;;
        --doc) doc=yes ;;
        *) sed -n '6p' "$0" | cut -c5- >&2; exit 2 ;;
    esac
    shift
done

# What `tally` is told to reach a cluster, by the cluster's name.
declare -A flags=()

certificates=$scratch/certificates
make_certificates() {
    local id
    "$tally" cert init --dir "$certificates" >/dev/null
    for id in 1 2 3; do
        "$tally" cert node "$id" --hosts 127.0.0.1,localhost --cluster bench --dir "$certificates" >/dev/null
    done
    "$tally" cert client root --dir "$certificates" >/dev/null
}

# Starts a cluster of Tally and waits for it. Arguments: its name, where its ports begin, flags of its nodes.
cluster() {
    local name=$1 base=$2 id mine=() health=()
    shift 2
    for id in 1 2 3; do
        serve_tally "$name" "$base" "$id" --metrics-listen "127.0.0.1:$((base + 50 + id))" "$@"
        mine+=("$started")
    done
    endpoints[$name]=$(clients_at "$base")
    server_pids[$name]=$(joined "${mine[@]}")
    [[ $name == *secure* ]] && health=(--tls-ca "$certificates/ca.crt")
    within 60 "$tallyd" health --service tally.linearizable --address "127.0.0.1:$((base + 1))" "${health[@]}" ||
        fail "$name does not get ready; see $scratch/${name}1.log"
}

# Where the first token is: with the node that was elected first.
admin_token() { compgen -G "$scratch/data/secure*/admin-token"; }

start_clusters() {
    local secure=(--cluster-name bench) port
    for port in client peer; do
        secure+=("--$port-tls-cert-file" "$certificates/node-NODE.crt" "--$port-tls-key-file" "$certificates/node-NODE.key"
            "--$port-tls-ca-file" "$certificates/ca.crt")
    done
    cluster plain $((PORTS + 1200))
    cluster secure $((PORTS + 1400)) "${secure[@]}" --authentication true
    cluster audited $((PORTS + 1600)) --audit-log-file "$scratch/data/audit-NODE.log"
    local built=$tallyd
    tallyd=$unmetered
    cluster unmetered $((PORTS + 2000)) --hot-item-names off
    tallyd=$built
    within 20 admin_token || fail "no node of the secure cluster has made the first token"
    flags[plain]=''
    flags[secure]="--tls-ca $certificates/ca.crt --token-file $(admin_token)"
    flags[audited]=''
    flags[unmetered]=''
}

etcd_tls=(--cacert "$certificates/ca.crt" --cert "$certificates/client-root.crt" --key "$certificates/client-root.key")

# etcdctl on the secure cluster.
control() { "${programs[etcd]}ctl" --endpoints "${endpoints[etcd-secure]}" "${etcd_tls[@]}" "$@"; }

start_etcds() {
    local secure=(--client-cert-auth --peer-client-cert-auth) flag
    for flag in "" peer-; do
        secure+=("--${flag}cert-file" "$certificates/node-NODE.crt" "--${flag}key-file" "$certificates/node-NODE.key"
            "--${flag}trusted-ca-file" "$certificates/ca.crt")
    done
    start_etcd || fail "etcd does not get ready; see $scratch/etcd1.log"
    serve_etcd etcd-secure $((PORTS + 1800)) https "${secure[@]}"
    within 60 control endpoint health || fail "etcd does not get ready with TLS; see $scratch/etcd-secure1.log"
    control user add root --no-password >/dev/null
    control user grant-role root root >/dev/null
    control auth enable >/dev/null
    ask_the_leader etcd-secure "${etcd_tls[@]}"
    flags[etcd]=''
    flags[etcd-secure]="--tls-ca $certificates/ca.crt --tls-cert $certificates/client-root.crt --tls-key $certificates/client-root.key"
}

declare -A prepared=()
# One measurement, a line of JSON. Arguments: cluster, workload, arguments of `tally bench`.
measure() {
    local name=$1 workload=$2 target=tally state=()
    shift 2
    [[ $name == etcd* ]] && target=etcd
    if [[ $workload == get ]]; then
        [[ -n ${prepared[$name]:-} ]] && state=(--no-prepare)
        prepared[$name]=yes
    fi
    # shellcheck disable=SC2086 # flags have no spaces in them
    "$tally" --endpoints "${endpoints[$name]}" ${flags[$name]} bench "$workload" --target "$target" --pids "${server_pids[$name]}" \
        --duration "${seconds}s" --warmup 1s --spread 20000 --keep --json "${state[@]}" "$@" 2>>"$scratch/bench.log" ||
        fail "$workload on $name: $(tail -n 1 "$scratch/bench.log")"
}

# A case in turn on all clusters, and its row. Arguments: what it is called, workload, arguments for Tally; behind `--`
# those for etcd, if it can do it.
in_turn() {
    local called=$1 workload=$2 ours=() theirs=() round name all
    [[ $called == *"$only"* ]] || return 0
    shift 2
    while (($#)) && [[ $1 != -- ]]; do ours+=("$1"); shift; done
    (($#)) && { shift; theirs=("$@"); }
    # shellcheck disable=SC2206 # names, to be split
    local names=(plain $beside)
    [[ $etcd == yes ]] && ((${#theirs[@]})) && names+=(etcd etcd-secure)
    declare -A rates=() cpus=() ratios=() cpu_ratios=()
    for ((round = 1; round <= rounds; round++)); do
        declare -A rate=() cpu=()
        for name in "${names[@]}"; do
            if [[ $name == etcd* ]]; then all=$(measure "$name" "$workload" "${theirs[@]}"); else all=$(measure "$name" "$workload" "${ours[@]}"); fi
            [[ $(number errors "$all") == 0 ]] || fail "$called on $name: $all"
            rate[$name]=$(number ops_per_second "$all")
            cpu[$name]=$(number server_cpu_us_per_op "$all")
            rates[$name]+=" ${rate[$name]}"
            cpus[$name]+=" ${cpu[$name]}"
            say "$(printf '%-34s %-12s round %d  %10.0f/s  %7.1f us' "$called" "$name" "$round" "${rate[$name]}" "${cpu[$name]}")"
        done
        for name in $beside; do
            ratios[$name]+=" $(of "${rate[$name]}" "${rate[plain]}")"
            cpu_ratios[$name]+=" $(of "${cpu[$name]}" "${cpu[plain]}")"
        done
        if [[ -n ${rate[etcd]:-} ]]; then
            ratios[etcd-secure]+=" $(of "${rate[etcd-secure]}" "${rate[etcd]}")"
            cpu_ratios[etcd-secure]+=" $(of "${cpu[etcd-secure]}" "${cpu[etcd]}")"
        fi
    done
    local line="| $called"
    # shellcheck disable=SC2086 # numbers, to be split
    for name in plain secure audited unmetered etcd etcd-secure; do
        if [[ -z ${rates[$name]:-} ]]; then line+=" | -"; continue; fi
        line+=" | $(printf '%.0f' "$(middle ${rates[$name]})" | commas)"
        [[ -n ${ratios[$name]:-} ]] && line+=" (**$(middle ${ratios[$name]})**)"
        line+=", $(printf '%.1f' "$(middle ${cpus[$name]})")"
        [[ -n ${cpu_ratios[$name]:-} ]] && line+=" ($(middle ${cpu_ratios[$name]}))"
    done
    printf '%s |\n' "$line" | tee -a "$scratch/lines"
}

programs[etcd]=etcd
if [[ $etcd == yes ]] && ! { has etcd && has etcdctl; }; then
    skip "etcd: there is no etcd or no etcdctl in PATH"
    etcd=no
fi
build target/peers --features peers
if [[ -n ${BENCH_PROGRAMS:-} ]]; then
    unmetered=$BENCH_PROGRAMS/tallyd-unmetered
else
    cargo build --profile dist --locked -p tally-node --bin tallyd --features unmetered --target-dir target/unmetered
    unmetered=target/unmetered/dist/tallyd
fi
fill_page_cache
title "clusters"
mkdir -p "$scratch/data"
make_certificates
start_clusters
[[ $etcd == no ]] || start_etcds

title "measuring"
unary=(--transport unary --connections 4)
four=(--connections 4)
in_turn "add to one counter, library" add-hot --clients "$clients"
in_turn "add to one counter, unary" add-hot --clients "$clients" "${unary[@]}"
in_turn "add to one counter, pipelined" add-hot --clients "$clients" --depth 64
in_turn "put, library" put --clients "$clients" -- --clients "$clients" "${four[@]}"
in_turn "put, unary" put --clients "$clients" "${unary[@]}" -- --clients "$clients" "${four[@]}"
in_turn "get linearizable, library" get --clients "$clients" -- --clients "$clients" "${four[@]}"
in_turn "get linearizable, unary" get --clients "$clients" "${unary[@]}" -- --clients "$clients" "${four[@]}"
in_turn "add to one counter, 1 caller" add-hot --clients 1

{
    printf 'Measured by deploy/bench/secure.sh: %d clients, %d rounds of %d s, in turn. %s%s\n\n' "$clients" "$rounds" "$seconds" \
        "$([[ $etcd == no ]] || echo "$(etcd --version | head -n 1). ")" "$(machine_line)"
    echo "| operations a second (of those without), CPU time of the servers in us an operation (of that) | Tally | TLS and authentication | audit log | no metrics | etcd | etcd, TLS and authentication |"
    echo "|---|---|---|---|---|---|---|"
    cat "$scratch/lines"
} >"$scratch/table"
title "table"
cat "$scratch/table"
if [[ $doc == yes ]]; then
    python3 deploy/bench/report.py --insert secure docs/performance.md <"$scratch/table"
    say "docs/performance.md has it"
fi
