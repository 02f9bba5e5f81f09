//! How many servers keep a stream, and how one with fewer is raised.
//!
//! Nobody but the server knows how many servers with JetStream and with room there are, and which of them are down: so it is not
//! counted but asked for three, and what the server refuses for want of servers is made with one.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::Info;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// Copies where the cluster has servers enough: one of them may be lost.
const ENOUGH: usize = 3;

/// Ends the description of a stream whose number of replicas was asked for: only somebody who asks for another changes it.
const AS_ASKED: &str = " (replicas as asked for)";

/// How many servers keep a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replicas {
    /// Three where the cluster has three or more servers for it, else one.
    #[default]
    Auto,
    /// So many.
    Exactly(usize),
}

impl Replicas {
    /// What is asked for first.
    pub(crate) fn first(self) -> usize {
        match self {
            Self::Auto => ENOUGH,
            Self::Exactly(number) => number,
        }
    }

    /// What is asked for when the server refused `asked` for `error`.
    pub(crate) fn after_refusal(self, asked: usize, error: &async_nats::jetstream::Error) -> Option<usize> {
        let lacks_servers = [
            ErrorCode::CLUSTER_NO_PEERS,
            ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED,
            ErrorCode::NO_LIMITS,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ];
        (self == Self::Auto && asked > 1 && lacks_servers.contains(&error.error_code())).then_some(1)
    }

    /// A stream's description, which tells whose decision its replicas are.
    pub(crate) fn describe(self, what: &str) -> String {
        match self {
            Self::Auto => what.to_owned(),
            Self::Exactly(_) => format!("{what}{AS_ASKED}"),
        }
    }

    /// What a stream that is there is to be raised to; none where it has as many, or its replicas are somebody else's decision.
    pub(crate) fn raise(self, found: &Info, what: &str) -> Option<usize> {
        let description = found.config.description.as_deref().unwrap_or_default();
        let ours = match self {
            Self::Auto => description == what,
            Self::Exactly(_) => description.strip_suffix(AS_ASKED).unwrap_or(description) == what,
        };
        // A server by itself leads what it keeps, but names no cluster, and can keep one copy only.
        let is_clustered = found.cluster.as_ref().and_then(|cluster| cluster.name.as_deref());
        let is_clustered = is_clustered.is_some_and(|name| !name.is_empty());
        (ours && is_clustered && found.config.num_replicas < self.first()).then_some(self.first())
    }
}

impl std::str::FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "1" | "3" | "5" => Ok(Self::Exactly(usize::from(text.as_bytes()[0] - b'0'))),
            _ => Err(format!("{text:?} is no number of replicas: auto, 1, 3 or 5")),
        }
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(from)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_auto_or_an_odd_number() {
        let parsed = |text: &str| serde_json::from_str::<Replicas>(text);
        assert_eq!(parsed("\"auto\"").unwrap(), Replicas::Auto);
        assert_eq!(parsed("3").unwrap(), Replicas::Exactly(3));
        for bad in ["2", "0", "\"many\"", "null", "-1"] {
            let error = parsed(bad).unwrap_err().to_string();
            assert!(error.contains("auto, 1, 3 or 5"), "{error}");
        }
    }
}
