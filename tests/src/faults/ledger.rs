//! The durable events, read piece by piece as they come, so that a long suite does not read them all again and again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bus::Client;
use bus::events::EVENT_STREAM;
use protocol::event::{Event, EventData, JobStage};
use protocol::ids::{AgentId, JobId};

/// Events reach the stream within a reconnect of the agent.
const WITHIN: Duration = Duration::from_secs(60);

/// What was read so far.
#[derive(Debug, Default)]
pub struct Ledger {
    next: u64,
    last_of: BTreeMap<AgentId, u64>,
    ids: HashMap<String, u64>,
    ends: HashMap<JobId, JobStage>,
}

impl Ledger {
    /// Reads what is new.
    ///
    /// # Panics
    /// When an event is there twice, or an agent's sequence has a hole.
    pub async fn read(&mut self, client: &Client) {
        let Ok(mut stream) = client.bus().jetstream().get_stream(EVENT_STREAM).await else { return };
        let Ok(info) = stream.info().await else { return };
        let last = info.state.last_sequence;
        for sequence in self.next.max(1)..=last {
            let Ok(message) = stream.get_raw_message(sequence).await else { return };
            self.next = sequence + 1;
            self.enter(&serde_json::from_slice(&message.payload).unwrap());
        }
    }

    fn enter(&mut self, event: &Event) {
        let before = self.ids.insert(event.id.to_string(), event.sequence);
        assert_eq!(before, None, "{}: an event is in the stream twice: {event:?}", event.host);
        let last = self.last_of.entry(event.host.clone()).or_default();
        assert_eq!(event.sequence, *last + 1, "{}: an event is missing before {event:?}", event.host);
        *last = event.sequence;
        if let Some(EventData::JobFinished(end)) = event.known() {
            self.ends.insert(end.job, end);
        }
    }

    /// How many were read so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The event that ended a job.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn end_of(&mut self, client: &Client, job: JobId) -> JobStage {
        let deadline = tokio::time::Instant::now() + WITHIN;
        loop {
            self.read(client).await;
            if let Some(end) = self.ends.get(&job) {
                return end.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "the end of job {job} is not on the bus");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
