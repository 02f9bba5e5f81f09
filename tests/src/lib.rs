//! What the suites in `tests/tests/` share: file systems, rows, and a world of two hosts with their bus.
//!
//! Everything is real: nats-server, MariaDB, the programs as processes, file systems on loop devices.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

pub mod browser;
pub mod collector;
pub mod events;
pub mod faults;
pub mod measure;
pub mod replication;
pub mod rows;
pub mod soak;
pub mod tree;
pub mod truth;
pub mod volume;
pub mod witness;
pub mod world;
