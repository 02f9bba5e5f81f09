//! Questions and orders to agents over the bus, in the words of the original's API where something fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{BusError, CallOptions, Client, FleetEntry, LiveFleet};
use protocol::command::{Call, Class};
use protocol::error::ErrorCode;
use protocol::ids::AgentId;
use protocol::job::{JobAccepted, JobState, JobView};

use crate::cache::Cache;
use crate::failure::Failure;

/// An agent answers a question well within this, or orchestrator's poll of many questions would take too long.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// Changes mount and look at disks.
const CHANGE_LIMIT: Duration = Duration::from_secs(25);
/// Orchestrator waits 60 s for the answer to an order.
const JOB_LIMIT: Duration = Duration::from_secs(55);
/// A job that has just ended may still hold what it claimed.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Asks the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    client: Client,
    fleet: Arc<LiveFleet>,
    cache: Arc<Cache>,
    ttl: Duration,
}

impl Ask {
    pub(crate) fn new(client: Client, fleet: Arc<LiveFleet>, ttl: Duration) -> Self {
        Self { client, fleet, cache: Arc::default(), ttl }
    }

    /// The client, for those who need more than this.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// All agents that were heard of.
    pub(crate) fn fleet(&self) -> Vec<FleetEntry> {
        self.fleet.entries()
    }

    /// One agent, as it was heard of.
    pub(crate) fn heard(&self, host: &AgentId) -> Option<FleetEntry> {
        self.fleet.get(host)
    }

    /// What is known of a host is no longer true.
    pub(crate) fn forget(&self, host: &AgentId) {
        self.cache.forget(host);
    }

    /// The answer to a question, from a moment ago where it was asked then.
    pub(crate) async fn query<C: Call>(&self, host: &AgentId, params: C) -> Result<Arc<C::Reply>, Failure>
    where
        C::Reply: Sync,
    {
        self.query_kept(host, params, self.ttl, QUESTION_LIMIT).await
    }

    /// As [`Ask::query`], of what changes rarely and takes long.
    pub(crate) async fn query_kept<C: Call>(
        &self,
        host: &AgentId,
        params: C,
        ttl: Duration,
        limit: Duration,
    ) -> Result<Arc<C::Reply>, Failure>
    where
        C::Reply: Sync,
    {
        debug_assert_eq!(C::SPEC.class, Class::Query);
        let written = serde_json::to_string(&params).map_err(|error| Failure::new(error.to_string()))?;
        let options = CallOptions { timeout: limit, ..CallOptions::default() };
        let ask = async {
            let answer = self.client.call(host, params, &options).await;
            answer.map_err(|error| Failure::command(host, C::SPEC.name, &error))
        };
        self.cache.get(host, format!("{} {written}", C::SPEC.name), ttl, ask).await
    }

    /// Has a host do something short, in the name of `client`.
    pub(crate) async fn change<C: Call + Clone>(
        &self,
        client: &Client,
        host: &AgentId,
        params: C,
    ) -> Result<C::Reply, Failure> {
        let options = CallOptions { timeout: CHANGE_LIMIT, ..CallOptions::default() };
        let done = client.call_surely(host, params, &options).await;
        self.forget(host);
        done.map_err(|error| Failure::command(host, C::SPEC.name, &error))
    }

    /// Has a host do something long and waits for its good end.
    pub(crate) async fn job<C>(&self, client: &Client, host: &AgentId, params: C) -> Result<JobView, Failure>
    where
        C: Call<Reply = JobAccepted> + Clone,
    {
        let ended = tokio::time::timeout(JOB_LIMIT, self.run(client, host, params)).await;
        self.forget(host);
        let view = ended.map_err(|_| {
            let seconds = JOB_LIMIT.as_secs();
            Failure::new(format!("{} on {host} has not ended within {seconds} s and goes on", C::SPEC.name))
        })??;
        match view.state {
            JobState::Succeeded => Ok(view),
            _ => Err(Failure::job(host, &view)),
        }
    }

    async fn run<C>(&self, client: &Client, host: &AgentId, params: C) -> Result<JobView, Failure>
    where
        C: Call<Reply = JobAccepted> + Clone,
    {
        let failed = |error: BusError| Failure::command(host, C::SPEC.name, &error);
        let deadline = Instant::now() + BUSY_LIMIT;
        let accepted = loop {
            match client.call_surely(host, params.clone(), &CallOptions::default()).await {
                Err(BusError::Agent(error)) if error.code == ErrorCode::Busy && Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                answer => break answer.map_err(failed)?,
            }
        };
        client.wait_job(host, accepted.job, |_| {}).await.map_err(failed)
    }
}
