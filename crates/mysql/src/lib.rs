//! The MySQL or MariaDB instance of this host: find it, ask it, start and stop it.
//!
//! Everything here speaks of one instance on this host. The crate knows nothing of snapshots, seeds, the
//! bus or other hosts; the agent joins those. Nothing here passes through a shell, and no secret reaches an
//! argument list, a log line or an error.

pub mod activity;
pub mod backup;
mod before_exec;
pub mod binlog;
mod client;
mod closed;
pub mod config;
mod connections;
pub mod consistency;
pub mod datadir;
pub mod encryption;
mod error;
pub mod errorlog;
pub mod fence;
mod find;
#[cfg(test)]
mod fuzz_tests;
mod gtid;
pub mod history;
pub mod hold;
mod instance;
pub mod lock;
pub mod options;
pub mod outside;
mod peer;
pub mod persisted;
mod position;
mod power;
pub mod process;
pub mod recover;
pub mod replicate;
mod rundir;
pub mod sandbox;
pub mod second;
mod server;
mod service;
mod settings;
mod sql;

mod tls;
pub mod usage;
pub mod volatile;

pub use client::{Record, Session, check_files, check_secret_mode as check_secret_file};
pub use config::MysqlConfig;
pub use error::{Error, Result};
pub use instance::Instance;
pub use power::Progress;
pub use service::UnitFacts;
pub use settings::{Settings, in_real_directory};
pub use tls::{Tls, TlsMode};
