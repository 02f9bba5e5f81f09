//! Streams and consumers made and checked through JetStream's API.
//!
//! Old servers drop settings that they do not know and say success; so what they echo is compared with what was asked.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{FromConsumer, PullConsumer};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use serde::de::DeserializeOwned;

use crate::conn::Bus;
use crate::error::{BusError, Result};

/// A stream is made smaller when the server has no room for it, but not smaller than this.
const MAX_BYTES_LEAST: i64 = 1 << 20;

/// Bounds of a durable stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes kept. The server sets them aside at once, so its own limit (`jetstream.max_file_store`) must allow for them.
    pub max_bytes: i64,
    /// Messages older than this go.
    pub max_age: Duration,
    /// Copies in a cluster of servers: 1, 3 or 5.
    pub replicas: usize,
}

/// A durable stream as its user needs it.
pub(crate) struct Durable<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) retention: RetentionPolicy,
    pub(crate) discard: DiscardPolicy,
    /// Second copies of a message are dropped by its id within this time.
    pub(crate) duplicate_window: Duration,
    /// Nobody may remove single messages.
    pub(crate) append_only: bool,
}

/// Makes a durable stream if it is missing and checks that it is as its user needs it. Limits of one that exists are the
/// operator's and stay as they are.
///
/// Where the server has no room for so many bytes it is made with half as many, and so on, with a warning: events that are
/// kept for a shorter time are better than none.
pub(crate) async fn ensure_durable(bus: &Bus, stream: &Durable<'_>, limits: &StreamLimits) -> Result<Made> {
    let mut wanted = Config {
        name: stream.name.into(),
        description: Some(stream.description.into()),
        subjects: vec![stream.subject.into()],
        retention: stream.retention,
        discard: stream.discard,
        storage: StorageType::File,
        max_bytes: limits.max_bytes,
        max_age: limits.max_age,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        num_replicas: limits.replicas,
        duplicate_window: stream.duplicate_window.min(limits.max_age),
        deny_delete: stream.append_only,
        deny_purge: stream.append_only,
        ..Config::default()
    };
    loop {
        match ensure(bus, wanted.clone()).await {
            Err(BusError::NoRoom { .. }) if wanted.max_bytes / 2 >= MAX_BYTES_LEAST => {
                wanted.max_bytes /= 2;
            }
            Ok(Made::Now) if wanted.max_bytes < limits.max_bytes => {
                tracing::warn!(
                    stream = stream.name,
                    wanted_bytes = limits.max_bytes,
                    made_bytes = wanted.max_bytes,
                    "JetStream has no room for the stream as configured and it was made smaller: raise \
                     jetstream.max_file_store of the server and then `nats stream edit` it, or configure a smaller one"
                );
                return Ok(Made::Now);
            }
            other => return other,
        }
    }
}

/// Asks JetStream's API; unlike the client's own calls a refusal by permissions is told as such.
pub(crate) async fn api<T: DeserializeOwned>(bus: &Bus, call: &str, body: Vec<u8>) -> Result<Response<T>> {
    let prefix = bus.config().jetstream_prefix.as_deref().unwrap_or("$JS.API");
    let limit = bus.config().request_timeout();
    let answer = bus.request(format!("{prefix}.{call}"), None, body.into(), limit).await?;
    serde_json::from_slice(&answer.payload)
        .map_err(|error| BusError::BadReply { from: "JetStream".into(), why: format!("{call}: {error}") })
}

/// The stream's state.
pub(crate) async fn info(bus: &Bus, name: &str) -> Result<Info> {
    match api::<Info>(bus, &format!("STREAM.INFO.{name}"), Vec::new()).await? {
        Response::Ok(info) => Ok(info),
        Response::Err { error } => Err(BusError::jetstream(format!("cannot look at stream {name}"), error)),
    }
}

/// Whether a stream was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was.
    Before,
    /// It was made by this call.
    Now,
}

/// Makes the stream if it is missing and checks it.
pub(crate) async fn ensure(bus: &Bus, wanted: Config) -> Result<Made> {
    let name = wanted.name.clone();
    let mut made = Made::Before;
    let found = match api::<Info>(bus, &format!("STREAM.INFO.{name}"), Vec::new()).await? {
        Response::Ok(info) => info,
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            let body = serde_json::to_vec(&wanted)
                .map_err(|error| BusError::Unsendable { what: name.clone(), why: error.to_string() })?;
            match api::<Info>(bus, &format!("STREAM.CREATE.{name}"), body).await? {
                Response::Ok(info) => {
                    tracing::info!(stream = name, "made a stream");
                    made = Made::Now;
                    info
                }
                Response::Err { error } if is_full(&error) => {
                    return Err(BusError::NoRoom {
                        stream: name,
                        max_bytes: wanted.max_bytes,
                        source: error,
                    });
                }
                Response::Err { error } => {
                    return Err(BusError::jetstream(format!("cannot make stream {name}"), error));
                }
            }
        }
        Response::Err { error } => {
            return Err(BusError::jetstream(format!("cannot look at stream {name}"), error));
        }
    };
    let difference = differences(&wanted, &found.config);
    if difference.is_empty() {
        return Ok(made);
    }
    Err(BusError::StreamDiffers { stream: name, difference: difference.join("; ") })
}

/// Whether the server, or the account's limits there, lack the bytes that a stream sets aside.
fn is_full(error: &async_nats::jetstream::Error) -> bool {
    let full = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    full.contains(&error.error_code())
}

/// Removes a stream with all that is in it; whether there was one.
pub(crate) async fn remove(bus: &Bus, name: &str) -> Result<bool> {
    match api::<serde_json::Value>(bus, &format!("STREAM.DELETE.{name}"), Vec::new()).await? {
        Response::Ok(_) => Ok(true),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(false),
        Response::Err { error } => Err(BusError::jetstream(format!("cannot remove stream {name}"), error)),
    }
}

/// What our use of the stream rests on; its limits are the operator's.
fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut list = Vec::new();
    if !wanted.subjects.iter().all(|s| found.subjects.contains(s)) {
        list.push(format!("subjects {:?}, not {:?}", found.subjects, wanted.subjects));
    }
    if found.retention != wanted.retention {
        list.push(format!("retention {:?}, not {:?}", found.retention, wanted.retention));
    }
    if found.storage != wanted.storage {
        list.push(format!("storage {:?}, not {:?}", found.storage, wanted.storage));
    }
    if found.duplicate_window < wanted.duplicate_window {
        list.push(format!(
            "duplicate window {:?}, not {:?}",
            found.duplicate_window, wanted.duplicate_window
        ));
    }
    for (what, wanted, found) in [
        ("deny_delete", wanted.deny_delete, found.deny_delete),
        ("deny_purge", wanted.deny_purge, found.deny_purge),
    ] {
        if wanted && !found {
            list.push(format!("{what} is off"));
        }
    }
    if found.discard != wanted.discard {
        list.push(format!("discard {:?}, not {:?}", found.discard, wanted.discard));
    }
    if found.no_ack || found.sealed {
        list.push("it acknowledges nothing or is sealed".into());
    }
    list
}

/// Makes a pull consumer, or takes the one that is there with the same settings.
pub(crate) async fn create_consumer(bus: &Bus, stream: &str, config: PullConfig) -> Result<PullConsumer> {
    let filter = config.filter_subject.clone();
    let jetstream = bus.jetstream();
    let making = jetstream.create_consumer_on_stream(config, stream);
    let limit = bus.config().request_timeout() + Duration::from_millis(500);
    match tokio::time::timeout(limit, making).await {
        Ok(Ok(consumer)) if consumer.cached_info().config.filter_subject == filter => Ok(consumer),
        Ok(Ok(_)) => Err(BusError::StreamDiffers {
            stream: stream.to_owned(),
            difference: format!("the server does not filter its consumer by {filter:?}"),
        }),
        Ok(Err(error)) => {
            Err(BusError::jetstream(format!("cannot make a consumer on stream {stream}"), error))
        }
        Err(_) => {
            Err(BusError::TimedOut { what: format!("making a consumer on stream {stream}"), after: limit })
        }
    }
}

/// A consumer that someone else made; `None` when there is none.
pub(crate) async fn find_consumer(bus: &Bus, stream: &str, name: &str) -> Result<Option<PullConsumer>> {
    use async_nats::jetstream::consumer::{Consumer, Info, IntoConsumerConfig};
    match api::<Info>(bus, &format!("CONSUMER.INFO.{stream}.{name}"), Vec::new()).await {
        Ok(Response::Ok(info)) => {
            let config = PullConfig::try_from_consumer_config(info.config.clone().into_consumer_config())
                .map_err(|error| {
                    BusError::jetstream(format!("consumer {name} is no pull consumer"), error)
                })?;
            Ok(Some(Consumer::new(config, info, bus.jetstream())))
        }
        Ok(Response::Err { .. }) | Err(BusError::NoResponders { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
