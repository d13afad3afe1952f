#!/usr/bin/env bash
# Tries what deploy/ offers, for real, as far as this machine has the tools; says SKIPPED and why
# where it has not. Leaves nothing running and nothing behind but a cached Debian base.
#
#   deploy/smoke.sh [--full | --image NAME]
#
#   --full         build the image optimised as users do. Without it, and with stand-ins for the bases
#                  (below), the same Dockerfile is built with the optimiser turned down: it takes far
#                  less time and tests the same packaging.
#   --image NAME   try this image and build none.
#
# What is tried:
#   - systemd: the unit and the sample configuration are checked; then the unit runs under a real
#     systemd, in a container, through a kill, a stop and a refusal.
#   - the image: built from the tracked files only; its user, ports, health check, signal.
#   - compose: three nodes; increments from outside before and after the leader is killed; health with
#     and without a quorum; a rolling restart; stop in good order; data that is still there afterwards.
#
# Base images: those that Docker has or can pull. Where no registry can be reached, stand-ins with
# the same names are made from Debian packages and this machine's Rust toolchain, and removed at the
# end. Then the Dockerfile is tested, and not the real bases.
#
# Docker: the one that runs; else, as root, an engine of its own with its own directory.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci"
readonly PROJECT="tally-smoke-$$"
# An address of this machine that nobody else uses, so that a cluster on 127.0.0.1 may go on.
readonly HOST_ADDRESS=127.0.74.1
readonly ENDPOINTS=$HOST_ADDRESS:7401,$HOST_ADDRESS:7402,$HOST_ADDRESS:7403

full=no
given=
case "${1:-}" in
    "") ;;
    --full) full=yes ;;
    --image) given=${2:?--image needs a name} ;;
    *) echo "usage: deploy/smoke.sh [--full | --image NAME]" >&2; exit 2 ;;
esac
readonly IMAGE="${given:-tally-smoke:$$}"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-smoke.XXXXXX")
dockerd_pid=
dockerd_ours=no
images_made=()
containers_made=()
compose=()
skipped=()

say() { printf '   %s\n' "$*"; }
title() { printf '\n-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() {
    skipped+=("$*")
    printf '\n***\n*** SKIPPED: %s\n***\n' "$*"
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command until it succeeds, for so many seconds at most.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.5
    done
}

expect() { [[ "$2" == "$3" ]] || fail "$1 is '$2', expected '$3'"; }

# --- Cleaning up ------------------------------------------------------------------------------

clean_up() {
    local status=$?
    set +e
    if ((status != 0)) && ((${#compose[@]})); then
        "${compose[@]}" logs --no-color --tail=30 >&2
    fi
    if [[ -n "${DOCKER_READY:-}" ]]; then
        ((${#compose[@]})) && "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1
        ((${#containers_made[@]})) && docker rm -f -v "${containers_made[@]}" >/dev/null 2>&1
        if [[ $dockerd_ours == no ]]; then
            ((${#images_made[@]})) && docker rmi -f "${images_made[@]}" >/dev/null 2>&1
        fi
    fi
    if [[ -n $dockerd_pid ]]; then
        kill "$dockerd_pid" 2>/dev/null
        wait "$dockerd_pid" 2>/dev/null
        # What outlives it: its bridge, and empty groups of processes.
        if [[ ! -e $scratch/bridge-was-there ]]; then
            has ip && ip link delete docker0 2>/dev/null
            find /sys/fs/cgroup -depth -type d -path '*/docker*' -exec rmdir {} \; 2>/dev/null
        fi
        # What the engine left mounted, deepest first.
        awk -v at="$scratch" 'index($2, at) == 1 { print $2 }' /proc/mounts | sort -r |
            while read -r mount; do umount "$mount" 2>/dev/null; done
    fi
    rm -rf --one-file-system "$scratch"
    if ((status == 0)); then
        printf '\ndeploy/smoke.sh: passed in %d s' "$SECONDS"
        ((${#skipped[@]})) && printf ', SKIPPED: %d' "${#skipped[@]}" && printf '\n  - %s' "${skipped[@]}"
        printf '\n'
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'printf "FAILED: line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
trap 'exit 130' INT
trap 'exit 143' TERM

# --- Docker and the bases ---------------------------------------------------------------------

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Finds an engine, or starts one.
engine() {
    has docker || { no_docker="there is no docker"; return 1; }
    if docker_answers; then
        say "Docker runs already"
        return 0
    fi
    [[ $EUID == 0 ]] || { no_docker="no Docker engine answers, and only root may start one"; return 1; }
    has dockerd || { no_docker="no Docker engine answers, and there is no dockerd"; return 1; }
    [[ -e /sys/class/net/docker0 ]] && touch "$scratch/bridge-was-there"
    export DOCKER_HOST="unix://$scratch/docker.sock"
    local flags
    # The second attempt is for kernels without overlays.
    for flags in "" "--storage-driver=vfs"; do
        # shellcheck disable=SC2086 # no flag at all is a choice
        dockerd --host "$DOCKER_HOST" --data-root "$scratch/docker" --exec-root "$scratch/run" \
            --pidfile "$scratch/docker.pid" $flags >"$scratch/dockerd.log" 2>&1 &
        dockerd_pid=$!
        if within 30 docker_answers; then
            dockerd_ours=yes
            say "started dockerd${flags:+ with $flags}, pid $dockerd_pid"
            return 0
        fi
        kill "$dockerd_pid" 2>/dev/null || true
        wait "$dockerd_pid" 2>/dev/null || true
        dockerd_pid=
    done
    tail -n 5 "$scratch/dockerd.log"
    no_docker="dockerd does not start here (its last words are above)"
    return 1
}

# The name that the Dockerfile gives to a base.
base_name() { sed -n "s/^ARG $1=//p" deploy/Dockerfile; }

# A small Debian with a C compiler and systemd, unpacked from the cache or made.
debian() {
    local suite mirror tar
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    tar=$CACHE/debian-$suite.tar
    if [[ ! -f $tar ]]; then
        has debootstrap || { no_bases="there is no debootstrap"; return 1; }
        [[ $EUID == 0 ]] || { no_bases="debootstrap needs root"; return 1; }
        # The archive that this machine itself uses.
        mirror=$(sed -n -e 's/^URIs: *//p' -e 's/^deb \(\[.*\] \)\?\(http[^ ]*\) .*/\2/p' \
            /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
        say "making a Debian base (once; kept in the cache)"
        if ! debootstrap --variant=minbase \
            --include=gcc,libc6-dev,ca-certificates,systemd,systemd-sysv \
            "$suite" "$scratch/debian" "${mirror:-http://deb.debian.org/debian}" \
            >"$scratch/debootstrap.log" 2>&1; then
            tail -n 5 "$scratch/debootstrap.log"
            no_bases="debootstrap failed (its last words are above)"
            return 1
        fi
        rm -rf "$scratch"/debian/var/cache/apt/archives/*.deb
        mkdir -p "$CACHE"
        tar -C "$scratch/debian" -cf "$tar.$$" . && mv "$tar.$$" "$tar"
        rm -rf "$scratch/debian"
    fi
    mkdir "$scratch/debian"
    tar -C "$scratch/debian" -xf "$tar"
}

# The builder's stand-in: Debian, this machine's toolchain, and the crates that Cargo.lock names.
stand_in_builder() {
    local sysroot cargo_home paths=() change=()
    sysroot=$(rustc --print sysroot)
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    cargo fetch --locked --quiet
    paths=("${sysroot#/}/bin" "${sysroot#/}/lib"
        "${cargo_home#/}/registry/index" "${cargo_home#/}/registry/cache")
    change=(--change "ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true"
        --change "ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if [[ $full == no ]]; then
        change+=(--change "ENV CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false")
    fi
    images_made+=("$1")
    tar -cf - --transform="flags=r;s,^${sysroot#/},usr/local/rust," \
        --transform="flags=r;s,^${cargo_home#/},usr/local/cargo," \
        -C "$scratch/debian" . -C / "${paths[@]}" |
        docker import "${change[@]}" - "$1" >/dev/null
}

# The runtime's stand-in: the C library, libgcc, certificates and a user without a shell, no more.
stand_in_runtime() {
    local root=$scratch/runtime library path
    mkdir -p "$root"/{etc/ssl,lib64,tmp,usr/lib}
    for library in ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libgcc_s.so.1 \
        libpthread.so.0 libdl.so.2 librt.so.1; do
        path=$(find "$scratch/debian/lib/" -name "$library" | head -n 1)
        if [[ -n $path ]]; then cp -L "$path" "$root/usr/lib/"; fi
    done
    ln -s usr/lib "$root/lib"
    for path in "$root"/usr/lib/ld-linux-x86-64*; do
        if [[ -e $path ]]; then cp "$path" "$root/lib64/"; fi
    done
    cp -rL "$scratch/debian/etc/ssl/certs" "$root/etc/ssl/"
    echo "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin" >"$root/etc/passwd"
    echo "nonroot:x:65532:" >"$root/etc/group"
    chmod 1777 "$root/tmp"
    images_made+=("$1")
    tar -C "$root" -cf - . | docker import --change "USER 65532" - "$1" >/dev/null
}

bases() {
    local builder runtime
    builder=$(base_name BUILDER_IMAGE)
    runtime=$(base_name RUNTIME_IMAGE)
    [[ -n $builder && -n $runtime ]] || fail "the Dockerfile does not name its bases"
    if { docker image inspect "$runtime" || timeout 120 docker pull "$runtime"; } >/dev/null 2>&1 &&
        { docker image inspect "$builder" || timeout 600 docker pull "$builder"; } >/dev/null 2>&1; then
        say "bases: $builder and $runtime themselves"
        return 0
    fi
    # Both or none: programs must run on the C library that they were linked with. And nobody's own
    # image is replaced.
    if docker image inspect "$runtime" >/dev/null 2>&1 || docker image inspect "$builder" >/dev/null 2>&1; then
        no_bases="only one of $builder and $runtime is to be had"
        return 1
    fi
    has cargo || { no_bases="no registry can be reached, and there is no cargo to put into a base"; return 1; }
    [[ -d $scratch/debian ]] || debian || return 1
    stand_in_builder "$builder"
    stand_in_runtime "$runtime"
    skip "the real base images (no registry can be reached): stand-ins under their names were made"
}

# --- The image --------------------------------------------------------------------------------

# What the build is given: the files that git tracks, less those that Dockerfile.dockerignore names,
# which older builders do not read by themselves.
context() {
    local ignored=() line
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        while read -r line; do ignored+=(":(exclude,glob)$line"); done \
            < <(grep -v '^#' deploy/Dockerfile.dockerignore)
        git ls-files -z -- . "${ignored[@]}" | tar --null --files-from=- -cf -
    else
        tar --exclude=./target --exclude=./tally-dev -cf - .
    fi
}

build() {
    title "image: build from the tracked files"
    local started=$SECONDS
    images_made+=("$IMAGE")
    context | docker build --quiet --file deploy/Dockerfile --tag "$IMAGE" - \
        >"$scratch/build.log" 2>&1 || { tail -n 40 "$scratch/build.log"; fail "the image does not build"; }
    say "built in $((SECONDS - started)) s"
}

image() {
    title "image: what it is, and one node in it"
    say "$(docker image inspect --format '{{.Size}}' "$IMAGE") bytes"
    config() { docker image inspect --format "$1" "$IMAGE"; }
    expect "the image's user" "$(config '{{.Config.User}}')" 65532:65532
    expect "its stop signal" "$(config '{{.Config.StopSignal}}')" SIGTERM
    expect "its health check" "$(config '{{json .Config.Healthcheck.Test}}')" \
        '["CMD","/usr/local/bin/tallyd","health"]'
    expect "its ports" "$(config '{{json .Config.ExposedPorts}}')" '{"7401/tcp":{},"7501/tcp":{}}'
    expect "its volume" "$(config '{{json .Config.Volumes}}')" '{"/var/lib/tally":{}}'
    say "$(docker run --rm "$IMAGE" --version), $(docker run --rm --entrypoint tally "$IMAGE" --version)"
    if docker run --rm --entrypoint /bin/sh "$IMAGE" -c true >/dev/null 2>&1; then
        fail "the image has a shell"
    fi
    # A node that was told nothing says what it misses.
    local said
    said=$(docker run --rm "$IMAGE" 2>&1) && fail "a node without an id starts"
    [[ $said == *node_id* ]] || fail "a node without an id says only: $said"

    # One that others reach without TLS does not start unless it is told so.
    said=$(docker run --rm --env TALLY_NODE_ID=1 --env TALLY_CLIENT_ADVERTISE=127.0.0.1:7401 \
        --env TALLY_PEER_ADVERTISE=127.0.0.1:7501 "$IMAGE" 2>&1) && fail "a node listens in the open by itself"
    [[ $said == *insecure_listen_without_tls* ]] || fail "a node in the open says only: $said"

    # Alone, with the image's own health check; not as root, on a read-only file system.
    local id
    id=$(docker run --detach --read-only --cap-drop ALL --health-interval 1s \
        --env TALLY_NODE_ID=1 --env TALLY_INITIAL_CLUSTER=1=127.0.0.1:7501 \
        --env TALLY_INSECURE_LISTEN_WITHOUT_TLS=true --env TALLY_INSECURE_LISTEN_WITHOUT_AUTHENTICATION=true \
        --env TALLY_CLIENT_ADVERTISE=127.0.0.1:7401 "$IMAGE")
    containers_made+=("$id")
    within 60 is_health "$id" healthy || { docker logs "$id" >&2; fail "one node alone never gets healthy"; }
    expect "the user of the process" "$(docker top "$id" -o pid,uid | awk 'END { print $2 }')" 65532
    docker stop --time 15 "$id" >/dev/null
    expect "the exit code after a stop" "$(docker inspect --format '{{.State.ExitCode}}' "$id")" 0
    docker rm -v "$id" >/dev/null
    say "one node: healthy, not root, stops with exit code 0"
}

is_health() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == "$2" ]]; }

# --- Compose ----------------------------------------------------------------------------------

# The command line as a client outside: in a container, but on the network of the host.
tally() {
    docker run --rm --network host --entrypoint /usr/local/bin/tally "$IMAGE" \
        --endpoints "$ENDPOINTS" "$@"
}

value() { tally counter get smoke --json | jq .value; }
leading() { echo "node$(tally status --json | jq '.nodes[] | select(.role == "leader") | .id')"; }
container() { "${compose[@]}" ps -q "$1"; }

health_of() {
    docker exec "$(container "$1")" /usr/local/bin/tallyd health --service "$2" 2>/dev/null || true
}

all_healthy() {
    local node
    for node in node1 node2 node3; do is_health "$(container $node)" healthy || return 1; done
}

three_nodes() {
    title "compose: three nodes"
    if docker compose version >/dev/null 2>&1; then
        compose=(docker compose)
    elif has docker-compose; then
        compose=(docker-compose)
    else
        skip "compose.yaml: there is neither docker compose nor docker-compose"
        return
    fi
    export TALLY_IMAGE=$IMAGE TALLY_HOST_ADDRESS=$HOST_ADDRESS
    compose+=(--project-name "$PROJECT" --file deploy/compose.yaml)
    "${compose[@]}" config --quiet || fail "compose.yaml is not valid"
    if ! "${compose[@]}" up --no-build --detach >"$scratch/compose.log" 2>&1; then
        tail -n 10 "$scratch/compose.log"
        fail "compose can't start the nodes"
    fi
    within 90 all_healthy || fail "three nodes never get healthy"
    say "three nodes are healthy (tally.linearizable)"

    expect "the counter" "$(tally counter add smoke 1 --json | jq .value)" 1
    local node leader
    leader=$(leading)
    say "$leader leads; it is killed"
    docker kill --signal KILL "$(container "$leader")" >/dev/null
    expect "the counter, after the leader was killed" "$(tally counter add smoke 1 --json | jq .value)" 2

    local others=()
    for node in node1 node2 node3; do [[ $node == "$leader" ]] || others+=("$node"); done
    say "${others[1]} is stopped too, so that ${others[0]} has no quorum"
    docker stop --time 15 "$(container "${others[1]}")" >/dev/null
    without_quorum() { [[ $(health_of "${others[0]}" tally.linearizable) == NOT_SERVING ]]; }
    within 15 without_quorum || fail "a node without a quorum still says that it serves linearizable reads"
    expect "the health of the process meanwhile" "$(health_of "${others[0]}" "")" SERVING
    expect "a local read meanwhile" \
        "$(docker exec "$(container "${others[0]}")" /usr/local/bin/tally \
            --endpoints 127.0.0.1:7401 counter get smoke --read local --json | jq .value)" 2

    "${compose[@]}" start >/dev/null 2>&1
    within 90 all_healthy || fail "the nodes do not get healthy again"

    # As an upgrade does it: followers first, the leader last, one at a time.
    leader=$(leading)
    others=()
    for node in node1 node2 node3; do [[ $node == "$leader" ]] || others+=("$node"); done
    for node in "${others[@]}" "$leader"; do
        "${compose[@]}" stop "$node" >/dev/null 2>&1
        tally counter add smoke 1 >/dev/null || fail "no increment while $node is down"
        "${compose[@]}" start "$node" >/dev/null 2>&1
        within 90 all_healthy || fail "$node does not get healthy again"
    done
    expect "the counter after a rolling restart" "$(value)" 5
    say "restarted one by one, with an increment while each was down"

    "${compose[@]}" stop >/dev/null 2>&1
    for node in node1 node2 node3; do
        expect "the exit code of $node after a stop" \
            "$(docker inspect --format '{{.State.ExitCode}}' "$("${compose[@]}" ps -a -q $node)")" 0
    done
    "${compose[@]}" down >/dev/null 2>&1
    "${compose[@]}" up --no-build --detach >/dev/null 2>&1
    within 90 all_healthy || fail "new containers on the old volumes never get healthy"
    expect "the counter on the old volumes" "$(value)" 5
    "${compose[@]}" down --volumes >/dev/null 2>&1
    compose=()
    say "stopped with exit code 0; the counter was still there in new containers"
}

# --- systemd ----------------------------------------------------------------------------------

unit_files() {
    title "systemd: the unit and the sample configuration"
    local tallyd
    for tallyd in target/dist/tallyd target/quick/tallyd target/debug/tallyd; do [[ -x $tallyd ]] && break; done
    if [[ -x $tallyd ]]; then
        "$tallyd" serve --config deploy/systemd/tally.toml --print-config >/dev/null ||
            fail "the sample configuration is refused"
        say "the sample configuration is valid"
    else
        say "no tallyd in target/; the sample configuration is tried in the container below"
    fi
    if has systemd-analyze; then
        local said
        # The program need not be installed here.
        sed 's,^ExecStart=/usr/local/bin/tallyd,ExecStart=/bin/true,' deploy/systemd/tally.service \
            >"$scratch/tally.service"
        said=$(systemd-analyze verify "$scratch/tally.service" 2>&1) || fail "systemd-analyze verify: $said"
        # It warns, and is content, about what it does not know. We are not; about other units we are.
        if grep -F tally.service <<<"$said"; then fail "systemd-analyze verify has something to say"; fi
        say "systemd-analyze verify has nothing to say"
    else
        skip "systemd-analyze verify: there is no systemd-analyze"
    fi
}

unit_runs() {
    title "systemd: the unit under a real systemd, in a container"
    [[ -d $scratch/debian ]] || debian || { skip "running the unit: $no_bases"; return; }
    local base=tally-smoke-systemd:$$ id cgroups=()
    images_made+=("$base")
    tar -C "$scratch/debian" -cf - . | docker import --change "ENV container=docker" - "$base" >/dev/null
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        cgroups=(--cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw)
    else
        cgroups=(--volume /sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw)
    fi
    # Not --privileged, which asks for more than some roots have.
    if ! id=$(docker run --detach --network none --tmpfs /run --tmpfs /run/lock "${cgroups[@]}" \
        --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        "$base" /sbin/init 2>&1); then
        skip "running the unit: no container for systemd: $id"
        return
    fi
    containers_made+=("$id")
    inside() { docker exec "$id" "$@"; }
    systemd_is_up() { [[ $(inside systemctl is-system-running) =~ running|degraded ]]; }
    if ! within 40 systemd_is_up; then
        docker logs --tail 5 "$id"
        skip "running the unit: systemd does not start in a container here"
        return
    fi

    # Install as deploy/README.md says, but for one node.
    local from
    from=$(docker create "$IMAGE")
    containers_made+=("$from")
    docker cp "$from:/usr/local/bin/tallyd" "$scratch/tallyd" >/dev/null
    docker cp "$scratch/tallyd" "$id:/usr/local/bin/tallyd" >/dev/null
    inside mkdir -p /etc/tally
    docker cp deploy/systemd/tally.toml "$id:/etc/tally/tally.toml" >/dev/null
    docker cp deploy/systemd/tally.sysusers.conf "$id:/usr/lib/sysusers.d/tally.conf" >/dev/null
    docker cp deploy/systemd/tally.service "$id:/etc/systemd/system/tally.service" >/dev/null
    environment() {
        printf '%s\n' "$@" | docker exec -i "$id" tee /etc/tally/tally.env >/dev/null
    }
    environment TALLY_INITIAL_CLUSTER=1=127.0.0.1:7501 TALLY_CLIENT_ADVERTISE=127.0.0.1:7401
    inside systemd-sysusers >/dev/null 2>&1
    inside systemctl daemon-reload
    inside systemctl start tally || fail "systemctl start tally"
    serves() { inside /usr/local/bin/tallyd health --service tally.linearizable; }
    property() { inside systemctl show --property "$1" --value tally; }
    within 30 serves || { inside journalctl -u tally --no-pager >&2; fail "the unit's node never serves"; }
    expect "the owner of the data" "$(inside stat -c %U:%a /var/lib/tally)" tally:750

    inside systemctl kill --signal KILL tally
    restarted() { [[ $(property NRestarts) == 1 ]] && serves; }
    within 30 restarted || fail "a killed node is not started again"
    inside systemctl stop tally
    expect "the result of a stop" "$(property Result)/$(property ExecMainStatus)" success/0

    # Another node's id on this node's data: it must not run, and nobody starts it again.
    environment TALLY_NODE_ID=2 TALLY_INITIAL_CLUSTER=2=127.0.0.1:7501 TALLY_CLIENT_ADVERTISE=127.0.0.1:7401
    inside systemctl start tally || true
    has_failed() { [[ $(property ActiveState) == failed ]]; }
    within 30 has_failed || fail "a node with a wrong id is not given up"
    sleep 3
    expect "what became of it" "$(property ActiveState) $(property ExecMainStatus) $(property NRestarts)" \
        "failed 78 0"
    docker rm -f -v "$id" "$from" >/dev/null
    say "started, killed and started again, stopped, refused a wrong id without a restart"
}

# --- All of it --------------------------------------------------------------------------------

unit_files
title "Docker"
no_docker=
no_bases=
if ! engine; then
    skip "image, compose and running the unit: $no_docker"
elif ! has jq; then
    skip "image, compose and running the unit: there is no jq"
elif ! { DOCKER_READY=yes; [[ -n $given ]] || bases; }; then
    skip "image, compose and running the unit: $no_bases"
else
    [[ -n $given ]] || build
    image
    three_nodes
    unit_runs
fi
