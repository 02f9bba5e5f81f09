# One database host: MariaDB with the agent beside it, and the ctl.
ARG BUILDER=rust:1.95-bookworm
FROM ${BUILDER} AS builder
WORKDIR /src
COPY . .
# A builder image may bring the programs in /prebuilt, where no compiler can be had.
RUN if [ -d /prebuilt ]; then cp -r /prebuilt /out; else \
      cargo build --release --locked -p orchestrator-agent -p orchestrator-ctl \
      && mkdir /out && cp target/release/orchestrator-agent target/release/orchestrator-ctl /out; fi

FROM debian:bookworm-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mariadb-server >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/lib/mysql
COPY --from=builder /out/ /usr/local/bin/
COPY ops/docker/mariadb.cnf /etc/mysql/host.cnf
COPY ops/docker/agent.toml /etc/orchestrator-agent/agent.toml
COPY ops/docker/entrypoint ops/docker/sample.sql /usr/local/share/orchestrator/
RUN chmod 755 /usr/local/share/orchestrator/entrypoint
VOLUME /srv/mysql
ENTRYPOINT ["/usr/local/share/orchestrator/entrypoint"]
