//! orchestrator-gateway as a program, between orchestrator and real agents beside real servers. Orchestrator itself is played: by a
//! node that is submitted to, a driver that seeds in its order and timing, and a conversation recorded from the real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

mod conversation;
mod driver;
mod input;
mod metrics;
mod node;
mod page;
mod program;
mod registration;
mod scrape;
mod seeds;
mod traces;
mod web;
