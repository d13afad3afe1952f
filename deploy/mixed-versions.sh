#!/bin/sh
# A rolling upgrade from an older commit to this tree, back, and forth again, under load: builds `tallyd` of the older
# commit in a worktree of its own, and runs the tests of upgrades with that program as the older release.
#
#     deploy/mixed-versions.sh [COMMIT]
#
# Not part of .ci/run: it builds the server a second time. COMMIT has version 1 of the formats, as every commit before
# clusters had versions; the default is the last one of those, so it is what version 1 is.
set -eu
cd "$(dirname "$0")/.."
commit=${1:-3425d59}
target=$(cargo metadata --no-deps --format-version 1 --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
tree=$target/older-release
[ -d "$tree" ] || git worktree add --detach "$tree" "$commit"
git -C "$tree" checkout --quiet --detach "$commit"
CARGO_TARGET_DIR="$target/older" cargo build --manifest-path "$tree/Cargo.toml" --locked -p tally-node --bin tallyd
echo "the older release is $(git -C "$tree" describe --always): $("$target/older/debug/tallyd" --version)"
OLDER_TALLYD=$target/older/debug/tallyd cargo test --locked -p tally-node --test process upgrade:: -- --nocapture
git worktree remove --force "$tree"
