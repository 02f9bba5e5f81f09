//! A long run over five hosts: rounds of seeds, snapshots and faults drawn from a number, what must hold after each, and
//! what each agent costs at the end as at the beginning.

pub mod fleet;
pub mod plan;
pub mod play;
pub mod report;
pub mod resources;
mod seeds;
mod sweep;
pub mod works;
