//! Towards orchestrator: hosts are submitted to every node, and nodes are pinged.

mod node;
mod registrar;

pub(crate) use node::Node;
pub use node::NodeError;
pub(crate) use registrar::{Registered, Rhythm, register};
