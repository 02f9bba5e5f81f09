//! The bucket: named, made, emptied, removed, found again.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, IntoConsumerConfig as _};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use protocol::ids::{AgentId, JobId};
use protocol::subject::{Subject, encode_host};
use serde::Deserialize;
use serde_json::{Value, json};

use super::WINDOW_BYTES_MIN;
use crate::conn::Bus;
use crate::error::{BusError, Result};
use crate::replicas::Replicas;
use crate::streams;

const DESCRIPTION: &str = "Seed data on their way between orchestrator-agents";
/// All buckets of this product begin so.
const PREFIX: &str = "orch-";
/// What nobody takes for this long is gone, whatever became of the agents.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Room beyond the window, for messages that are refused only by the backstop.
const BACKSTOP_BYTES: u64 = 8 << 20;

/// Who gives to whom, and how much may lie on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Owns the bucket.
    pub donor: AgentId,
    /// Reads it.
    pub recipient: AgentId,
    /// Names this use of the bucket; the same on both ends.
    pub job: JobId,
    /// Bytes that may lie on the server.
    pub window_bytes: u64,
}

impl Way {
    /// Where the recipient sends its requests.
    pub(super) fn requests(&self) -> String {
        Subject::Seed {
            donor: self.donor.clone(),
            recipient: self.recipient.clone(),
            job: self.job,
            rest: "up".to_owned(),
        }
        .to_string()
    }

    pub(super) fn window(&self) -> u64 {
        self.window_bytes.max(WINDOW_BYTES_MIN)
    }
}

/// The bucket of a donor.
#[must_use]
pub fn bucket_of(donor: &AgentId) -> String {
    format!("{PREFIX}{}", encode_host(donor))
}

/// The stream of a donor's bucket.
#[must_use]
pub fn stream_of(donor: &AgentId) -> String {
    format!("OBJ_{}", bucket_of(donor))
}

/// The consumer in which a recipient reads, in whatever bucket.
#[must_use]
pub fn consumer_of(recipient: &AgentId) -> String {
    format!("{PREFIX}{}", encode_host(recipient))
}

/// Makes the donor's bucket and the recipient's consumer in it, if they are missing.
pub async fn make_bucket(bus: &Bus, donor: &AgentId, recipient: &AgentId, window_bytes: u64) -> Result<()> {
    let (bucket, stream) = (bucket_of(donor), stream_of(donor));
    let most = window_bytes.max(WINDOW_BYTES_MIN) + BACKSTOP_BYTES;
    let wanted = Config {
        name: stream.clone(),
        description: Some(DESCRIPTION.to_owned()),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_bytes: i64::try_from(most).unwrap_or(i64::MAX),
        max_age: MAX_AGE,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        num_replicas: Replicas::Auto.first(),
        allow_rollup: true,
        allow_direct: true,
        // Nothing is published twice: what fails breaks the connection that it belongs to.
        duplicate_window: Duration::from_secs(1),
        ..Config::default()
    };
    streams::ensure(bus, wanted, Replicas::Auto, DESCRIPTION).await?;
    let name = consumer_of(recipient);
    if streams::find_consumer(bus, &stream, &name).await?.is_some() {
        return Ok(());
    }
    // Unfiltered: old servers may skip messages of filtered consumers after a purge.
    let consumer = PullConfig {
        durable_name: Some(name.clone()),
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::All,
        max_deliver: -1,
        ..PullConfig::default()
    };
    let body = json!({ "stream_name": stream, "config": consumer.into_consumer_config() });
    let call = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
    match streams::api::<Value>(bus, &call, body.to_string().into_bytes()).await? {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(BusError::jetstream(format!("cannot make consumer {name}"), error)),
    }
}

/// Has the bucket and the consumer there, made by this agent if it may, and nothing in it; gives the sequence of the next message.
pub(super) async fn fresh(bus: &Bus, way: &Way) -> Result<u64> {
    let stream = stream_of(&way.donor);
    if let Err(error) = make_bucket(bus, &way.donor, &way.recipient, way.window_bytes).await {
        match error {
            // Least privilege: a controller made it, or nobody did.
            BusError::NotPermitted { .. } => {}
            other => return Err(other),
        }
    }
    purge(bus, &stream, None).await.map_err(|error| match error {
        BusError::JetStream { .. } => BusError::NoBucket { bucket: bucket_of(&way.donor) },
        other => other,
    })?;
    let last = streams::info(bus, &stream).await?.state.last_sequence;
    let consumer = streams::find_consumer(bus, &stream, &consumer_of(&way.recipient)).await?;
    let delivered = consumer.map_or(0, |consumer| consumer.cached_info().delivered.stream_sequence);
    if delivered <= last {
        return Ok(last + 1);
    }
    // A server that was killed may forget messages that its consumer has had. Those of old (2.9.10) then skip as many of the
    // next ones, so the next ones are numbered beyond.
    purge(bus, &stream, Some(delivered + 1)).await?;
    Ok(streams::info(bus, &stream).await?.state.last_sequence + 1)
}

/// Removes all messages before sequence `before`, or simply all.
pub(super) async fn purge(bus: &Bus, stream: &str, before: Option<u64>) -> Result<()> {
    let body = before.map_or_else(|| json!({}), |sequence| json!({ "seq": sequence }));
    match streams::api::<Value>(bus, &format!("STREAM.PURGE.{stream}"), body.to_string().into_bytes()).await?
    {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(BusError::jetstream(format!("cannot empty stream {stream}"), error)),
    }
}

/// Removes a donor's bucket with all that is in it; whether there was one.
pub async fn remove_bucket(bus: &Bus, donor: &AgentId) -> Result<bool> {
    streams::remove(bus, &stream_of(donor)).await
}

/// The donors (as host tokens) whose buckets are on the server: seeds under way, and leftovers of crashes.
pub async fn buckets(bus: &Bus) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Names {
        total: usize,
        streams: Option<Vec<String>>,
    }
    let mut found = Vec::new();
    let mut seen = 0;
    loop {
        let body = json!({ "offset": seen }).to_string().into_bytes();
        let names = match streams::api::<Names>(bus, "STREAM.NAMES", body).await? {
            Response::Ok(names) => names,
            Response::Err { error } => return Err(BusError::jetstream("cannot list streams", error)),
        };
        let page = names.streams.unwrap_or_default();
        seen += page.len();
        found.extend(
            page.iter().filter_map(|name| Some(name.strip_prefix("OBJ_")?.strip_prefix(PREFIX)?.to_owned())),
        );
        if page.is_empty() || seen >= names.total {
            return Ok(found);
        }
    }
}
