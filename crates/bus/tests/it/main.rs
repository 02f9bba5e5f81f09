//! The bus on real nats-servers: the distribution's, and the newest where `scripts/nats-newest` fetched it.

mod durable;
mod events;
mod fleet;
mod kit;
mod outage;
mod permissions;
mod serve;
