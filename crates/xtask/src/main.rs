//! Developer tasks: schemas, layering, tidiness, demo, bench.
fn main() {}
