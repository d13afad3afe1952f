#!/usr/bin/env bash
# What trust costs: the same loads on clusters of Tally without TLS, with TLS and authentication on, and with
# an audit log, and on etcd without and with both, in turn. All nodes are there at once, and those that are not
# asked do next to nothing. Prints a table.
#
#   deploy/bench/secure.sh [--seconds N] [--rounds N] [--clients N] [--no-etcd] [--doc]
#
#   --doc   put the table into docs/performance.md
#
# TLS is on both ports. Tally's clients show a token, whose user is an administrator; etcd's a certificate,
# whose common name is its user root: that is the cheapest that each has. etcd and etcdctl are taken from PATH; without
# them, or with --no-etcd, their columns are left out, loudly.
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
doc=no
while (($#)); do
    case "$1" in
        --seconds) seconds=${2:?}; shift ;;
        --rounds) rounds=${2:?}; shift ;;
        --clients) clients=${2:?}; shift ;;
        --no-etcd) etcd=no ;;
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

# Starts a cluster of Tally and waits for it. Arguments: its name, what is added to each port, flags of its nodes, in
# which NODE stands for the id.
cluster() {
    local name=$1 plus=$2 id mine=() addresses=() members=() health=()
    shift 2
    for id in 1 2 3; do members+=("$id=127.0.0.1:$((PORTS + plus + 10 + id))"); done
    for id in 1 2 3; do
        run "$name$id" "$tallyd" serve --node-id "$id" --data-dir "$scratch/data/$name$id" \
            --client-listen "127.0.0.1:$((PORTS + plus + id))" --peer-listen "127.0.0.1:$((PORTS + plus + 10 + id))" \
            --metrics-listen "127.0.0.1:$((PORTS + plus + 20 + id))" --initial-cluster "$(joined "${members[@]}")" "${@//NODE/$id}"
        mine+=("$started")
        addresses+=("127.0.0.1:$((PORTS + plus + id))")
    done
    endpoints[$name]=$(joined "${addresses[@]}")
    server_pids[$name]=$(joined "${mine[@]}")
    [[ $name == *secure* ]] && health=(--tls-ca "$certificates/ca.crt")
    within 60 "$tallyd" health --service tally.linearizable --address "${addresses[0]}" "${health[@]}" ||
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
    cluster plain 0
    cluster secure 100 "${secure[@]}" --authentication true
    cluster audited 200 --audit-log-file "$scratch/data/audit-NODE.log"
    within 20 admin_token || fail "no node of the secure cluster has made the first token"
    flags[plain]=''
    flags[secure]="--tls-ca $certificates/ca.crt --token-file $(admin_token)"
    flags[audited]=''
}

# Arguments: name, what is added to each port, scheme, further flags, in which NODE stands for the id.
etcd_cluster() {
    local name=$1 plus=$2 scheme=$3 id members=() mine=() addresses=()
    shift 3
    for id in 1 2 3; do members+=("e$id=$scheme://127.0.0.1:$((PORTS + plus + 10 + id))"); done
    for id in 1 2 3; do
        run "$name$id" etcd --name "e$id" --data-dir "$scratch/data/$name$id" --log-level error \
            --listen-client-urls "$scheme://127.0.0.1:$((PORTS + plus + id))" \
            --advertise-client-urls "$scheme://127.0.0.1:$((PORTS + plus + id))" \
            --listen-peer-urls "$scheme://127.0.0.1:$((PORTS + plus + 10 + id))" \
            --initial-advertise-peer-urls "$scheme://127.0.0.1:$((PORTS + plus + 10 + id))" \
            --initial-cluster "$(joined "${members[@]}")" --quota-backend-bytes 8589934592 "${@//NODE/$id}"
        mine+=("$started")
        addresses+=("127.0.0.1:$((PORTS + plus + id))")
    done
    server_pids[$name]=$(joined "${mine[@]}")
    endpoints[$name]=$(joined "${addresses[@]}")
    within 60 control "$name" endpoint health || fail "$name does not get ready; see $scratch/${name}1.log"
}

etcd_tls=(--cacert "$certificates/ca.crt" --cert "$certificates/client-root.crt" --key "$certificates/client-root.key")

# etcdctl on a cluster.
control() {
    local name=$1 tls=()
    shift
    [[ $name == *secure* ]] && tls=("${etcd_tls[@]}")
    etcdctl --endpoints "${endpoints[$name]}" "${tls[@]}" "$@"
}

# The leader alone: a follower only passes writes on, which would count against etcd.
ask_the_leader() {
    local at
    for at in ${endpoints[$1]//,/ }; do
        local all=${endpoints[$1]}
        endpoints[$1]=$at
        # Fields: endpoint, id, version, storage version, db size, in use, ..., is leader: of releases unequal in number.
        if control "$1" endpoint status -w json | grep -oE '"(leader|member_id)":[0-9]+' | sort -u -t: -k2 | wc -l | grep -qx 1; then return 0; fi
        endpoints[$1]=$all
    done
    fail "no leader among ${endpoints[$1]}"
}

start_etcds() {
    local secure=(--client-cert-auth --peer-client-cert-auth) flag
    for flag in "" peer-; do
        secure+=("--${flag}cert-file" "$certificates/node-NODE.crt" "--${flag}key-file" "$certificates/node-NODE.key"
            "--${flag}trusted-ca-file" "$certificates/ca.crt")
    done
    etcd_cluster etcd 300 http
    etcd_cluster etcd-secure 400 https "${secure[@]}"
    control etcd-secure user add root --no-password >/dev/null
    control etcd-secure user grant-role root root >/dev/null
    control etcd-secure auth enable >/dev/null
    ask_the_leader etcd
    ask_the_leader etcd-secure
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

# The one in the middle of some numbers.
middle() { printf '%s\n' "$@" | sort -g | sed -n "$((($# + 1) / 2))p"; }

# A case in turn on all clusters, and its row. Arguments: what it is called, workload, arguments for Tally; behind `--`
# those for etcd, if it can do it.
in_turn() {
    local called=$1 workload=$2 ours=() theirs=() round name all
    shift 2
    while (($#)) && [[ $1 != -- ]]; do ours+=("$1"); shift; done
    (($#)) && { shift; theirs=("$@"); }
    local names=(plain secure audited)
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
        for name in secure audited; do
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
    for name in plain secure audited etcd etcd-secure; do
        if [[ -z ${rates[$name]:-} ]]; then line+=" | -"; continue; fi
        line+=" | $(printf '%.0f' "$(middle ${rates[$name]})" | sed -E ':more; s/^([0-9]+)([0-9]{3})/\1,\2/; t more')"
        [[ -n ${ratios[$name]:-} ]] && line+=" (**$(middle ${ratios[$name]})**)"
        line+=", $(printf '%.1f' "$(middle ${cpus[$name]})")"
        [[ -n ${cpu_ratios[$name]:-} ]] && line+=" ($(middle ${cpu_ratios[$name]}))"
    done
    printf '%s |\n' "$line" | tee -a "$scratch/lines"
}

if [[ $etcd == yes ]] && ! { has etcd && has etcdctl; }; then
    skip "etcd: there is no etcd or no etcdctl in PATH"
    etcd=no
fi
build target/peers --features peers
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
    echo "| operations a second (of those without), CPU time of the servers in us an operation (of that) | Tally | TLS and authentication | audit log | etcd | etcd, TLS and authentication |"
    echo "|---|---|---|---|---|---|"
    cat "$scratch/lines"
} >"$scratch/table"
title "table"
cat "$scratch/table"
if [[ $doc == yes ]]; then
    python3 deploy/bench/report.py --insert secure docs/performance.md <"$scratch/table"
    say "docs/performance.md has it"
fi
