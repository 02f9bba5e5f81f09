//! Seeds that are given and taken at this moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::{JobId, OfferId};
use tokio::sync::oneshot;
use transfer::Throttle;

/// Where an offer is served.
#[derive(Debug)]
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Of its certificate; absent without TLS.
    pub(crate) fingerprint: Option<String>,
}

/// Offers by their id, for `seed.release`, and what waits for them to be open.
#[derive(Debug, Default)]
pub(crate) struct OpenOffers {
    jobs: Mutex<HashMap<OfferId, JobId>>,
    waiting: Mutex<HashMap<JobId, oneshot::Sender<Served>>>,
}

impl OpenOffers {
    /// The job that serves an offer.
    pub(crate) fn job_of(&self, offer: OfferId) -> Option<JobId> {
        lock(&self.jobs).get(&offer).copied()
    }

    /// An offer is held by this job from now on.
    pub(crate) fn remember(&self, offer: OfferId, job: JobId) {
        lock(&self.jobs).insert(offer, job);
    }

    /// An offer is over.
    pub(crate) fn forget(&self, offer: OfferId) {
        lock(&self.jobs).remove(&offer);
    }

    /// Hears where a job's offer is served once it is.
    pub(crate) fn wait(&self, job: JobId) -> oneshot::Receiver<Served> {
        let (tell, told) = oneshot::channel();
        lock(&self.waiting).insert(job, tell);
        told
    }

    /// Nobody waits for this job's offer any more.
    pub(crate) fn wait_no_more(&self, job: JobId) {
        lock(&self.waiting).remove(&job);
    }

    /// Tells who opened the offer where it is served.
    pub(crate) fn tell(&self, job: JobId, served: Served) {
        if let Some(waiting) = lock(&self.waiting).remove(&job) {
            let _ = waiting.send(served);
        }
    }
}

/// Limits of the seeds that run onto this host, by their jobs.
#[derive(Debug, Default)]
pub(crate) struct Throttles(Mutex<HashMap<JobId, Arc<Throttle>>>);

impl Throttles {
    /// The limit of a running seed.
    pub(crate) fn of(&self, job: JobId) -> Option<Arc<Throttle>> {
        lock(&self.0).get(&job).cloned()
    }

    /// A seed begins to move its data.
    pub(crate) fn hold(&self, job: JobId, throttle: &Arc<Throttle>) -> Throttled<'_> {
        lock(&self.0).insert(job, Arc::clone(throttle));
        Throttled { throttles: self, job }
    }
}

/// A seed that moves its data; however that ends, its limit goes with it.
#[derive(Debug)]
pub(crate) struct Throttled<'a> {
    throttles: &'a Throttles,
    job: JobId,
}

impl Drop for Throttled<'_> {
    fn drop(&mut self) {
        lock(&self.throttles.0).remove(&self.job);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
