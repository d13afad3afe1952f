#!/usr/bin/env bash
# Tries the examples in other languages against real nodes: the complete client in Python, and a first program and
# the forms of addresses in Python, Node and Go (languages/). Leaders are killed while they count. Then a service in
# each with a planted bug, which its own tests find beside a cluster that breaks (chaos/).
#
#   docs/examples/run.sh PATH_OF_TALLYD [client|python|node|go ...]
#
# Beside `tallyd` there has to be `tally`. Packages come from PyPI, npm and Go's module proxy, into the cache;
# stubs are made of proto/, in a directory of their own. What can't be had is said, SKIPPED, and is no failure.
set -euo pipefail
[[ $# -ge 1 && -x $1 ]] || { echo "usage: docs/examples/run.sh PATH_OF_TALLYD [client|python|node|go ...]" >&2; exit 2; }
tallyd=$(realpath "$1")
tally=$(dirname "$tallyd")/tally
shift
wanted=("$@")
((${#wanted[@]})) || wanted=(client python node go)
cd "$(dirname "$0")"

readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci"
readonly VENV=$CACHE/python-client
readonly PACKAGES=("grpcio>=1.70,<2" "grpcio-tools>=1.70,<2" "grpcio-status>=1.70,<2" "googleapis-common-protos>=1.66,<2" "pytest>=8,<10")
readonly NODE_PACKAGES=(@grpc/grpc-js@1 @grpc/proto-loader@0.8 protobufjs@7 vitest@3)
readonly GO_PLUGINS=(google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10 google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1)
readonly ADDS=300

proto=$(realpath ../../proto/proto)
work=$(mktemp -d "${TMPDIR:-/tmp}/tally-examples.XXXXXX")
dev=
clean() {
    stop
    # Go writes its modules so that nobody can remove them.
    chmod -R u+w "$work" && rm -rf "$work"
}
stop() {
    if [[ -n $dev ]]; then
        kill "$dev" 2>/dev/null || true
        wait "$dev" || true
    fi
    dev=
}
trap clean EXIT

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf '\n*** SKIPPED: %s\n' "$*"; }
# Bounded, so that what hangs fails.
bounded() { timeout --kill-after=20 "$@"; }

python_packages() {
    local ready
    ready=$VENV/ready-$(printf '%s\n' "${PACKAGES[@]}" | cksum | cut -d' ' -f1)
    [[ -e $ready ]] && return
    if { python3 -m venv "$VENV" && "$VENV/bin/pip" install --quiet "${PACKAGES[@]}"; } >"$work/pip.log" 2>&1; then
        touch "$ready"
    else
        tail -n 3 "$work/pip.log"
        return 1
    fi
}

# A cluster of its own for each, with nothing in it.
cluster() {
    stop
    local base
    base=$("$VENV/bin/python" - <<'PY'
import contextlib, random, socket
while True:
    base = random.randrange(20000, 32000)
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        for port in range(base, base + 6):
            held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        break
print(base)
PY
    )
    "$tallyd" dev --data "$work/dev-$base" --client-port "$base" --peer-port "$((base + 3))" >"$work/dev.log" 2>&1 &
    dev=$!
    endpoints=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))
    local waited
    for waited in $(seq 300); do
        grep -q "kill -9 " "$work/dev.log" && return
        kill -0 "$dev" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/dev.log"
    fail "no cluster came up ($waited)"
}

hits() { "$tally" --endpoints "$endpoints" counter get hits 2>/dev/null || echo 0; }

# The forms of addresses (`forms`), then a program (`hello`) that counts while the leader is killed: each add once.
try() {
    local name=$1 at=$2
    cluster
    (cd "$at" && bounded 120 "${forms[@]}" "$endpoints") || fail "$name: the forms of addresses"
    (cd "$at" && bounded 120 "${hello[@]}" "$endpoints" "$ADDS") >"$work/said" 2>&1 &
    local program=$!
    until (($(hits) >= 20)); do
        kill -0 "$program" 2>/dev/null || { cat "$work/said"; fail "$name: it ended before it counted to 20"; }
    done
    kill -KILL "$(sed -nE 's/.*kill -9 ([0-9]+).*/\1/p' "$work/dev.log" | head -n 1)"
    kill -0 "$program" 2>/dev/null || fail "$name: it ended before the leader was killed: raise ADDS"
    wait "$program" || { cat "$work/said"; fail "$name"; }
    cat "$work/said"
    diff "$work/said" - <<SAID || fail "$name: said something else"
hits $ADDS
big 9007199254740993 replayed
refused BELOW_FLOOR NOT_APPLIED
SAID
    echo "$name: well"
}

# A service with a planted bug, and without it, by its own tests beside a cluster that breaks: they find the bug, and
# nothing else.
chaos() {
    local name=$1 at=$2 status=0 plan
    shift 2
    plan=$(realpath chaos/lost-answers.plan)
    (cd "$at" && SHOP=hasty bounded 120 "$tallyd" chaos --seed 3 --plan "$plan" -- "$@") >"$work/said" 2>&1 || status=$?
    # 1 is the tests' own: not the cluster's (99), nor that nothing ran (125).
    [[ $status == 1 ]] || { cat "$work/said"; fail "$name: the planted bug was not found (exit status $status)"; }
    (cd "$at" && SHOP=careful bounded 120 "$tallyd" chaos --seed 3 --plan "$plan" --junit "$work/chaos.xml" -- "$@") \
        >"$work/said" 2>&1 || { cat "$work/said"; fail "$name: a test without a bug failed"; }
    grep -q ' failures="0"' "$work/chaos.xml" || fail "$name: its JUnit report tells of failures"
    echo "$name: the planted bug is found, and nothing where there is none"
}

client() {
    mkdir "$work/stubs"
    "$VENV/bin/python" -m grpc_tools.protoc -I "$proto" --python_out="$work/stubs" \
        --grpc_python_out="$work/stubs" "$proto"/tally/v1/*.proto
    PYTHONPATH=$work/stubs bounded 300 "$VENV/bin/python" -B try_client.py "$tallyd"
}

python() {
    export PYTHONPATH=$proto
    forms=("$VENV/bin/python" -B forms.py) hello=("$VENV/bin/python" -B hello.py)
    try python languages
    stop
    chaos pytest chaos "$VENV/bin/python" -B -m pytest -q -p no:cacheprovider test_shop.py
    unset PYTHONPATH
}

node() {
    local at=$CACHE/node-client
    command -v npm >/dev/null || { skip "the examples in Node: there is no npm"; return; }
    mkdir -p "$at"
    if ! (cd "$at" && { [[ -e package.json ]] || npm init -y; } \
        && npm install --no-audit --no-fund "${NODE_PACKAGES[@]}") >"$work/npm.log" 2>&1; then
        tail -n 3 "$work/npm.log"
        skip "the examples in Node: grpc-js can't be installed from npm"
        return
    fi
    # Modules are looked for beside the file.
    cp languages/*.mjs chaos/*.mjs "$at"
    export PROTO_DIR=$proto
    forms=(node forms.mjs) hello=(node hello.mjs)
    try node "$at"
    stop
    chaos vitest "$at" npx vitest run shop.test.mjs
}

go() {
    type -P go >/dev/null || { skip "the examples in Go: there is no Go"; return; }
    local at=$work/go plugin
    mkdir -p "$at/forms"
    for plugin in "${GO_PLUGINS[@]}"; do
        if ! GOBIN=$CACHE/bin command go install "$plugin" >"$work/go.log" 2>&1; then
            tail -n 3 "$work/go.log"
            skip "the examples in Go: its plugins for protoc can't be had"
            return
        fi
    done
    cp languages/hello.go "$at/main.go"
    cp languages/forms.go "$at/forms/main.go"
    PATH=$CACHE/bin:$PATH "$VENV/bin/python" -m grpc_tools.protoc -I "$proto" \
        --go_out="$at" --go_opt=module=github.com/tally-db/tally/proto \
        --go-grpc_out="$at" --go-grpc_opt=module=github.com/tally-db/tally/proto "$proto"/tally/v1/*.proto
    printf 'module github.com/tally-db/tally/proto\n\ngo 1.24\n' >"$at/go.mod"
    if ! (cd "$at" && command go mod tidy && command go build -o hello . && command go build -o forms/forms ./forms) \
        >"$work/go.log" 2>&1; then
        tail -n 20 "$work/go.log"
        grep -qE 'dial tcp|proxyconnect|no such host|connection refused|i/o timeout' "$work/go.log" \
            || fail "go: it does not compile"
        skip "the examples in Go: its modules can't be had"
        return
    fi
    forms=(./forms/forms) hello=(./hello)
    try go "$at"
    stop
    mkdir "$at/shop"
    cp chaos/*.go "$at/shop"
    # Compiled before, so that the faults strike the test and not the compiler.
    if ! (cd "$at" && command go mod tidy && command go vet ./shop && command go test -count=1 -run none ./shop) >"$work/go.log" 2>&1; then
        cat "$work/go.log"
        fail "go: the shop does not compile"
    fi
    chaos "go test" "$at" go test -count=1 ./shop
}

if ! python_packages; then
    skip "the examples in other languages: grpcio can't be installed from PyPI"
    exit 0
fi
for one in "${wanted[@]}"; do
    echo "--- $one"
    "$one"
done
