//! The agent: a worker beside one MySQL instance that reacts to commands on the bus.
fn main() {}
