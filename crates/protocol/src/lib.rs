//! The wire's truth: commands, replies, events, heartbeats, subjects and their schemas.
//!
//! No tokio and no I/O in here: every other crate may lean on it, it leans on none.

pub mod ids;
pub mod mysql;
pub mod snapshot;
