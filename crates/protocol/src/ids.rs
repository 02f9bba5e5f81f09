//! Typed identifiers. Each is validated where it enters, so that code behind the edge need not look twice.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {why}")]
pub struct InvalidId {
    what: &'static str,
    given: String,
    why: &'static str,
}

/// An agent's name on the bus: a host name, or `host:port` where one host runs several instances.
///
/// At most 128 bytes of printable ASCII without spaces, slashes or wildcards; compared in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(#[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._:-]+$"))] String);

impl AgentId {
    /// The id as text, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| Err(InvalidId { what: "agent id", given: shortened(text), why });
        if text.is_empty() || text.len() > 128 {
            return invalid("it must have 1 to 128 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')) {
            return invalid("only letters, digits and . _ : - are allowed");
        }
        if text.starts_with('-') {
            return invalid("it must not begin with a dash");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// A snapshot's name as its provider lists it, for example `vg0/mysql-data-20261122T101500Z`.
///
/// Never a path and never an option: it is only ever compared with what the provider lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9+_./:@-]+$"))] String,
);

impl SnapshotId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| Err(InvalidId { what: "snapshot id", given: shortened(text), why });
        if text.is_empty() || text.len() > 256 {
            return invalid("it must have 1 to 256 characters");
        }
        let allowed =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'_' | b'.' | b'/' | b':' | b'@' | b'-');
        if !text.bytes().all(allowed) {
            return invalid("only letters, digits and + _ . / : @ - are allowed");
        }
        if text.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.starts_with('-'))
        {
            return invalid("no part of it may be empty, dots only or begin with a dash");
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}
text_id!(AgentId);
text_id!(SnapshotId);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id (UUIDv7: ids made later sort later).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a UUID.
            #[must_use]
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId {
                    what: stringify!($name),
                    given: shortened(text),
                    why: "it must be a UUID",
                })
            }
        }
    };
}
uuid_id!(
    /// One request; the idempotency key: the same id twice has one effect and the same reply.
    RequestId
);
uuid_id!(
    /// One job of one agent. A seed is named by the recipient's job.
    JobId
);
uuid_id!(
    /// One event; the stream drops a second copy by it.
    EventId
);
impl EventId {
    /// The id that follows from these 128 bits, a hash of what happened (UUIDv8).
    #[must_use]
    pub fn derived(hash: u128) -> Self {
        Self(uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid())
    }
}

uuid_id!(
    /// One donor's offer of a mounted, held snapshot.
    OfferId
);
uuid_id!(
    /// Contents that a client sends to one agent in pieces; chosen by the client.
    UploadId
);
uuid_id!(
    /// One start of an agent's process; tells a restart from a duplicate.
    BootId
);

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_id_is_a_host_or_host_and_port() {
        assert_eq!("DB1.example.com".parse::<AgentId>().unwrap().as_str(), "db1.example.com");
        assert!("db1:3307".parse::<AgentId>().is_ok());
        for bad in ["", "a b", "a/b", "*", "db1.>", "-y", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_snapshot_id_is_never_a_path_or_an_option() {
        assert!("vg0/mysql-snap+1".parse::<SnapshotId>().is_ok());
        for bad in ["", "../etc", "/abs", "a//b", "-y", "vg0/-f", "a b", "a;rm", "a\0b", "vg0/."] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?} must be refused");
        }
        assert!(serde_json::from_str::<SnapshotId>(r#""../etc""#).is_err());
    }
}
