#!/usr/bin/env bash
# Makes a release twice, from two clean checkouts at different paths, and compares every byte.
#
#   deploy/reproducible.sh [--quick] [--arch amd64|arm64]...
#
#   --quick   with the optimiser turned down, in a quarter of the time: paths, times and packing are tried all the same
#
# Two builds for each processor, both kept to the end. Where they differ, deploy/first-difference.py says in which crates.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == --quick ]]; then
    shift
    export CARGO_PROFILE_DIST_OPT_LEVEL=0 CARGO_PROFILE_DIST_LTO=off CARGO_PROFILE_DIST_CODEGEN_UNITS=16
fi

commit=$(git rev-parse HEAD)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-reproducible.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

for checkout in "$scratch/a" "$scratch/another/place/b"; do
    git clone --quiet --no-checkout . "$checkout"
    git -C "$checkout" checkout --quiet --detach "$commit"
    "$checkout/deploy/release.sh" "$@" --out "$scratch/out-$(basename "$checkout")"
done
if ! diff "$scratch"/out-{a,b}/SHA256SUMS; then
    trap - EXIT
    # In the order of compilation: what comes first is the cause, or the nearest to it.
    for build in "$scratch"/a/target/*-linux-musl/dist; do
        deploy/first-difference.py "$build" "$scratch/another/place/b/${build#"$scratch/a/"}" || true
    done
    echo "FAILED: two builds of $commit differ; they are in $scratch" >&2
    exit 1
fi
echo "two builds of $commit are the same, byte by byte"
