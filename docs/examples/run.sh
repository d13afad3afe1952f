#!/usr/bin/env bash
# Tries the example client in Python against real nodes.
#
#   docs/examples/run.sh PATH_OF_TALLYD
#
# It makes a virtual environment with grpcio from PyPI, in the cache, and the stubs from proto/, in a
# directory of their own. Where PyPI can't be reached it says SKIPPED and ends with 0.
set -euo pipefail
[[ $# == 1 && -x $1 ]] || { echo "usage: docs/examples/run.sh PATH_OF_TALLYD" >&2; exit 2; }
tallyd=$(realpath "$1")
cd "$(dirname "$0")"

readonly VENV="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci/python-client"
readonly PACKAGES=("grpcio>=1.70,<2" "grpcio-tools>=1.70,<2" "googleapis-common-protos>=1.66,<2")

work=$(mktemp -d "${TMPDIR:-/tmp}/tally-client-py.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [[ ! -e $VENV/ready ]]; then
    if ! { python3 -m venv "$VENV" && "$VENV/bin/pip" install --quiet "${PACKAGES[@]}"; } >"$work/pip.log" 2>&1; then
        tail -n 3 "$work/pip.log"
        printf '\n*** SKIPPED: the example client in Python: grpcio can'\''t be installed from PyPI\n'
        exit 0
    fi
    touch "$VENV/ready"
fi
mkdir "$work/stubs"
"$VENV/bin/python" -m grpc_tools.protoc -I ../../proto/proto --python_out="$work/stubs" \
    --grpc_python_out="$work/stubs" ../../proto/proto/tally/v1/*.proto
# Bounded, so that a client that hangs fails.
PYTHONPATH=$work/stubs timeout --kill-after=20 300 "$VENV/bin/python" -B try_client.py "$tallyd"
