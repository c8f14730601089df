#!/usr/bin/env bash
# Prints what the upload function costs: size, start, warm overhead, and the oldest glibc it runs on.
# Of the binary in UPLOAD_API_BIN, or of the one that is shipped (profile `dist`), which is built then.
# Fails when the zip has UPLOAD_ZIP_LIMIT bytes (5 MB) or more, or when Amazon Linux 2023 (glibc 2.34) could
# not load it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
limit=${UPLOAD_ZIP_LIMIT:-5000000}

if [ -z "${UPLOAD_API_BIN:-}" ]; then
  # Like .ci/container.sh, which then has only to link.
  GIT_COMMIT=$(git rev-parse HEAD 2>/dev/null || echo unknown) \
    cargo build --locked --profile dist --no-default-features --features lambda --bin upload_api
  UPLOAD_API_BIN=$target/dist/upload_api
fi
UPLOAD_API_BIN=$(realpath "$UPLOAD_API_BIN")
export UPLOAD_API_BIN

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$UPLOAD_API_BIN" "$work/bootstrap"
strip --strip-all "$work/bootstrap"
chmod 0755 "$work/bootstrap"
(cd "$work" && python3 -c '
import zipfile
with zipfile.ZipFile("bootstrap.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z: z.write("bootstrap")')
stripped=$(stat -c %s "$work/bootstrap")
zipped=$(stat -c %s "$work/bootstrap.zip")
awk -v s="$stripped" -v z="$zipped" 'BEGIN { printf "bootstrap: %.2f MB stripped, %.2f MB zipped\n", s/1e6, z/1e6 }'

glibc=$(objdump -T "$work/bootstrap" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "newest glibc symbol: $glibc (Amazon Linux 2023 has GLIBC_2.34)"
echo "shared libraries: $(objdump -p "$work/bootstrap" | awk '/NEEDED/ { printf "%s ", $2 }')"

cargo test --locked --quiet --test it -- --ignored --exact --nocapture door::runtime::numbers

status=0
if [ "$zipped" -ge "$limit" ]; then echo "FAILED: the zip has $limit bytes or more"; status=1; fi
if [ "$(printf '%s\nGLIBC_2.34\n' "$glibc" | sort -V | tail -1)" != GLIBC_2.34 ]; then
  echo "FAILED: needs a newer glibc than Amazon Linux 2023 has"; status=1
fi
exit $status
