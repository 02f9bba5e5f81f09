//! What only looks, and the two short changes (mount, unmount) that are as quick as a look.

pub(crate) mod agent;
pub(crate) mod binlog;
pub(crate) mod host;
pub(crate) mod mysql;
pub(crate) mod snapshot;
