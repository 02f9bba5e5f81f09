//! Lets an unmodified orchestrator drive the fleet: the HTTP API of its own agent for each host, as a client of the bus.
//!
//! It knows no more of a host than a person at the command line: every endpoint becomes commands, and a seed is begun as
//! `seed start` begins it. What it must not know is how an agent does its work, and MySQL.

mod address;
mod api;
mod app;
mod ask;
mod cache;
pub mod config;
mod failure;
mod follow;
mod hosts;
mod http;
mod metrics;
mod names;
mod orchestrator;
mod page;
mod ports;
mod secrets;
mod seeds;
mod state;
mod tls;
mod view;

pub use address::{Network, NoNetwork};
pub use app::{GatewayError, run};
pub use orchestrator::NodeError;
pub use ports::PortError;
pub use secrets::SecretError;
pub use tls::TlsError;
