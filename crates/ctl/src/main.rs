//! The person's and the scripts' tool: fleet, snapshots, seeds, events.
fn main() {}
