FROM debian:bookworm-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nats-server >/dev/null \
 && rm -rf /var/lib/apt/lists/*
COPY nats.conf /etc/nats.conf
EXPOSE 4222
ENTRYPOINT ["nats-server", "--config", "/etc/nats.conf"]
