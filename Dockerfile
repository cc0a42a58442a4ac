# pgweir's image: one program, without a shell script around it.
#
#   docker build -t pgweir .
#   docker run --read-only -e DB_HOST=postgres -e DB_USER=app -e DB_PASSWORD_FILE=/run/secrets/password pgweir
#
# It takes its configuration from variables of the environment (docs/container.md), from a mounted
# /etc/pgweir/pgweir.toml or pgbouncer.ini, or from the command line. `/usr/bin/pgbouncer` is the same program under
# the name that operators start.

ARG RUST_IMAGE=rust:1.95.0-bookworm
ARG DEBIAN_IMAGE=debian:12.12-slim

FROM ${RUST_IMAGE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libpam0g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY src src
RUN cargo build --locked --profile shipped --bin pgweir \
    && strip target/shipped/pgweir

FROM ${DEBIAN_IMAGE}
# What operators and their sidecars run inside: psql, pkill; the roots that verify-full goes by.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-client procps \
    && rm -rf /var/lib/apt/lists/* \
    # CloudNativePG runs its poolers as 998:996 and comes to the console as `pgbouncer`, by peer authentication.
    && groupadd --system --gid 996 pgbouncer \
    && useradd --system --uid 998 --gid 996 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgbouncer \
    && install -d -o 998 -g 996 /etc/pgweir /etc/pgbouncer /var/run/pgbouncer /var/log/pgbouncer /run/pgweir
COPY --from=build /src/target/shipped/pgweir /usr/bin/pgweir
RUN ln -s pgweir /usr/bin/pgbouncer && pgweir --version

LABEL org.opencontainers.image.title="pgweir" \
      org.opencontainers.image.description="A PostgreSQL connection pooler that takes PgBouncer's place" \
      org.opencontainers.image.licenses="Apache-2.0"

# Inside the container's own network; nothing is published by that.
ENV PGWEIR_HTTP_LISTEN=0.0.0.0:9930
EXPOSE 6432 9930
USER 998:996
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["pgweir", "health"]
ENTRYPOINT ["pgweir"]
CMD ["--env"]
