#!/usr/bin/env bash
# Makes what a release consists of, in one folder, from a clean checkout:
#
#   deploy/release.sh [--arch amd64|arm64]... [--out FOLDER]
#
#   --arch   for which processors (default: both); amd64 here can make both
#   --out    where it goes (default: target/release-files); what is there of the same names is replaced
#
#   tally-VERSION-linux-ARCH.tar.gz    static programs (musl), manual pages, completions, the systemd unit, SBOMs
#   tally-VERSION-linux-ARCH.debug.tar.gz   their lines, for backtraces and debuggers
#   tally_VERSION_ARCH.deb             the same for Debian and what descends from it
#   tally-VERSION-linux-ARCH.oci.tar   an image: `docker load`, `skopeo copy oci-archive:…`
#   tallyd-VERSION.cdx.json, tally-VERSION.cdx.json    what each program is linked from (CycloneDX)
#   SHA256SUMS
#
# The same commit is to make the same bytes, wherever it is checked out: deploy/reproducible.sh looks, and
# docs/deployment.md says what was seen. All times are the commit's. The toolchain is the one that is installed (what it
# was is in TOOLCHAIN), and links by its own linker and musl. C is compiled by zig, which does so for both processors,
# behind cargo-zigbuild, which translates what cc says; both come from PyPI in fixed versions.
#
# Needs: rustup's targets ARCH-unknown-linux-musl, python3 with venv, llvm-objcopy, dpkg-deb, jq, cargo-cyclonedx.
# Run on amd64, as the manual pages and completions come from the programs themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ZIGBUILD=cargo-zigbuild==0.24.1 ZIG=ziglang==0.17.1 CYCLONEDX=0.5.9
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci"

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
title() { printf '\n-- %s\n' "$*"; }

architectures=()
out=target/release-files
while (($#)); do
    case $1 in
        --arch) architectures+=("${2:?}"); shift 2 ;;
        --out) out=${2:?}; shift 2 ;;
        *) echo "usage: deploy/release.sh [--arch amd64|arm64]... [--out FOLDER]" >&2; exit 2 ;;
    esac
done
((${#architectures[@]})) || architectures=(amd64 arm64)
for arch in "${architectures[@]}"; do
    [[ $arch == amd64 || $arch == arm64 ]] || fail "$arch is neither amd64 nor arm64"
done
[[ -z $(git status --porcelain) ]] || fail "the checkout is not clean: a release is what a commit says"

export LC_ALL=C TZ=UTC
umask 022
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
TALLY_COMMIT=$(git rev-parse HEAD)
export SOURCE_DATE_EPOCH TALLY_COMMIT
version=$(cargo metadata --no-deps --format-version 1 --locked |
    jq -r '.packages[] | select(.name == "tally-node").version')
readonly version
mkdir -p "$out"
out=$(realpath "$out")
readonly target=$PWD/target
scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-release.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# --- Tools ------------------------------------------------------------------------------------

tools() {
    local tool
    for tool in llvm-objcopy dpkg-deb jq python3; do
        command -v "$tool" >/dev/null || fail "there is no $tool"
    done
    venv=$CACHE/${ZIGBUILD//==/-}
    if [[ ! -x $venv/bin/cargo-zigbuild ]]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "$ZIGBUILD" "$ZIG"
    fi
    export PATH=$venv/bin:$PATH
    mkdir "$scratch/bin"
    local machine
    for machine in x86_64 aarch64; do
        printf '#!/bin/sh\nexec cargo-zigbuild zig cc -- -fno-sanitize=all -target %s-linux-musl "$@"\n' "$machine" \
            >"$scratch/bin/cc-$machine"
    done
    printf '#!/bin/sh\nexec cargo-zigbuild zig ar -- "$@"\n' >"$scratch/bin/ar"
    chmod +x "$scratch"/bin/*
    cargo cyclonedx --version 2>/dev/null | grep -qF "$CYCLONEDX" ||
        fail "there is no cargo-cyclonedx $CYCLONEDX: cargo install --locked cargo-cyclonedx@$CYCLONEDX"
    {
        rustc --version --verbose
        "$venv/bin/pip" list --format freeze --disable-pip-version-check | grep -E '^(cargo-zigbuild|ziglang)='
        echo "cargo-cyclonedx==$CYCLONEDX"
        dpkg-deb --version | sed -n 1p
        gzip --version | sed -n 1p
    } >"$out/TOOLCHAIN"
}

# A file or folder as an archive that says nothing of who packed it, and when.
pack() {
    local archive=$1 folder=$2
    tar -C "$(dirname "$folder")" --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
        --numeric-owner -cf - "$(basename "$folder")" | gzip -9n >"$archive"
}

# --- Programs ---------------------------------------------------------------------------------

# No path of this machine may be left in them: of the sources, of the crates, of the C code among these. A wrapper tells
# rustc, as RUSTFLAGS reach what is made for a release's processors alone, and not the macros that run meanwhile. One of
# these (rustversion) has a file below target/ among its sources: its hash hung on the place of the checkout, and with
# it the metadata of each crate that uses it, and of what uses those.
flags() {
    local home=${CARGO_HOME:-$HOME/.cargo} sources from to
    RUSTFLAGS="--cfg tokio_unstable"
    # mimalloc says when it was compiled, and zig's compiler does not know SOURCE_DATE_EPOCH.
    CFLAGS='-Wno-builtin-macro-redefined -D__DATE__="" -D__TIME__=""'
    RUSTC_WRAPPER=$scratch/bin/rustc-anywhere
    {
        printf '#!/bin/sh\nexec "$@"'
        while read -r from to; do
            printf ' "--remap-path-prefix=%s=%s"' "$from" "$to"
            CFLAGS+=" -ffile-prefix-map=$from=$to"
        done < <(
            # The last that fits counts.
            echo "$venv /zig"
            echo "$home /cargo"
            for sources in "$home"/registry/src/*/; do echo "${sources%/} /crates"; done
            echo "$(rustc --print sysroot)/lib/rustlib/src/rust /rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')"
            echo "$PWD /tally"
        )
        echo
    } >"$RUSTC_WRAPPER"
    chmod +x "$RUSTC_WRAPPER"
    export RUSTFLAGS CFLAGS RUSTC_WRAPPER
}

triple() { case $1 in amd64) echo x86_64-unknown-linux-musl ;; arm64) echo aarch64-unknown-linux-musl ;; esac; }

programs() {
    local arch=$1 folder name
    title "$arch: programs"
    (
        flags
        name=$(triple "$arch")
        name=${name//-/_}
        export "CC_$name=$scratch/bin/cc-${name%%_unknown*}" "AR_$name=$scratch/bin/ar"
        export "CARGO_TARGET_${name^^}_LINKER=rust-lld"
        CARGO_TARGET_DIR=$target cargo build --locked --profile dist --target "$(triple "$arch")" \
            --bin tallyd --bin tally
    )
    folder=$scratch/$arch/programs
    mkdir -p "$folder"
    cp "$target/$(triple "$arch")"/dist/{tallyd,tally} "$folder"
    # Before the lines are split off: those are compressed, and a path in them would not be seen.
    if grep -qaF -e "$PWD" -e "$HOME/" -e "$scratch" "$folder"/{tallyd,tally}; then
        fail "$arch: a path of this machine is in the programs"
    fi
    OBJCOPY=llvm-objcopy deploy/split-symbols.sh "$folder/tallyd" "$folder/tally"
    file "$folder/tallyd" 2>/dev/null | sed 's,.*/,   ,' || true
}

# Manual pages and completions, the same for all: from the programs of this processor.
words() {
    local from=$scratch/amd64/programs shell
    [[ -d $from ]] || from=$target/$(triple amd64)/dist
    [[ -x $from/tally ]] || fail "manual pages take programs that run here: --arch amd64"
    mkdir -p "$scratch/words/completions"
    env -i HOME=/nonexistent "$from/tally" man --dir "$scratch/words/man/man1" >/dev/null
    env -i HOME=/nonexistent "$from/tallyd" man --dir "$scratch/words/man/man8" >/dev/null
    for shell in bash zsh fish; do
        "$from/tally" completions $shell >"$scratch/words/completions/tally.$shell"
        "$from/tallyd" completions $shell >"$scratch/words/completions/tallyd.$shell"
    done
}

# What each program is linked from. In a copy, as the tool writes beside each Cargo.toml, and without its path.
bills() {
    title "SBOM"
    local program manifest
    mkdir "$scratch/bills"
    git archive HEAD | tar -C "$scratch/bills" -xf -
    for program in tallyd:node tally:client/cli; do
        manifest=${program#*:} program=${program%:*}
        (cd "$scratch/bills" && cargo cyclonedx --quiet --manifest-path "$manifest/Cargo.toml" --format json \
            --spec-version 1.5 --describe binaries --no-build-deps --target "$(triple amd64)")
        sed "s,path+file://$scratch/bills/,path+file:///tally/,g" \
            "$scratch/bills/$manifest/${program}_bin.cdx.json" >"$out/$program-$version.cdx.json"
        echo "   $program: $(jq '.components | length' "$out/$program-$version.cdx.json") components"
    done
}

# --- Packages ---------------------------------------------------------------------------------

archive() {
    local arch=$1 name=tally-$version-linux-$1 root
    title "$arch: archives"
    root=$scratch/$arch/$name
    mkdir -p "$root"/{bin,systemd}
    install -m 755 "$scratch/$arch/programs"/{tallyd,tally} "$root/bin/"
    cp -r "$scratch/words/man" "$scratch/words/completions" "$root/"
    install -m 644 deploy/systemd/tally.{service,toml,sysusers.conf} "$root/systemd/"
    install -m 644 LICENSE CHANGELOG.md "$out"/tally{,d}-"$version".cdx.json "$root/"
    pack "$out/$name.tar.gz" "$root"
    mkdir "$scratch/$arch/$name-debug"
    cp "$scratch/$arch/programs"/*.debug "$scratch/$arch/$name-debug/"
    pack "$out/$name.debug.tar.gz" "$scratch/$arch/$name-debug"
}

debian() {
    local arch=$1 root=$scratch/$1/debian page section program
    title "$arch: Debian package"
    install -D -m 755 -t "$root/usr/bin" "$scratch/$arch/programs"/{tallyd,tally}
    install -D -m 644 deploy/systemd/tally.toml "$root/etc/tally/tally.toml"
    install -D -m 644 deploy/systemd/tally.sysusers.conf "$root/usr/lib/sysusers.d/tally.conf"
    install -d "$root/lib/systemd/system"
    sed 's,^ExecStart=/usr/local/bin/,ExecStart=/usr/bin/,' deploy/systemd/tally.service \
        >"$root/lib/systemd/system/tally.service"
    for page in "$scratch"/words/man/man?/*; do
        section=$root/usr/share/man/$(basename "$(dirname "$page")")
        install -D -m 644 -t "$section" "$page"
        gzip -9n "$section/${page##*/}"
    done
    for program in tally tallyd; do
        install -D -m 644 "$scratch/words/completions/$program.bash" "$root/usr/share/bash-completion/completions/$program"
        install -D -m 644 "$scratch/words/completions/$program.zsh" "$root/usr/share/zsh/vendor-completions/_$program"
        install -D -m 644 -t "$root/usr/share/fish/vendor_completions.d" "$scratch/words/completions/$program.fish"
        install -D -m 644 -t "$root/usr/share/doc/tally" "$out/$program-$version.cdx.json"
    done
    install -m 644 deploy/debian/copyright "$root/usr/share/doc/tally/copyright"
    gzip -9n <CHANGELOG.md >"$root/usr/share/doc/tally/CHANGELOG.md.gz"
    {
        printf 'tally (%s) stable; urgency=medium\n\n  * CHANGELOG.md.gz has what changed.\n\n' "$version"
        printf ' -- %s  %s\n' "$(sed -n 's/^Maintainer: //p' deploy/debian/control)" \
            "$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")"
    } | gzip -9n >"$root/usr/share/doc/tally/changelog.gz"
    install -D -m 644 deploy/debian/lintian-overrides "$root/usr/share/lintian/overrides/tally"
    install -d "$root/DEBIAN"
    sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" \
        -e "s/@SIZE@/$(du -sk --apparent-size "$root/usr" | cut -f1)/" deploy/debian/control >"$root/DEBIAN/control"
    echo /etc/tally/tally.toml >"$root/DEBIAN/conffiles"
    install -m 755 deploy/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
    (cd "$root" && find etc usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    chmod 644 "$root"/DEBIAN/{control,conffiles,md5sums}
    find "$root" -type d -exec chmod 755 {} +
    # As SOURCE_DATE_EPOCH is set, nothing in it is younger than the commit.
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$root" "$out/tally_${version}_$arch.deb" >/dev/null
}

image() {
    local arch=$1
    title "$arch: image"
    deploy/image.py --arch "$arch" --version "$version" --commit "$TALLY_COMMIT" --time "$SOURCE_DATE_EPOCH" \
        --programs "$scratch/$arch/programs" --license LICENSE --out "$out/tally-$version-linux-$arch.oci.tar" \
        "$out"/tally{d,}-"$version".cdx.json
}

tools
for arch in "${architectures[@]}"; do programs "$arch"; done
words
bills
for arch in "${architectures[@]}"; do
    archive "$arch"
    debian "$arch"
    image "$arch"
done
rm -f "$out/SHA256SUMS"
(cd "$out" && find . -maxdepth 1 -type f -printf '%P\n' | sort | xargs sha256sum >"$scratch/sums")
cp "$scratch/sums" "$out/SHA256SUMS"
title "made, in $out"
cat "$out/SHA256SUMS"
