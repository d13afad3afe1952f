#!/usr/bin/env bash
# Judges the libraries beneath by the simulator. docs/judged-versions.md says what came of it.
#
#   judge.sh [OPTIONS] [NAME…]                       which of a library's own fixes the simulator would miss
#   judge.sh [OPTIONS] --plain [CRATE=VERSION…]      whether a version is fit for use
#
# The first takes each fix (or those with these names) out of a copy of the library that Cargo.lock
# names, one at a time, and says which seed shows it, and by which check. Each is a small patch beside
# this script, and nothing is undone until TALLY_UNDONE names it: so one build judges all of them, and
# runs with nothing undone come first. Not seen is said, and is no failure; what fails is a patch that
# does not apply any more, and a run with nothing undone that finds something.
#
# The second builds with these versions (of openraft, sled, turmoil; the locked ones where none is named)
# and runs what a change of the simulator has to pass, and fresh seeds. `--plain openraft=0.10.0-alpha.38`
# asks about an upgrade before it is made. A simulation has a byte store in sled's place, so sled is judged
# by the power cuts of node/tests/powercut, which need FUSE; openraft besides by its own suite for storages.
#
#   --seeds N      seeds for each, from 0 (100)
#   --from SEED    … from this one
#   --seconds S    simulated seconds of each (60)
#   --each N       seeds of each scenario, for what no seed shows (2; 0: none)
#   --minutes M    fresh seeds for a version (10)
#   --only-build   says whether all applies and compiles
#
# The checkout stays as it is: all is done in a copy, in a temporary directory that is removed at the
# end. Builds go to $CARGO_TARGET_DIR where it is set, and are removed too where it is not. $CARGO is run in
# cargo's place.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)

fail() { printf 'judge.sh: %s\n' "$*" >&2; exit 2; }
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; }

seeds=100 from=0 seconds=60 each=2 minutes=10 plain=no only_build=no
wanted=()
while (($#)); do
    case "$1" in
        --seeds | --from | --seconds | --each | --minutes)
            [[ $# -ge 2 && $2 =~ ^[0-9]+$ ]] || fail "$1 needs a number"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --plain) plain=yes ;;
        --only-build) only_build=yes ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) wanted+=("$1") ;;
    esac
    shift
done
for tool in jq patch git tar; do
    command -v "$tool" >/dev/null 2>&1 || fail "there is no $tool"
done
read -ra cargo <<<"${CARGO:-cargo}"

work=$(mktemp -d "${TMPDIR:-/tmp}/tally-beneath.XXXXXX")
# A program that is built at the same place twice need not be built twice.
[[ -z ${CARGO_TARGET_DIR:-} ]] || { rm -rf "$work" && work=$CARGO_TARGET_DIR/beneath && mkdir -p "$work"; }
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
readonly sim=$CARGO_TARGET_DIR/sim/tally-sim

# --- What is built ----------------------------------------------------------------------------

copy_checkout() {
    rm -rf "$work/tally" && mkdir -p "$work/tally"
    (cd "$top" && git ls-files -z --cached --others --exclude-standard |
        tar --create --null --files-from - --ignore-failed-read 2>/dev/null) |
        tar --extract --directory "$work/tally"
}

locked() { # CRATE: the version in Cargo.lock
    awk -v crate="$1" '$1 == "name" && $3 == "\"" crate "\"" { getline; gsub(/"/, "", $3); print $3; exit }' \
        "$work/tally/Cargo.lock"
}

build() { # ARGUMENTS…
    local built=0
    (cd "$work/tally" && "${cargo[@]}" build --profile sim -p tally-sim-tests --bin tally-sim "$@") \
        >"$work/build.log" 2>&1 || built=$?
    if ((built)); then
        tail -n 40 "$work/build.log" >&2
        fail "it does not build"
    fi
}

# The sources of a crate of the locked version, in a copy that may be changed.
copy_crate() { # CRATE
    local version manifest host
    version=$(locked "$1")
    host=$(rustc -vV | sed -n "s,^host: ,,p")
    manifest=$(cd "$work/tally" && cargo metadata --format-version 1 --locked --filter-platform "$host" |
        jq -r --arg name "$1" --arg version "$version" \
            '.packages[] | select(.name == $name and .version == $version) | .manifest_path')
    [[ -n $manifest ]] || fail "$1 $version is not among the packages"
    cp -R "$(dirname "$manifest")" "$work/$1"
    chmod -R u+w "$work/$1"
    echo "$1 $version"
}

# --- Whether a fix is seen --------------------------------------------------------------------

failing() { # RUN ARGUMENTS…: the first seed that fails, and how; nothing if none does
    TALLY_UNDONE=$undone "$sim" run --json --seconds "$seconds" "$@" 2>/dev/null |
        jq -r '.failed | sort_by(.seed) | first | select(.) | "\(.seed)\t\(.violations[0])"'
}

judge_fix() { # NAME
    local undone=$1 seen seed what
    seen=$(failing --seeds "$from..$((from + seeds))") || true
    if [[ -n $seen ]]; then
        IFS=$'\t' read -r seed what <<<"$seen"
        printf '%-32s seen: seed %s (number %d): %.140s\n' "$undone" "$seed" "$((seed - from + 1))" "$what"
        return
    fi
    ((each == 0)) || seen=$(failing --scenario all --seeds "$from..$((from + each))") || true
    if [[ -n $seen ]]; then
        IFS=$'\t' read -r seed what <<<"$seen"
        printf '%-32s seen: seed %s of a scenario: %.140s\n' "$undone" "$seed" "$what"
        return
    fi
    printf '%-32s NOT SEEN after %d seeds, and %d of each scenario\n' "$undone" "$seeds" "$each"
}

judge_fixes() {
    local crate file name names=() patches=() broken=() undone
    copy_checkout
    for crate in openraft quorum-set; do
        copy_crate "$crate"
        patches+=(--config "patch.crates-io.$crate.path=\"$work/$crate\"")
        # What the libraries assert is not in a release, so the simulator must see without it.
        patches+=(--config "profile.sim.package.$crate.debug-assertions=false")
        for file in "$here/$crate"/*.patch; do
            name=$(basename "$file" .patch) name=${name#[0-9][0-9]-}
            if ! patch --batch --forward --strip 1 --directory "$work/$crate" --input "$file" >/dev/null; then
                broken+=("$name")
            elif [[ $name != switch ]]; then
                names+=("$name")
            fi
        done
    done
    for name in "${wanted[@]}"; do
        [[ " ${names[*]} ${broken[*]} " == *" $name "* ]] || fail "there is no patch $name"
    done
    # `Valid<…>` is where openraft checks itself.
    build "${patches[@]}" --config 'profile.sim.package.validit.debug-assertions=false'
    ((${#broken[@]} == 0)) || printf 'does not apply any more: %s\n' "${broken[@]}"
    [[ $only_build == no ]] || return "$((${#broken[@]} > 0))"
    undone="nothing"
    local found
    found=$(failing --seeds "$from..$((from + 20))")
    [[ -z $found ]] || fail "with nothing undone: $found"
    for name in "${names[@]}"; do
        ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $name "* ]] || continue
        judge_fix "$name"
    done
    return "$((${#broken[@]} > 0))"
}

# --- Whether a version is fit -----------------------------------------------------------------

judge_versions() {
    local asked crate version
    copy_checkout
    for asked in "${wanted[@]}"; do
        [[ $asked == *=* ]] || fail "--plain takes CRATE=VERSION, not $asked"
        crate=${asked%%=*} version=${asked#*=}
        case "$crate" in openraft | sled | turmoil) ;; *) fail "it judges openraft, sled and turmoil" ;; esac
        # openraft's sibling crates are pinned with it.
        sed -i -E "s/^($crate|$crate-rt|$crate-rt-tokio)( = (\{ version = )?\")=[^\"]*/\1\2=$version/" \
            "$work/tally/Cargo.toml"
        grep -q "^$crate = .*\"=${version//./\\.}\"" "$work/tally/Cargo.toml" || fail "no pin of $crate was found"
    done
    build
    for crate in openraft sled turmoil; do printf '%s %s\n' "$crate" "$(locked "$crate")"; done
    [[ $only_build == no ]] || return 0
    local status=0 check
    local checks=("run --seeds $from..$((from + seeds)) --seconds $seconds --not-vacuous"
        "determinism --seeds $from..$((from + 10)) --seconds $seconds")
    ((each == 0)) || checks+=("run --scenario all --seeds $from..$((from + each))")
    ((minutes == 0)) || checks+=("run --minutes $minutes --seconds $seconds")
    for check in "${checks[@]}"; do
        printf '\n=== tally-sim %s\n' "$check"
        # shellcheck disable=SC2086 # they are words
        "$sim" $check || status=1
    done
    for asked in "${wanted[@]}"; do
        case "${asked%%=*}" in
            openraft) test_node --lib consensus:: || status=1 ;;
            sled) test_node --test powercut || status=1 ;;
        esac
    done
    return "$status"
}

test_node() { # ARGUMENTS…
    printf '\n=== cargo test -p tally-node %s\n' "$*"
    (cd "$work/tally" && "${cargo[@]}" test -p tally-node "$@")
}

if [[ $plain == yes ]]; then judge_versions; else judge_fixes; fi
