//! The ground floor: what every other crate needs of the operating system, each thing once and with our rules built in.
//!
//! It knows no domain: no MySQL, no snapshot, no job. Nothing else in the tree starts programs, replaces files or follows paths that
//! another user may have planted.

pub mod dir;
pub mod error;
pub mod file;
pub mod hex;
pub mod process;
pub mod text;
pub mod tls;
pub mod units;
