//! Whether "done" is true: layouts and histories of real hosts, each seeded with every row that its source has, or refused before a
//! byte is copied. The suite runs these cells, and `docs/truth.md` lists these and no others.

pub mod cell;
mod course;
pub mod history;
pub mod judge;
pub mod layout;
pub mod page;
mod stage;
