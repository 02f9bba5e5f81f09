//! Every subject, built and parsed here and nowhere else.
//!
//! The host token is reversible and valid in subjects, stream, consumer and bucket names alike: lower case,
//! `.` becomes `_`, any other byte outside `[a-z0-9-]` becomes `X` and two upper-case hex digits.

use std::fmt;

use crate::ids::{AgentId, JobId};

/// Root of all subjects; the version is part of it.
const ROOT: &str = "orch.v1";
/// What every subject on which something acts begins with, in any version.
const ANY_VERSION: &str = "orch.";
/// What the durable event stream captures.
pub const ALL_EVENTS: &str = "orch.v1.evt.>";
/// What the stream of durable commands captures.
pub const ALL_DURABLE_COMMANDS: &str = "orch.v1.dcmd.>";
/// Heartbeats of all agents.
pub const ALL_HEARTBEATS: &str = "orch.v1.hb.*";
/// Progress of all jobs of all agents.
pub const ALL_PROGRESS: &str = "orch.v1.job.*.*.progress";
/// A request here is answered by every agent with its heartbeat, so that a fleet is complete in a moment.
pub const ASK_FLEET: &str = "orch.v1.ask.fleet";

/// One subject of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Request to one agent; `command` is `family.verb`.
    Command { agent: AgentId, command: String },
    /// Request that waits in a stream until the agent is back.
    DurableCommand { agent: AgentId, command: String },
    /// Heartbeat of one agent.
    Heartbeat { agent: AgentId },
    /// Durable event of one agent; `kind` has one or more tokens.
    Event { agent: AgentId, kind: String },
    /// Droppable progress of one job.
    Progress { agent: AgentId, job: JobId },
    /// Seed chunks through JetStream; `rest` has one or more tokens.
    Seed { donor: AgentId, recipient: AgentId, job: JobId, rest: String },
    /// The question to the whole fleet.
    AskFleet,
}

/// Why a text is not one of our subjects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a subject of {ROOT}")]
pub struct UnknownSubject(String);

impl Subject {
    /// Parses a subject as it came from the bus.
    pub fn parse(text: &str) -> Result<Self, UnknownSubject> {
        Self::parse_known(text).ok_or_else(|| UnknownSubject(text.chars().take(200).collect()))
    }

    fn parse_known(text: &str) -> Option<Self> {
        if text == ASK_FLEET {
            return Some(Self::AskFleet);
        }
        let rest = text.strip_prefix(ROOT)?.strip_prefix('.')?;
        let tokens: Vec<&str> = rest.split('.').collect();
        if tokens.iter().any(|t| t.is_empty() || t.contains(['*', '>', ' '])) {
            return None;
        }
        let agent = |token: &str| decode_host(token);
        Some(match tokens.as_slice() {
            ["cmd", host, family, verb] => {
                Self::Command { agent: agent(host)?, command: format!("{family}.{verb}") }
            }
            ["dcmd", host, family, verb] => {
                Self::DurableCommand { agent: agent(host)?, command: format!("{family}.{verb}") }
            }
            ["hb", host] => Self::Heartbeat { agent: agent(host)? },
            ["evt", host, kind @ ..] if !kind.is_empty() => {
                Self::Event { agent: agent(host)?, kind: kind.join(".") }
            }
            ["job", host, job, "progress"] => Self::Progress { agent: agent(host)?, job: job.parse().ok()? },
            ["seed", donor, recipient, job, rest @ ..] if !rest.is_empty() => Self::Seed {
                donor: agent(donor)?,
                recipient: agent(recipient)?,
                job: job.parse().ok()?,
                rest: rest.join("."),
            },
            _ => return None,
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { agent, command } => f.write_str(&form::command(&encode_host(agent), command)),
            Self::DurableCommand { agent, command } => {
                f.write_str(&form::durable_command(&encode_host(agent), command))
            }
            Self::Heartbeat { agent } => f.write_str(&form::heartbeat(&encode_host(agent))),
            Self::Event { agent, kind } => f.write_str(&form::event(&encode_host(agent), kind)),
            Self::Progress { agent, job } => {
                f.write_str(&form::progress(&encode_host(agent), &job.to_string()))
            }
            Self::Seed { donor, recipient, job, rest } => {
                let rest = format!("{job}.{rest}");
                f.write_str(&form::seed(&encode_host(donor), &encode_host(recipient), &rest))
            }
            Self::AskFleet => f.write_str(ASK_FLEET),
        }
    }
}

/// The forms of all subjects. Each part is a token, or stands for some: `*`, `>`, or a name in braces for documents.
pub mod form {
    use super::ROOT;

    /// Requests.
    #[must_use]
    pub fn command(host: &str, command: &str) -> String {
        format!("{ROOT}.cmd.{host}.{command}")
    }

    /// Requests that wait in a stream.
    #[must_use]
    pub fn durable_command(host: &str, command: &str) -> String {
        format!("{ROOT}.dcmd.{host}.{command}")
    }

    /// Heartbeats.
    #[must_use]
    pub fn heartbeat(host: &str) -> String {
        format!("{ROOT}.hb.{host}")
    }

    /// Durable events.
    #[must_use]
    pub fn event(host: &str, kind: &str) -> String {
        format!("{ROOT}.evt.{host}.{kind}")
    }

    /// Droppable progress of jobs.
    #[must_use]
    pub fn progress(host: &str, job: &str) -> String {
        format!("{ROOT}.job.{host}.{job}.progress")
    }

    /// A seed's data through the object store.
    #[must_use]
    pub fn seed(donor: &str, recipient: &str, rest: &str) -> String {
        format!("{ROOT}.seed.{donor}.{recipient}.{rest}")
    }
}

/// Whether something may act on what is published there: a subject of ours, of any version, or the server's own.
#[must_use]
pub fn acts(subject: &str) -> bool {
    subject.starts_with('$') || subject.starts_with(ANY_VERSION)
}

/// All requests to all agents.
#[must_use]
pub fn all_commands() -> String {
    format!("{ROOT}.cmd.>")
}

/// All requests to one agent.
#[must_use]
pub fn commands_of(agent: &AgentId) -> String {
    form::command(&encode_host(agent), ">")
}

/// All durable commands for one agent.
#[must_use]
pub fn durable_commands_of(agent: &AgentId) -> String {
    form::durable_command(&encode_host(agent), ">")
}

/// All events of one agent.
#[must_use]
pub fn events_of(agent: &AgentId) -> String {
    form::event(&encode_host(agent), ">")
}

/// Progress of all jobs of one agent.
#[must_use]
pub fn progress_of(agent: &AgentId) -> String {
    form::progress(&encode_host(agent), "*")
}

/// The agent id as one token: see the module's text for the rules.
#[must_use]
pub fn encode_host(agent: &AgentId) -> String {
    let mut token = String::with_capacity(agent.as_str().len());
    for byte in agent.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => token.push(char::from(byte)),
            b'.' => token.push('_'),
            other => token.push_str(&format!("X{other:02X}")),
        }
    }
    token
}

/// The agent id that a token stands for; `None` when no id is encoded that way.
#[must_use]
pub fn decode_host(token: &str) -> Option<AgentId> {
    let mut bytes = token.bytes();
    let mut text = String::with_capacity(token.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => text.push(char::from(byte)),
            b'_' => text.push('.'),
            b'X' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                text.push(char::from(u8::from_str_radix(digits, 16).ok()?));
            }
            _ => return None,
        }
    }
    let agent: AgentId = text.parse().ok()?;
    (encode_host(&agent) == token).then_some(agent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent(text: &str) -> AgentId {
        text.parse().unwrap()
    }

    #[test]
    fn host_tokens_are_as_decided() {
        assert_eq!(encode_host(&agent("db1.example.com")), "db1_example_com");
        assert_eq!(encode_host(&agent("my_db")), "myX5Fdb");
        assert_eq!(encode_host(&agent("db1:3307")), "db1X3A3307");
        assert_eq!(decode_host("myX5fdb"), None, "one spelling only");
        assert_eq!(decode_host("X2E"), None, "a dot has its own spelling");
    }

    #[test]
    fn a_wildcard_or_an_empty_token_is_no_subject() {
        for bad in ["orch.v1.cmd.*.agent.info", "orch.v1.cmd..agent.info", "orch.v2.hb.db1", "orch.v1.hb", ""]
        {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed_back(host in "[a-z0-9][a-z0-9._:-]{0,40}", kind in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}") {
            let agent = agent(&host);
            let job = JobId::generate();
            for subject in [
                Subject::Command { agent: agent.clone(), command: "seed.start".into() },
                Subject::DurableCommand { agent: agent.clone(), command: "seed.start".into() },
                Subject::Heartbeat { agent: agent.clone() },
                Subject::Event { agent: agent.clone(), kind: kind.clone() },
                Subject::Progress { agent: agent.clone(), job },
                Subject::Seed { donor: agent.clone(), recipient: agent.clone(), job, rest: kind.clone() },
                Subject::AskFleet,
            ] {
                prop_assert_eq!(Subject::parse(&subject.to_string()).unwrap(), subject);
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in ".{0,100}") {
            let _ = Subject::parse(&text);
            let _ = decode_host(&text);
        }
    }
}
