# syntax=docker/dockerfile:1
#
# docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" --sbom=true .
# Each architecture builds natively; nothing here names one.

FROM rust:1.95.0-bookworm AS build
# The image's own toolchain; rust-toolchain.toml asks for components a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0 \
    CARGO_TERM_COLOR=never
WORKDIR /src
# Writes the list of dependencies into the binary, for `cargo audit bin` and SBOM scanners.
RUN cargo install --locked --version 0.7.7 cargo-auditable
# Dependencies first, against empty sources: this layer stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src/bin benches \
    && touch src/lib.rs \
    && for file in src/main.rs src/bin/upload_api.rs \
        $(sed -n '/^\[\[bench\]\]/{n;s|name = "\(.*\)"|benches/\1.rs|p}' Cargo.toml); do \
        echo 'fn main() {}' > "$file"; \
    done \
    && cargo auditable build --locked --profile dist --no-default-features --bin catchment \
    && rm -r src benches
COPY src ./src
COPY benches ./benches
ARG REVISION=unknown
# Files of the checkout may be older than the empty ones that were built above.
RUN find src -name '*.rs' -exec touch {} + \
    && GIT_COMMIT="$REVISION" cargo auditable build --locked --profile dist \
        --no-default-features --bin catchment \
    && install -D -m 0755 target/dist/catchment /out/catchment

# libgcc, CA certificates and time zones; no shell, no package manager.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="catchment" \
      org.opencontainers.image.description="Amazon Kinesis to Amazon S3: completely, once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE /usr/share/doc/catchment/LICENSE
COPY --from=build /out/catchment /usr/local/bin/catchment
# Every address, so that a scraper beside the container reaches it. The worker drains for up to
# shutdown.deadline (25 s): give the container longer to stop than that.
ENV CATCHMENT_TELEMETRY_LISTEN=0.0.0.0:9464 \
    CATCHMENT_TELEMETRY_LOGS=json
USER 65532:65532
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["/usr/local/bin/catchment", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/catchment"]
CMD ["run"]
