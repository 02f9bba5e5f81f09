//! The wire's truth: commands, replies, events, heartbeats, subjects and their schemas.
//!
//! No tokio and no I/O in here: every other crate may lean on it, it leans on none.

pub mod command;
pub mod envelope;
pub mod error;
pub mod event;
pub mod heartbeat;
pub mod host;
pub mod ids;
pub mod job;
pub mod mysql;
pub mod params;
pub mod schema;
pub mod seed;
pub mod signature;
pub mod snapshot;
pub mod subject;
