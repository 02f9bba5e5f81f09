//! What other programs see of an agent: its published schemas and examples, clients in other languages, hostile input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

mod asyncapi;
mod attacks;
mod examples;
mod idle;
mod mutated;
mod original;
mod published;
mod python;
mod reload;
mod secrets;
