//! The way of a request: who may connect, what is read of it, whose host it means, and what is answered.

pub(crate) mod admit;
pub(crate) mod answer;
pub(crate) mod caller;
pub(crate) mod count;
pub(crate) mod listen;
