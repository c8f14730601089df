# just --list

set positional-arguments

# What takes seconds when warm, and most mistakes are found by: before each commit
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --examples

# All tests, or those whose name contains the words given
test *words:
    cargo test --locked -- "$@"

# One seed of the simulation, with its story; TRACE=1 shows every request
sim seed:
    SEED="$1" cargo test --locked --test sim fleets_deliver -- --nocapture

# Many seeds, optimised: just seeds 20000 1000000
seeds count="5000" first="0":
    FROM="$2" SEEDS="$1" ALL=1 cargo test --locked --release --test sim fleets_deliver -- --nocapture

# Does the oracle notice each rule that is left out, and each single fault?
mutants:
    cargo test --locked --release --test sim --features mutants -- --nocapture mutants sweep

# What has to pass before anything lands; STRICT=1, CI_SEEDS, CI_FUZZ, CI_DIST: see the script
gate:
    .ci/run

# Each fuzz target for so many seconds; needs a nightly compiler
fuzz seconds="20":
    .ci/fuzz.sh "$1"

# Ratios to the least program that could do it, and the whole program from the outside
bench:
    cargo bench --locked --bench ratios
    cargo bench --locked --bench end_to_end

# Other people's consumers on the same stream; installs them
peers *arguments:
    python3 benches/peers.py "$@"

# The Java KCL, the KPL and AWS's SDKs against ours, all of it: hours; --quick, --only NAME, --list
interop *arguments:
    cargo build --locked --bin catchment
    CATCHMENT_BIN="${CARGO_TARGET_DIR:-target}/debug/catchment" python3 tests/interop/run.py "$@"

# Documents that are made from the code
docs:
    UPDATE_DOCS=1 cargo test --locked --test it docs

# The program on this machine, without AWS
local *arguments:
    cargo run --locked -- local "$@"
