//! The bus on real nats-servers: the distribution's, and the newest where `scripts/nats-newest` fetched it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod cluster;
mod durable;
mod events;
mod fleet;
mod kit;
mod outage;
mod permissions;
mod serve;
mod signed;
mod sites;
mod store;
mod tls;
mod tokens;
mod wait;
