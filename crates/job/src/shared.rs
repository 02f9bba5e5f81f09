//! What a runner and the drivers of its jobs have in common.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use protocol::ids::JobId;

use crate::handle::JobHandle;
use crate::store::Store;
use crate::{Inject, Observer, Step};

/// A job's steps, in their order.
pub type Steps<C> = Vec<Arc<dyn Step<C>>>;

/// What a runner is told beside its directory.
#[derive(Clone)]
pub struct Options {
    /// Hears of every record and of progress.
    pub observer: Option<Arc<dyn Observer>>,
    /// Faults on purpose, for tests; inert by default.
    pub inject: Inject,
    /// How long a step may take to stop once told to, before it is dropped. Default: 2 s.
    pub stop_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { observer: None, inject: Inject::default(), stop_grace: Duration::from_secs(2) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("inject", &self.inject)
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) options: Options,
    pub(crate) active: Mutex<Active>,
    /// One at a time: whatever opens, changes or removes a journal outside of a running job.
    pub(crate) admin: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(crate) jobs: HashMap<JobId, JobHandle>,
    pub(crate) parked: bool,
}

impl Shared {
    pub(crate) fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock()
    }

    pub(crate) fn forget(&self, id: JobId) {
        self.active().jobs.remove(&id);
    }
}
