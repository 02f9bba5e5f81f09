//! Streams and consumers made and checked through JetStream's API.
//!
//! Old servers drop settings that they do not know and say success; so what they echo is compared with what was asked.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{FromConsumer, PullConsumer};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, ConsumerErrorKind, DiscardPolicy, Info, RetentionPolicy, StorageType,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::conn::Bus;
use crate::error::{BusError, Result};
use crate::replicas::Replicas;

/// A stream is made smaller when the server has no room for it, but not smaller than this.
const MAX_BYTES_LEAST: i64 = 1 << 20;

/// Bounds of a durable stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes kept. The server sets them aside at once, so its own limit (`jetstream.max_file_store`) must allow for them.
    pub max_bytes: i64,
    /// Messages older than this go.
    pub max_age: Duration,
    /// How many servers keep it.
    pub replicas: Replicas,
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
    /// Who knows a message's subject may ask for the last one there, by a subject of the API that permissions can tell apart.
    pub(crate) direct: bool,
}

/// Makes a durable stream if it is missing and checks that it is as its user needs it. Limits of one that exists are the
/// operator's and stay as they are.
///
/// Where the server has no room for so many bytes it is made with half as many, and so on, with a warning: events that are
/// kept for a shorter time are better than none.
pub(crate) async fn ensure_durable(bus: &Bus, stream: &Durable<'_>, limits: &StreamLimits) -> Result<Made> {
    let mut wanted = Config {
        name: stream.name.into(),
        description: Some(limits.replicas.describe(stream.description)),
        subjects: vec![stream.subject.into()],
        retention: stream.retention,
        discard: stream.discard,
        storage: StorageType::File,
        max_bytes: limits.max_bytes,
        max_age: limits.max_age,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        num_replicas: limits.replicas.first(),
        duplicate_window: stream.duplicate_window.min(limits.max_age),
        deny_delete: stream.append_only,
        deny_purge: stream.append_only,
        allow_direct: stream.direct,
        ..Config::default()
    };
    loop {
        match ensure(bus, wanted.clone(), limits.replicas, stream.description).await {
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
    let prefix = bus.config().jetstream_api();
    let limit = bus.config().request_timeout();
    let answer = match bus.request(format!("{prefix}.{call}"), None, body.into(), limit).await {
        Err(BusError::TimedOut { after, .. }) => {
            let why =
                format!("no answer to {call} within {} ms; have its servers a leader?", after.as_millis());
            return Err(BusError::NoJetStream { why });
        }
        other => other?,
    };
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE => {
            Err(BusError::NoJetStream { why: format!("its servers have no quorum ({error})") })
        }
        Ok(response) => Ok(response),
        Err(error) => Err(BusError::BadReply { from: "JetStream".into(), why: format!("{call}: {error}") }),
    }
}

/// The call of JetStream's API for the last message on a subject of a stream.
pub(crate) fn last_of(stream: &str, subject: &str) -> String {
    format!("DIRECT.GET.{stream}.{subject}")
}

/// The id of the last message on a subject, from whichever server answers first; one that is behind knows an older one.
/// `None` where there is none.
///
/// # Errors
/// [`BusError::NoResponders`] where the stream is not there or does not answer such questions (`allow_direct`).
pub(crate) async fn last_id(bus: &Bus, stream: &str, subject: &str) -> Result<Option<String>> {
    let call = format!("{}.{}", bus.config().jetstream_api(), last_of(stream, subject));
    let answer = bus.request(call, None, Bytes::new(), bus.config().request_timeout()).await?;
    Ok(answer.headers.and_then(|headers| headers.get(NATS_MESSAGE_ID).map(ToString::to_string)))
}

/// The stream's state.
pub(crate) async fn info(bus: &Bus, name: &str) -> Result<Info> {
    match api::<Info>(bus, &format!("STREAM.INFO.{name}"), Vec::new()).await? {
        Response::Ok(info) => Ok(info),
        Response::Err { error } => Err(BusError::jetstream(format!("cannot look at stream {name}"), error)),
    }
}

/// Whether JetStream said that there is no such stream.
pub(crate) fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let known = error.downcast_ref::<async_nats::jetstream::Error>();
    known.is_some_and(|error| error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether a stream was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It was.
    Before,
    /// It was, with fewer replicas.
    Raised {
        /// Replicas that it had.
        from: usize,
        /// Replicas that it has.
        to: usize,
    },
    /// It was, and would be kept by more servers if that were possible.
    Short {
        /// Replicas that it has.
        replicas: usize,
        /// Why they are not raised.
        why: String,
    },
    /// It was made by this call.
    Now,
}

/// Makes the stream if it is missing, checks it, and raises its replicas where `what` as its description tells that it is ours.
pub(crate) async fn ensure(bus: &Bus, wanted: Config, replicas: Replicas, what: &str) -> Result<Made> {
    let name = wanted.name.clone();
    let (found, made) = match api::<Info>(bus, &format!("STREAM.INFO.{name}"), Vec::new()).await? {
        Response::Ok(info) => (info, Made::Before),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            (make(bus, wanted.clone(), replicas).await?, Made::Now)
        }
        Response::Err { error } => {
            return Err(BusError::jetstream(format!("cannot look at stream {name}"), error));
        }
    };
    let difference = differences(&wanted, &found.config);
    if !difference.is_empty() {
        return Err(BusError::StreamDiffers { stream: name, difference: difference.join("; ") });
    }
    let from = found.config.num_replicas;
    match replicas.raise(&found, what) {
        Some(to) if made == Made::Before => Ok(match raise(bus, &name, to, replicas.describe(what)).await {
            Ok(()) => {
                tracing::info!(stream = name, from, to, "raised the replicas of a stream");
                Made::Raised { from, to }
            }
            Err(error) => Made::Short { replicas: from, why: sys::error::line(&error) },
        }),
        _ => Ok(made),
    }
}

async fn make(bus: &Bus, mut wanted: Config, replicas: Replicas) -> Result<Info> {
    let name = wanted.name.clone();
    loop {
        let body = serde_json::to_vec(&wanted)
            .map_err(|error| BusError::Unsendable { what: name.clone(), why: error.to_string() })?;
        let error = match api::<Info>(bus, &format!("STREAM.CREATE.{name}"), body).await? {
            Response::Ok(info) => {
                tracing::info!(stream = name, replicas = info.config.num_replicas, "made a stream");
                return Ok(info);
            }
            Response::Err { error } => error,
        };
        let smaller = wanted.max_bytes / 2 >= MAX_BYTES_LEAST;
        if is_full(&error) && (smaller || wanted.num_replicas == 1) {
            return Err(BusError::NoRoom { stream: name, max_bytes: wanted.max_bytes, source: error });
        }
        match replicas.after_refusal(wanted.num_replicas, &error) {
            Some(fewer) => wanted.num_replicas = fewer,
            None => return Err(BusError::jetstream(format!("cannot make stream {name}"), error)),
        }
    }
}

/// Has a stream kept by more servers. All else stays as it is, also what this client does not know of.
async fn raise(bus: &Bus, stream: &str, to: usize, description: String) -> Result<()> {
    let mut config = match api::<serde_json::Value>(bus, &format!("STREAM.INFO.{stream}"), Vec::new()).await?
    {
        Response::Ok(mut info) => info["config"].take(),
        Response::Err { error } => {
            return Err(BusError::jetstream(format!("cannot look at stream {stream}"), error));
        }
    };
    config["num_replicas"] = to.into();
    config["description"] = description.into();
    let call = format!("STREAM.UPDATE.{stream}");
    match api::<Info>(bus, &call, config.to_string().into_bytes()).await? {
        Response::Ok(info) if info.config.num_replicas == to => Ok(()),
        Response::Ok(info) => Err(BusError::StreamDiffers {
            stream: stream.to_owned(),
            difference: format!("{} replicas, not {to}", info.config.num_replicas),
        }),
        Response::Err { error } => {
            Err(BusError::jetstream(format!("cannot raise stream {stream} to {to} replicas"), error))
        }
    }
}

/// Whether the server, or the account's limits there, lack the bytes that a stream sets aside.
fn is_full(error: &async_nats::jetstream::Error) -> bool {
    let full = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    // Servers that are there but have no room are named so only in the words.
    let peers_full = error.error_code() == ErrorCode::CLUSTER_NO_PEERS
        && error.to_string().contains("insufficient storage");
    peers_full || full.contains(&error.error_code())
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
        Ok(Err(error)) => Err(match error.kind() {
            ConsumerErrorKind::JetStream(known) if known.error_code() != ErrorCode::CLUSTER_NOT_AVAILABLE => {
                BusError::jetstream(format!("cannot make a consumer on stream {stream}"), error)
            }
            ConsumerErrorKind::InvalidConsumerType | ConsumerErrorKind::InvalidName => {
                BusError::jetstream(format!("cannot make a consumer on stream {stream}"), error)
            }
            _ => BusError::NoJetStream { why: format!("cannot make a consumer on stream {stream}: {error}") },
        }),
        Err(_) => {
            Err(BusError::TimedOut { what: format!("making a consumer on stream {stream}"), after: limit })
        }
    }
}

/// Stores a message and waits until it is safe.
pub(crate) async fn store(bus: &Bus, subject: &str, headers: HeaderMap, body: Bytes) -> Result<()> {
    let limit = bus.config().request_timeout();
    let answer = match bus.request(subject.to_owned(), Some(headers), body, limit).await {
        Ok(answer) => answer,
        // The stream is there, but nobody leads it.
        Err(BusError::NoResponders { .. } | BusError::TimedOut { .. }) => {
            return Err(BusError::NoJetStream { why: format!("nobody stores what is sent to {subject}") });
        }
        Err(error) => return Err(error),
    };
    match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
        Ok(Response::Ok(ack)) => kept(bus, &ack),
        Ok(Response::Err { error }) => {
            Err(BusError::jetstream(format!("cannot store what is sent to {subject}"), error))
        }
        Err(error) => Err(BusError::BadReply { from: "JetStream".into(), why: error.to_string() }),
    }
}

/// Whether an acknowledgement says that our stream has the message. At a leaf node a stream of its own JetStream that hears the same subjects
/// acknowledges first, also while the hub cannot be reached (nats-server issues 4148 and 5942).
pub(crate) fn kept(bus: &Bus, ack: &PublishAck) -> Result<()> {
    match bus.config().jetstream_domain.as_deref() {
        Some(domain) if domain != ack.domain => Err(BusError::StreamDiffers {
            stream: format!("{} of the JetStream domain {:?}", ack.stream, ack.domain),
            difference: format!("it hears what the domain {domain:?} keeps"),
        }),
        _ => Ok(()),
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
