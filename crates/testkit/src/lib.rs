//! Real servers for tests: nats-server, mysqld, agents, VMs, faults.

pub mod agent;
pub mod fault_proxy;
pub mod fuzz;
pub mod loopfs;
pub mod mysqld;
pub mod nats;
pub mod netns;
pub mod poll;
pub mod port;
pub mod programs;
pub mod skip;
pub mod told;
pub mod vm;
mod waits;
