//! The person's and the scripts' tool: a client of the bus that keeps no state.
//!
//! Killing it never harms a seed: the two agents finish by themselves. It must not know how an agent does its work;
//! what it shows comes from replies, heartbeats, progress and events.

pub mod args;
pub mod donor;
pub mod exit;
pub mod suggest;
pub mod units;

#[cfg(test)]
mod samples;
