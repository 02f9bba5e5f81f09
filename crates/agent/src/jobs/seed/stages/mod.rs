//! The stages of a seed, each a step of its job.
//!
//! Before the swap nothing of the old datadir is touched, unless `--replace` said so; from the swap on each stage can be
//! taken back until MySQL answered on the new data. *replicate* commits; only clean-up follows.

pub(super) mod cleanup;
mod plan;
mod post_copy;
mod prepare;
pub(super) mod recover;
pub(super) mod replicate;
mod start;
mod swap;
mod transfer;
mod verify;

use std::sync::Arc;

use job::Steps;

pub(super) use start::stop_or_kill;

use crate::host::Host;

/// The stages, in order.
pub(super) fn steps() -> Steps<Host> {
    vec![
        Arc::new(plan::Plan),
        Arc::new(prepare::Prepare),
        Arc::new(transfer::Transfer),
        Arc::new(verify::Verify),
        Arc::new(recover::Recover),
        Arc::new(swap::Swap),
        Arc::new(post_copy::PostCopy),
        Arc::new(start::Start),
        Arc::new(replicate::Replicate),
        Arc::new(cleanup::Cleanup),
    ]
}
