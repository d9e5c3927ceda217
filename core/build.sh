#!/bin/sh
# Builds taube_core.wasm bit for bit as it is committed, and writes its hash and that of its sources beside it.
#
#   core/build.sh            build and install into src/taube/client/
#   core/build.sh --check    build elsewhere and compare with what is committed
#   core/build.sh --sources  print the hash of the sources only (needs no toolchain)
set -eu
cd "$(dirname "$0")"
out=../src/taube/client
mode=${1:-install}

sources_hash() {
    for file in Cargo.toml Cargo.lock rust-toolchain.toml build.sh src/*.rs; do
        printf '%s\n' "$file"
        cat "$file"
    done | sha256sum | cut -d' ' -f1
}

if [ "$mode" = --sources ]; then
    sources_hash
    exit 0
fi

channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
if ! command -v rustup >/dev/null; then
    echo "core/build.sh: rustup is missing. Install it (see https://rustup.rs), then:" >&2
    echo "    rustup toolchain install $channel --profile minimal --target wasm32-wasip1" >&2
    exit 69
fi
if ! rustup target list --toolchain "$channel" --installed 2>/dev/null | grep -qx wasm32-wasip1; then
    echo "core/build.sh: Rust $channel with its target wasm32-wasip1 is missing:" >&2
    echo "    rustup toolchain install $channel --profile minimal --target wasm32-wasip1" >&2
    exit 69
fi

here=$(pwd -P)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
target=${CARGO_TARGET_DIR:-$here/target}
# Nothing of this machine may reach the binary: neither paths nor flags from the environment.
registry=$(find "$cargo_home/registry/src" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | head -n 1)
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS || true
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037%s\037%s\037%s' \
    "--remap-path-prefix=$rustup_home=/rustup" \
    "--remap-path-prefix=$cargo_home=/cargo" \
    "--remap-path-prefix=${registry:-/nowhere}=/crates" \
    "--remap-path-prefix=$here=/core")
export CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0
cargo "+$channel" build --release --locked --target wasm32-wasip1 --target-dir "$target" >&2
built=$target/wasm32-wasip1/release/taube_core.wasm
hash=$(sha256sum "$built" | cut -d' ' -f1)

if [ "$mode" = --check ]; then
    committed=$(cat "$out/taube_core.wasm.sha256")
    if [ "$hash" != "$committed" ]; then
        echo "core/build.sh: built $hash, committed $committed" >&2
        exit 1
    fi
    echo "$hash"
    exit 0
fi
cp "$built" "$out/taube_core.wasm"
echo "$hash" >"$out/taube_core.wasm.sha256"
sources_hash >"$out/taube_core.sources.sha256"
printf 'taube_core.wasm %s bytes, gzip -9 %s bytes, sha256 %s\n' \
    "$(wc -c <"$out/taube_core.wasm")" "$(gzip -9 -c "$out/taube_core.wasm" | wc -c)" "$hash"
