//! The way of a seed's bytes from donor to recipient.
//!
//! A *donor* serves one directory tree, a *recipient* pulls it into a staging directory. Between them travel a
//! manifest and chunks; every chunk is proven by its digest, the whole by one root digest. This crate knows files,
//! sockets and digests. It must not know NATS, MySQL as a service, snapshot providers or jobs: who offers what to
//! whom, and what happens to the tree afterwards, is decided by the caller.
//!
//! Everything here blocks. Callers on an async runtime use `spawn_blocking` and steer through [`Cancel`],
//! [`Throttle`] and [`Progress`].

mod cache;
mod cancel;
mod circle;
mod compress;
mod delta;
mod digest;
pub mod donor;
mod error;
mod extents;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handshake;
mod innodb_page;
mod kernel;
mod link;
pub mod manifest;
mod meeting;
mod progress;
pub mod recipient;
mod secret;
mod strangers;
pub mod stream;
mod throttle;
mod tls;

pub use cancel::Cancel;
pub use compress::Compression;
pub use digest::DigestKind;
pub use donor::{BaseTree, Bases, Donor, DonorOptions, DonorReport, NoGuard, SourceGuard};
pub use error::{Error, Result};
pub use innodb_page::{BadPage, PagePolicy};
pub use manifest::{Exclude, Manifest};
pub use progress::{Phase, Progress, ProgressSnapshot};
pub use recipient::{Base, Received, RecipientOptions, abandon, receive};
pub use secret::{Fingerprint, ParseSecretError, Token};
pub use throttle::Throttle;
pub use tls::Identity;
