//! Which refusals are told to the audit, and how many: a flood of bad requests must not fill the spool.

use std::time::Instant;

use parking_lot::Mutex;
use protocol::error::ErrorCode;

/// Refusals told at once, and per second afterwards.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 5.0;

/// A bucket that fills with time.
#[derive(Debug)]
pub(super) struct Valve {
    state: Mutex<(f64, Instant, u64)>,
}

impl Valve {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new((BURST, Instant::now(), 0)) }
    }

    /// True when one more may pass.
    pub(super) fn pass(&self) -> bool {
        let mut state = self.state.lock();
        let (tokens, since, held_back) = &mut *state;
        *tokens = BURST.min(*tokens + since.elapsed().as_secs_f64() * PER_SECOND);
        *since = Instant::now();
        if *tokens >= 1.0 {
            *tokens -= 1.0;
            if *held_back > 0 {
                tracing::warn!(count = *held_back, "more commands were refused than the audit took");
                *held_back = 0;
            }
            true
        } else {
            *held_back += 1;
            false
        }
    }
}

/// True for what an auditor wants to know; malformed input is not among it.
pub(super) fn concerns(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unauthenticated | ErrorCode::Forbidden | ErrorCode::Replayed | ErrorCode::Expired
    )
}
