//! The durable events as the stream holds them, looked at without our own reader, which hides second copies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::Client;
use bus::events::EVENT_STREAM;
use protocol::event::{Event, EventData, JobStage};
use protocol::ids::{AgentId, JobId};
use testkit::poll;

/// Every message of the stream, in order.
///
/// # Panics
/// When JetStream does not answer or a message is no event.
pub async fn stored(client: &Client) -> Vec<Event> {
    try_stored(client).await.expect("JetStream does not answer")
}

async fn try_stored(client: &Client) -> Option<Vec<Event>> {
    let mut stream = client.bus().jetstream().get_stream(EVENT_STREAM).await.ok()?;
    let state = stream.info().await.ok()?.state.clone();
    let mut events = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.ok()?;
        events.push(serde_json::from_slice(&message.payload).unwrap());
    }
    Some(events)
}

/// Waits until the stream holds an event.
///
/// # Panics
/// When it does not come.
pub async fn await_event(client: &Client, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    poll::until_async(Duration::from_secs(40), format!("the event: {what}"), || async {
        let events = try_stored(client).await?;
        events.iter().any(&wanted).then_some(events)
    })
    .await
}

/// Fails unless each agent's events count up without a hole, and none is there twice.
///
/// # Panics
/// With the agent and its sequences.
pub fn assert_none_lost_none_doubled(events: &[Event]) {
    let ids: BTreeSet<String> = events.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids.len(), events.len(), "an event is in the stream twice");
    let mut sequences: BTreeMap<&AgentId, Vec<u64>> = BTreeMap::new();
    for event in events {
        sequences.entry(&event.host).or_default().push(event.sequence);
    }
    for (agent, sequences) in sequences {
        let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
        assert_eq!(sequences, expected, "{agent}: sequences with a hole, a double or out of order");
    }
}

/// What one job told, in order.
#[must_use]
pub fn of_job(events: &[Event], job: JobId) -> Vec<(Event, JobStage)> {
    let stage = |event: &Event| match event.known() {
        Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) if stage.job == job => {
            Some((event.clone(), stage))
        }
        _ => None,
    };
    events.iter().filter_map(stage).collect()
}
