//! Faults at every stage of a seed, and the one check that comes after each.

pub mod apart;
pub mod arena;
pub mod chaos;
pub mod clock;
pub mod document;
pub mod hook;
pub mod host;
pub mod ledger;
pub mod points;
pub mod record;
pub mod stream;
pub mod table;
