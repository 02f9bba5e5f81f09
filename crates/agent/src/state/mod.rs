//! What is remembered while the agent runs, each part with its own lock and its own methods.

pub(crate) mod acting;
pub(crate) mod admitted;
pub(crate) mod doomed;
pub(crate) mod offers;
pub(crate) mod probe;
pub(crate) mod readings;
pub(crate) mod runs;
pub(crate) mod seen;
