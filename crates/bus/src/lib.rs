//! NATS: connect, serve commands, ask agents, publish and read events, spool them on disk.
//!
//! This crate knows NATS and [`protocol`], and nothing of MySQL, snapshots or jobs: what a command does is behind
//! [`serve::Handler`]. Every call has a time limit of its own, because the NATS client's own limits do not hold while it
//! is disconnected (it queues up to 2,048 commands and then blocks).

pub mod auth;
pub mod client;
pub mod config;
pub mod conn;
mod credentials;
pub mod dedupe;
pub mod durable;
pub mod error;
pub mod events;
pub mod fleet;
mod frames;
pub mod heartbeat;
pub mod jwt;
pub mod outbox;
pub mod permissions;
mod replicas;
pub mod serve;
mod signer;
pub mod status;
pub mod store;
mod streams;
mod surely;
mod wait;

pub use auth::{Actor, Authority, AuthorityConfig, TrustedKey};
pub use client::{Answer, CallOptions, Client, Window};
pub use config::BusConfig;
pub use conn::{Bus, ConnState};
pub use credentials::check_files;
pub use dedupe::ReplyCache;
pub use error::{BusError, Unconnected};
pub use fleet::{FleetEntry, FleetView, Health, LiveFleet};
pub use outbox::Outbox;
pub use replicas::Replicas;
pub use serve::{Denied, Handler, Incoming, ServeConfig, serve};
pub use signer::{HostKeys, Signer};
pub use streams::{Made, StreamLimits};
pub use wait::JobUpdate;
