//! The few things that can be asked for.

use protocol::ids::{AgentId, JobId, SnapshotId};

use super::super::command;
use super::super::place::{self, Query};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Order {
    /// A snapshot of this host.
    Create(AgentId),
    /// A proof of that snapshot of this host.
    Verify(AgentId, SnapshotId),
    /// The end of that seed of this host.
    Abort(AgentId, JobId),
}

impl Order {
    /// Reads it from a query or a form.
    pub(in super::super) fn parse(given: &Query) -> Option<Self> {
        let host = given.get("host").parse().ok()?;
        Some(match given.get("do").as_str() {
            "create" => Self::Create(host),
            "verify" => Self::Verify(host, given.get("snapshot").parse().ok()?),
            "abort" => Self::Abort(host, given.get("job").parse().ok()?),
            _ => return None,
        })
    }

    /// Its fields, as a query or a form has them.
    pub(in super::super) fn fields(&self) -> Vec<(&'static str, String)> {
        let host = ("host", self.host().to_string());
        match self {
            Self::Create(_) => vec![("do", "create".to_owned()), host],
            Self::Verify(_, snapshot) => {
                vec![("do", "verify".to_owned()), host, ("snapshot", snapshot.to_string())]
            }
            Self::Abort(_, job) => vec![("do", "abort".to_owned()), host, ("job", job.to_string())],
        }
    }

    /// Where it is asked for.
    pub(in super::super) fn link(&self) -> String {
        let fields = self.fields();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        place::link("/act", &fields)
    }

    /// Whose it is.
    pub(in super::super) fn host(&self) -> &AgentId {
        let (Self::Create(host) | Self::Verify(host, _) | Self::Abort(host, _)) = self;
        host
    }

    /// The command of the bus.
    pub(in super::super) fn command(&self) -> &'static str {
        match self {
            Self::Create(_) => "snapshot.create",
            Self::Verify(..) => "snapshot.verify",
            Self::Abort(..) => "jobs.abort",
        }
    }

    /// What a person is asked.
    pub(in super::super) fn question(&self) -> String {
        match self {
            Self::Create(host) => format!("Create a snapshot of {host}?"),
            Self::Verify(host, snapshot) => format!("Verify {snapshot} of {host}?"),
            Self::Abort(host, _) => format!("Abort the seed of {host}?"),
        }
    }

    /// What comes of it.
    pub(in super::super) fn consequence(&self) -> &'static str {
        match self {
            Self::Create(_) => {
                "The server goes on; a classic LVM snapshot takes room and slows writes while it is there."
            }
            Self::Verify(..) => {
                "A private server starts on the snapshot, and its tables are checked for up to a minute."
            }
            Self::Abort(..) => {
                "What it did is taken back: the old data stay, or come back, unless it was begun with --replace."
            }
        }
    }

    /// The same at the command line.
    pub(in super::super) fn line(&self) -> String {
        match self {
            Self::Create(host) => command::line(&["snapshot", "create", host.as_str()]),
            Self::Verify(host, snapshot) => {
                command::line(&["snapshot", "verify", host.as_str(), snapshot.as_str()])
            }
            Self::Abort(host, job) => command::line(&["seed", "abort", host.as_str(), &job.to_string()]),
        }
    }

    /// Where it is seen.
    pub(in super::super) fn place(&self) -> String {
        match self {
            Self::Create(host) | Self::Verify(host, _) => place::host(host),
            Self::Abort(_, job) => format!("/seed/{job}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_what_its_link_says_and_nothing_else_is_one() {
        let host = || "db1:3307".parse().unwrap();
        for order in [
            Order::Create(host()),
            Order::Verify(host(), "vg0/s1".parse().unwrap()),
            Order::Abort(host(), JobId::generate()),
        ] {
            let link = order.link();
            assert_eq!(Order::parse(&Query::parse(link.strip_prefix("/act?").unwrap())), Some(order));
        }
        for query in [
            "",
            "do=create",
            "do=create&host=-x",
            "do=verify&host=db1&snapshot=../x",
            "do=drop&host=db1",
            "do=abort&host=db1&job=1",
        ] {
            assert_eq!(Order::parse(&Query::parse(query)), None, "{query}");
        }
    }
}
