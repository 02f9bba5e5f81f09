//! Snapshots of a data directory: who makes them, where they are mounted, and whether they can still be trusted.
//!
//! The crate knows file systems, logical volumes and processes. It knows no MySQL (the caller brings the data to rest and reads the
//! coordinates), no bus and no job: everything here blocks, and is called from threads that may.
//!
//! - [`Provider`] is the contract that every kind of snapshot keeps; [`registry::build`] makes one from the configuration.
//! - [`MountTable`] mounts snapshots, held by reference, and finds what a crash left mounted.
//! - [`guardian`] watches the fill of copy-on-write stores while someone reads them.
//! - [`freeze`] holds a process still for the providers whose copy is not one atomic instant.
//! - [`volumes`] lists logical volumes of any kind.

mod command;
#[cfg(feature = "testing")]
pub mod conformance;
mod durable;
pub mod error;
pub mod freeze;
pub mod guardian;
mod instant;
mod lvm;
mod mapped;
mod mountinfo;
pub mod mounts;
mod names;
pub mod owner;
pub mod provider;
pub mod registry;
mod run;
mod settings;
mod tree;
pub mod volumes;

pub use error::Error;
pub use mountinfo::unmount;
pub use mounts::{MountLease, MountTable};
pub use owner::Owner;
pub use provider::{
    Capability, CreateRequest, Features, MountIdentity, MountMode, Mounted, Observed, Provider, SizePolicy,
    TakeFailed,
};
