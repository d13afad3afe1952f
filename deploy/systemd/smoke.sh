# shellcheck shell=bash
# The part of deploy/smoke.sh about systemd, which reads it: the unit, and the Debian package that has it.

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
        # In tenths. It is 1.1 by systemd 252; other versions weigh a little differently.
        systemd-analyze security --offline=true --threshold=15 --no-pager "$scratch/tally.service" \
            >"$scratch/exposure" 2>&1 || { cat "$scratch/exposure"; fail "the unit is exposed more than it was"; }
        say "$(tail -n 1 "$scratch/exposure" | sed 's/^[^A-Z]*//')"
    else
        skip "systemd-analyze verify: there is no systemd-analyze"
    fi
}

# A container in which systemd runs: in $id, and `inside` it.
systemd_container() {
    [[ -d $scratch/debian ]] || debian || { skip "running the unit: $no_bases"; return 1; }
    local base=tally-smoke-systemd:$$ cgroups=()
    if ! docker image inspect "$base" >/dev/null 2>&1; then
        images_made+=("$base")
        tar -C "$scratch/debian" -cf - . | docker import --change "ENV container=docker" - "$base" >/dev/null
    fi
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        cgroups=(--cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw)
    else
        cgroups=(--volume /sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw)
    fi
    # Not --privileged, which asks for more than some roots have. SYS_PTRACE is what systemd sees its own processes by,
    # for PrivateUsers beside ProtectProc.
    if ! id=$(docker run --detach --network none --tmpfs /run --tmpfs /run/lock "${cgroups[@]}" \
        --cap-add SYS_ADMIN --cap-add SYS_PTRACE --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        "$base" /sbin/init 2>&1); then
        skip "running the unit: no container for systemd: $id"
        return 1
    fi
    containers_made+=("$id")
    if ! within 40 systemd_is_up; then
        docker logs --tail 5 "$id"
        skip "running the unit: systemd does not start in a container here"
        return 1
    fi
}

inside() { docker exec "$id" "$@"; }
systemd_is_up() { [[ $(inside systemctl is-system-running) =~ running|degraded ]]; }
property() { inside systemctl show --property "$1" --value tally; }
environment() { printf '%s\n' "$@" | docker exec -i "$id" tee /etc/tally/tally.env >/dev/null; }

# Where the files of the sample configuration come from; node 2's are for a refusal.
certificates() {
    # shellcheck disable=SC2016 # expanded inside
    inside sh -euc 'cd /root; tally cert init; for n in 1 2; do tally cert node $n --hosts 127.0.0.1; done
        cd certificates; install -m 644 ca.crt node-?.crt /etc/tally/; install -o tally -m 600 node-?.key /etc/tally/' \
        >/dev/null
}

serves() { inside tallyd health --service tally.linearizable --client-tls-cert-file /etc/tally/node-1.crt; }
secure() { inside tally --endpoints 127.0.0.1:7401 --tls-ca /etc/tally/ca.crt "$@"; }

unit_runs() {
    title "systemd: the unit under a real systemd, in a container"
    local id
    systemd_container || return 0

    # Install as docs/deployment.md says, but for one node.
    local from
    from=$(docker create "$IMAGE")
    containers_made+=("$from")
    local program
    for program in tallyd tally; do
        docker cp "$from:/usr/local/bin/$program" "$scratch/$program" >/dev/null
        docker cp "$scratch/$program" "$id:/usr/local/bin/$program" >/dev/null
    done
    inside mkdir -p /etc/tally
    docker cp deploy/systemd/tally.toml "$id:/etc/tally/tally.toml" >/dev/null
    docker cp deploy/systemd/tally.sysusers.conf "$id:/usr/lib/sysusers.d/tally.conf" >/dev/null
    docker cp deploy/systemd/tally.service "$id:/etc/systemd/system/tally.service" >/dev/null
    environment TALLY_INITIAL_CLUSTER=1=127.0.0.1:7501 TALLY_CLIENT_ADVERTISE=127.0.0.1:7401
    inside systemd-sysusers >/dev/null 2>&1
    certificates
    inside systemctl daemon-reload
    inside systemctl start tally || fail "systemctl start tally"
    within 30 serves || { inside journalctl -u tally --no-pager >&2; fail "the unit's node never serves"; }
    expect "the owner of the data" "$(inside stat -c %U:%a /var/lib/tally)" tally:700
    expect "the owner of the first token" "$(inside stat -c %U:%a /var/lib/tally/admin-token)" tally:600
    expect "an add with it" "$(secure --token-file /var/lib/tally/admin-token counter add smoke 1)" 1
    if secure counter get smoke >/dev/null 2>&1; then fail "the unit's node serves somebody without a token"; fi

    inside systemctl kill --signal KILL tally
    restarted() { [[ $(property NRestarts) == 1 ]] && serves; }
    within 30 restarted || fail "a killed node is not started again"
    inside systemctl stop tally
    expect "the result of a stop" "$(property Result)/$(property ExecMainStatus)" success/0

    # Another node's id on this node's data: it must not run, and nobody starts it again.
    environment TALLY_NODE_ID=2 TALLY_INITIAL_CLUSTER=2=127.0.0.1:7501 TALLY_CLIENT_ADVERTISE=127.0.0.1:7401 \
        TALLY_PEER_TLS_CERT_FILE=/etc/tally/node-2.crt TALLY_PEER_TLS_KEY_FILE=/etc/tally/node-2.key
    inside systemctl start tally || true
    has_failed() { [[ $(property ActiveState) == failed ]]; }
    within 30 has_failed || fail "a node with a wrong id is not given up"
    sleep 3
    expect "what became of it" "$(property ActiveState) $(property ExecMainStatus) $(property NRestarts)" \
        "failed 78 0"
    docker rm -f -v "$id" "$from" >/dev/null
    say "started, killed and started again, stopped, refused a wrong id without a restart"
}

# Installed, configured, upgraded (it is not restarted), removed (the data stays), purged.
package_runs() {
    title "the Debian package, under a real systemd, in a container"
    local id pid
    systemd_container || return 0
    docker cp "$package" "$id:/root/tally.deb" >/dev/null
    inside dpkg --install /root/tally.deb >/dev/null 2>&1 || fail "the package does not install"
    expect "the unit of a new package" "$(inside systemctl is-enabled tally || true) $(property ActiveState)" \
        "disabled inactive"
    expect "the owner of /etc/tally" "$(inside stat -c %U:%G:%a /etc/tally)" root:tally:750
    certificates
    environment TALLY_INITIAL_CLUSTER=1=127.0.0.1:7501 TALLY_CLIENT_ADVERTISE=127.0.0.1:7401
    inside systemctl enable --now tally 2>/dev/null || fail "systemctl enable --now tally"
    within 30 serves || { inside journalctl -u tally --no-pager >&2; fail "the package's node never serves"; }
    expect "an add" "$(secure --token-file /var/lib/tally/admin-token counter add smoke 1)" 1
    pid=$(property MainPID)
    inside dpkg --install /root/tally.deb 2>/dev/null | grep -q "systemctl restart tally" ||
        fail "an upgrade does not say what is left to do"
    expect "the process after an upgrade" "$(property MainPID)" "$pid"
    inside systemctl restart tally
    within 30 serves || fail "the node does not serve after an upgrade and a restart"
    inside dpkg --remove tally >/dev/null 2>&1 || fail "the package can't be removed"
    expect "the unit after a removal" "$(property ActiveState)" inactive
    inside dpkg --purge tally >/dev/null 2>&1 || fail "the package can't be purged"
    inside test -d /var/lib/tally/ -a -e /var/lib/tally/admin-token || fail "the data is gone with the package"
    docker rm -f -v "$id" >/dev/null
    say "installed, upgraded without a restart, removed and purged; the data stayed"
}
