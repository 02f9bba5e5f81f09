//! Real servers for tests: nats-server, mysqld, agents, VMs, faults.

pub mod fault_proxy;
pub mod poll;
pub mod vm;
