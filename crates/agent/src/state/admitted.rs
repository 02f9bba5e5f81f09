//! The jobs that this run of the agent has admitted: what they claim, and by which requests they came.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use job::Runner;
use protocol::ids::{JobId, RequestId};

use crate::admission::{Claims, Running};

/// A request that comes again later than this is answered from the cache of replies, or is past its deadline.
const REPEATED_WITHIN: Duration = Duration::from_secs(3600);

/// Held while a job is admitted and created, so that two requests cannot both find the host free.
#[derive(Debug, Default)]
pub(crate) struct Admitted(HashMap<JobId, Begun>);

#[derive(Debug)]
struct Begun {
    request: Option<RequestId>,
    claims: Claims,
    at: Instant,
}

impl Admitted {
    /// The job that a request has begun, so that the same request again begins no other.
    pub(crate) fn of_request(&self, request: RequestId) -> Option<JobId> {
        self.0.iter().find(|(_, begun)| begun.request == Some(request)).map(|(job, _)| *job)
    }

    /// A job was created, or found at the start.
    pub(crate) fn note(&mut self, job: JobId, request: Option<RequestId>, claims: Claims) {
        self.0.insert(job, Begun { request, claims, at: Instant::now() });
    }

    /// The jobs at work. One whose end is told already but which is not put away yet holds nothing any more.
    pub(crate) fn running(&mut self, runner: &Runner) -> Vec<Running> {
        let mut running = Vec::new();
        for handle in runner.running() {
            let Some(begun) = self.0.get_mut(&handle.id()).filter(|_| handle.history().outcome().is_none())
            else {
                continue;
            };
            begun.at = Instant::now();
            let spec = handle.spec();
            let actor = spec.actor.unwrap_or_default();
            running.push(Running { id: spec.id, kind: spec.kind, actor, claims: begun.claims });
        }
        self.forget(|job| running.iter().any(|running| running.id == job), Instant::now());
        running
    }

    fn forget(&mut self, is_running: impl Fn(JobId) -> bool, now: Instant) {
        self.0.retain(|job, begun| is_running(*job) || now.duration_since(begun.at) < REPEATED_WITHIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_job_is_forgotten_once_its_request_cannot_come_again() {
        let mut admitted = Admitted::default();
        let (running, ended, request) = (JobId::generate(), JobId::generate(), RequestId::generate());
        admitted.note(running, Some(RequestId::generate()), &[]);
        admitted.note(ended, Some(request), &[]);
        admitted.forget(|job| job == running, Instant::now());
        assert_eq!(admitted.of_request(request), Some(ended), "it may come again still");
        admitted.forget(|job| job == running, Instant::now() + REPEATED_WITHIN);
        assert_eq!(admitted.of_request(request), None);
        assert_eq!(admitted.0.len(), 1);
    }
}
