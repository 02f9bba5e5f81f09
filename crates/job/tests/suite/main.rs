//! The engine against a toy world of files: whatever fails, repeats or dies, nothing is left over.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod aborted;
mod disk;
mod failed;
mod history;
mod journal;
mod killed;
mod parked;
mod store;
mod world;
