//! What can go wrong, told so that a person knows on which host, why, and what to do next.

use std::io;
use std::path::PathBuf;

use bus::{BusError, Unconnected};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::AgentId;
use protocol::job::{JobState, JobView};
use protocol::seed::Guard;
use schemars::JsonSchema;
use serde::Serialize;
use sys::text::{indented, line};

use crate::donor::NoDonor;
use crate::exit::Exit;

/// Result of this crate.
pub type Result<T, E = CtlError> = std::result::Result<T, E>;

/// What the further lines of a text begin with, so that none of another host's passes for one of ours.
const CONTINUED: &str = "           ";

/// A failure with what a person needs to go on.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The arguments make no sense together, or something had to be confirmed and was not.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The bus itself failed, no host in particular.
    #[error("{what}")]
    Bus {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<BusError>,
    },
    /// A command to a host failed on its way, or was refused there.
    #[error("{host}: {command} failed")]
    Call {
        /// Which host.
        host: AgentId,
        /// Which command.
        command: String,
        /// Why.
        #[source]
        source: Box<BusError>,
        /// What to do.
        hint: Option<String>,
    },
    /// A job ended otherwise than well.
    #[error("{host}: {} {}", view.kind, ended(view))]
    Job {
        /// Which host.
        host: AgentId,
        /// How it ended.
        view: Box<JobView>,
    },
    /// A plan refuses.
    #[error("{host}: the plan refuses; nothing was touched")]
    Refused {
        /// The recipient.
        host: AgentId,
        /// Why, one entry per guard.
        reasons: Vec<String>,
        /// The guards that refuse; none where the plan asked for is another one.
        guards: Vec<Guard>,
    },
    /// No host can give its data.
    #[error(transparent)]
    NoDonor(#[from] NoDonor),
    /// Something named does not exist.
    #[error("{what}")]
    NotFound {
        /// What.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// No host is as asked for.
    #[error("{what}")]
    NoHost {
        /// What was asked for.
        what: String,
        /// What was perhaps meant.
        hint: String,
    },
    /// A host's key is not written down.
    #[error("{host}: its key is not taken")]
    NotPinned {
        /// Which host.
        host: AgentId,
        /// Why not.
        why: String,
        /// What to do.
        hint: String,
    },
    /// A record does not hold what was once written.
    #[error("{host}: the record was altered")]
    Altered {
        /// Whose journal.
        host: AgentId,
        /// What was found, in sentences.
        problems: Vec<String>,
    },
    /// A file on this machine.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// All has been told already; only the status is left.
    #[error("not all was done as asked")]
    Told(Exit),
}

fn ended(view: &JobView) -> String {
    let state = if view.state == JobState::Aborted { "was aborted" } else { "failed" };
    match &view.stage {
        Some(stage) => format!("{state} at {stage}"),
        None => state.to_owned(),
    }
}

/// The failure for programs: the `error` object of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// The exit code of this failure alone.
    pub exit: u8,
    /// The host, where it is one host's failure.
    pub host: Option<AgentId>,
    /// The agent's error code, or the one that says the same of a failure found here.
    pub code: Option<ErrorCode>,
    /// The guard that refused.
    pub guard: Option<String>,
    /// What failed.
    pub message: String,
    /// Why, each the cause of the one before.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl CtlError {
    /// A usage error with a hint.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: Some(hint.into()) }
    }

    /// The bus itself failed.
    pub fn bus(what: impl Into<String>, source: BusError) -> Self {
        Self::Bus { what: what.into(), source: Box::new(source) }
    }

    /// A command to a host failed.
    pub fn call(host: &AgentId, command: &str, source: BusError, hint: Option<String>) -> Self {
        Self::Call { host: host.clone(), command: command.to_owned(), source: Box::new(source), hint }
    }

    /// The exit status that it stands for.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::NoHost { .. } => Exit::Unreachable,
            Self::Bus { source, .. } | Self::Call { source, .. } => exit_of(source),
            Self::Job { view, .. } if view.state == JobState::Aborted => Exit::Aborted,
            Self::Job { view, .. } => view.error.as_ref().map_or(Exit::Failed, Exit::of),
            Self::Refused { guards, .. } if guards.as_slice() == [Guard::NoOtherSeed] => Exit::Busy,
            Self::Refused { .. } | Self::NotPinned { .. } => Exit::Refused,
            Self::Altered { .. } => Exit::Failed,
            Self::NoDonor(_) | Self::NotFound { .. } => Exit::NotFound,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::File { .. } => Exit::Failed,
            Self::Told(exit) => *exit,
        }
    }

    /// The failure for programs and for [`CtlError::render`].
    #[must_use]
    pub fn report(&self) -> Report {
        let wire = self.wire();
        Report {
            exit: self.exit().code(),
            host: self.host().cloned(),
            code: wire.map(|w| w.code).or_else(|| self.own_code()),
            guard: wire.and_then(|w| w.guard.clone()).or_else(|| self.own_guard()),
            message: self.to_string(),
            causes: self.causes(),
            hint: self.hint(),
        }
    }

    /// The failure for people: what failed, why, and what to do next.
    #[must_use]
    pub fn render(&self) -> String {
        let report = self.report();
        let mut text = format!("error: {}\n", indented(&report.message, CONTINUED));
        for cause in &report.causes {
            text.push_str(&format!("  because: {}\n", indented(cause, CONTINUED)));
        }
        if let Some(guard) = &report.guard {
            text.push_str(&format!("  guard:   {}\n", line(guard)));
        }
        if let Some(hint) = &report.hint {
            text.push_str(&format!("  next:    {}\n", indented(hint, CONTINUED)));
        }
        text
    }

    fn host(&self) -> Option<&AgentId> {
        match self {
            Self::Call { host, .. }
            | Self::Job { host, .. }
            | Self::Refused { host, .. }
            | Self::NotPinned { host, .. }
            | Self::Altered { host, .. } => Some(host),
            Self::NoDonor(none) => Some(&none.recipient),
            _ => None,
        }
    }

    fn wire(&self) -> Option<&WireError> {
        match self {
            Self::Call { source, .. } | Self::Bus { source, .. } => match &**source {
                BusError::Agent(error) => Some(error),
                _ => None,
            },
            Self::Job { view, .. } => view.error.as_ref(),
            _ => None,
        }
    }

    fn own_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Usage { .. } => Some(ErrorCode::BadRequest),
            Self::Refused { guards, .. } if guards.is_empty() => Some(ErrorCode::PlanChanged),
            Self::Refused { .. } | Self::NotPinned { .. } => Some(ErrorCode::Refused),
            Self::NoDonor(_) | Self::NotFound { .. } | Self::NoHost { .. } => Some(ErrorCode::NotFound),
            Self::Bus { source, .. } | Self::Call { source, .. } => match **source {
                BusError::TimedOut { .. } => Some(ErrorCode::TimedOut),
                BusError::NotPermitted { .. } | BusError::InboxRefused { .. } => Some(ErrorCode::Forbidden),
                BusError::Config { .. } | BusError::InvalidId(_) => Some(ErrorCode::BadRequest),
                _ => None,
            },
            _ => None,
        }
    }

    fn own_guard(&self) -> Option<String> {
        match self {
            Self::Refused { guards, .. } => guards.first().map(|guard| crate::render::name(*guard)),
            _ => None,
        }
    }

    fn causes(&self) -> Vec<String> {
        if let Self::Refused { reasons, .. } | Self::Altered { problems: reasons, .. } = self {
            return reasons.clone();
        }
        if let Self::NotPinned { why, .. } = self {
            return vec![why.clone()];
        }
        if let Some(error) = self.wire() {
            let mut causes = vec![error.message.clone()];
            // A layer that repeats the ones below it says nothing new.
            causes
                .extend(error.causes.iter().filter(|cause| !error.message.contains(cause.as_str())).cloned());
            causes.dedup();
            return causes;
        }
        let mut causes: Vec<String> = Vec::new();
        for text in sys::error::causes(self) {
            // A layer that repeats the one above it says nothing new.
            if !causes.iter().any(|before| before.contains(&text)) {
                causes.push(text);
            }
        }
        causes
    }

    fn hint(&self) -> Option<String> {
        let given = match self {
            Self::Usage { hint, .. } | Self::Call { hint, .. } | Self::NotFound { hint, .. } => hint.clone(),
            Self::NoHost { hint, .. } | Self::NotPinned { hint, .. } => Some(hint.clone()),
            Self::Refused { reasons, .. } if reasons.iter().any(|reason| reason.contains("--")) => {
                Some("mend the cause or give leave with the option that it names".into())
            }
            Self::Refused { host, guards, .. } if guards.is_empty() => {
                Some(format!("`orchestrator-ctl seed plan {host}`, with the same options, shows the new one"))
            }
            Self::Refused { host, .. } => {
                Some(format!("mend the cause, then look again: `orchestrator-ctl seed plan {host}`"))
            }
            Self::Altered { .. } => {
                Some("trust neither side alone: look who can write to the host's state directory and to the stream".into())
            }
            Self::NoDonor(none) => {
                let lacks = none.passed_over.iter().find(|passed| passed.why.contains("snapshot"));
                let maker = lacks.map_or("HOST", |passed| passed.agent.as_str());
                Some(format!("make a snapshot (`orchestrator-ctl snapshot create {maker}`) or name a donor with --from"))
            }
            _ => None,
        };
        given.or_else(|| match self {
            Self::Bus { source, .. } => hint_of(source, "HOST"),
            Self::Call { host, source, .. } => hint_of(source, host.as_str()),
            Self::Job { host, view } if view.kind.starts_with("mysql.") || view.kind.starts_with("seed.") => {
                Some(format!(
                    "see `orchestrator-ctl mysql {host} error-log` and `orchestrator-ctl jobs {host} show {}`",
                    view.id
                ))
            }
            Self::Job { host, view } => Some(format!("see `orchestrator-ctl jobs {host} show {}`", view.id)),
            _ => None,
        })
    }
}

fn exit_of(error: &BusError) -> Exit {
    match error {
        BusError::Agent(error) => Exit::of(error),
        BusError::NotConnected { trouble: Unconnected::Login, .. } => Exit::Denied,
        BusError::NotConnected { .. }
        | BusError::NoAgent(_)
        | BusError::NoResponders { .. }
        | BusError::Closed => Exit::Unreachable,
        BusError::TimedOut { .. } | BusError::NoJetStream { .. } => Exit::Retry,
        BusError::NotPermitted { .. } | BusError::InboxRefused { .. } | BusError::NotFromHost { .. } => {
            Exit::Denied
        }
        BusError::Config { .. } | BusError::InvalidId(_) | BusError::Unsendable { .. } => Exit::Usage,
        BusError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    }
}

fn hint_of(error: &BusError, host: &str) -> Option<String> {
    let hint = match error {
        BusError::NotConnected { trouble: Unconnected::Login, .. } => {
            "log in with --nkey-file (ORCH_NKEY_FILE) or --creds (ORCH_CREDS); the server's accounts must have the public key \
             (`orchestrator-ctl key show FILE` prints it, `orchestrator-ctl bus config` makes them), and the server must have been \
             reloaded"
        }
        BusError::NotConnected { trouble: Unconnected::Tls, .. } => {
            "give the server's authority with --tls-ca (ORCH_TLS_CA), and --tls-cert and --tls-key where the server wants them"
        }
        BusError::NotConnected { trouble: Unconnected::Name, .. } => {
            "this machine cannot resolve the server's name; give another address with --server or ORCH_SERVER"
        }
        BusError::Setup(_) | BusError::NotConnected { .. } => {
            "is nats-server running there? give its address with --server or ORCH_SERVER"
        }
        BusError::InboxRefused { .. } => {
            "set --inbox-prefix or ORCH_INBOX_PREFIX, for a person _INBOX_USER_NAME with the name given to \
             `orchestrator-ctl bus config`"
        }
        BusError::NoResponders { .. } => {
            "JetStream must be enabled on the server and set up for this account"
        }
        BusError::NoJetStream { .. } => "`orchestrator-ctl bus status` tells what is missing",
        BusError::NotFromHost { .. } => {
            return Some(format!(
                "what was asked may have been done. A host that is new: `orchestrator-ctl key pin {host}`; one that was rebuilt: \
                 `orchestrator-ctl key pin {host} --replace`"
            ));
        }
        BusError::TimedOut { .. } => LATE,
        BusError::Agent(error) => return hint_of_agent(error, host),
        _ => return None,
    };
    Some(hint.to_owned())
}

const LATE: &str = "look whether it was done before you repeat it; --timeout waits longer";

fn hint_of_agent(error: &WireError, host: &str) -> Option<String> {
    let hint = match error.code {
        ErrorCode::Unauthenticated => {
            "sign commands with --sign-key FILE or ORCH_SIGN_KEY; the host must trust the key"
        }
        ErrorCode::Forbidden => "the key's roles are in the host's configuration",
        ErrorCode::TimedOut => LATE,
        ErrorCode::Expired => "compare the clocks of this machine and the host",
        ErrorCode::Busy => {
            return Some(format!(
                "wait for the holder (`orchestrator-ctl jobs {host} list --unfinished`), or end its job: \
                 `orchestrator-ctl jobs {host} abort JOB`"
            ));
        }
        ErrorCode::PlanChanged => {
            return Some(format!(
                "look at the new plan (`orchestrator-ctl seed plan {host}`) and start again"
            ));
        }
        ErrorCode::MissingCapability => {
            return Some(format!(
                "`orchestrator-ctl host {host} info` lists what is missing and how to get it"
            ));
        }
        ErrorCode::UnsupportedVersion => {
            "ctl and agent are of different protocol versions; update the older one"
        }
        _ if error.retryable => "the same command may succeed later",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(source: BusError) -> CtlError {
        CtlError::call(&"db7".parse().unwrap(), "seed.start", source, None)
    }

    #[test]
    fn an_agents_refusal_is_told_with_its_causes_once() {
        let mut error = WireError::new(ErrorCode::Refused, "MySQL runs and may not be stopped");
        error.guard = Some("mysql_may_stop".into());
        error.causes = vec!["mariadbd has pid 17".into()];
        let error = call(BusError::Agent(error));
        assert_eq!(error.exit(), Exit::Refused);
        assert_eq!(
            error.render(),
            "error: db7: seed.start failed\n  \
             because: MySQL runs and may not be stopped\n  \
             because: mariadbd has pid 17\n  \
             guard:   mysql_may_stop\n"
        );
        let report = serde_json::to_value(error.report()).unwrap();
        assert_eq!(report["code"], "refused");
        assert_eq!(report["exit"], 3);
        assert_eq!(report["host"], "db7");
    }

    #[test]
    fn what_to_do_next_is_a_whole_command_about_that_host() {
        for (code, wanted) in [
            (ErrorCode::Busy, "orchestrator-ctl jobs db7 list --unfinished"),
            (ErrorCode::PlanChanged, "orchestrator-ctl seed plan db7"),
            (ErrorCode::MissingCapability, "orchestrator-ctl host db7 info"),
        ] {
            let text = call(BusError::Agent(WireError::new(code, "no"))).render();
            assert!(text.contains("  next:    ") && text.contains(&format!("`{wanted}`")), "{text}");
        }
        let hint = "update the agent on db7".to_owned();
        let pinned = CtlError::NotPinned { host: "db7".parse().unwrap(), why: "too old".into(), hint };
        assert_eq!(pinned.exit(), Exit::Refused);
        assert_eq!(
            pinned.render(),
            "error: db7: its key is not taken\n  because: too old\n  next:    update the agent on db7\n"
        );
    }

    #[test]
    fn a_host_that_is_away_is_unreachable_and_a_slow_one_may_be_tried_again() {
        assert_eq!(call(BusError::NoAgent("db7".parse().unwrap())).exit(), Exit::Unreachable);
        let slow = BusError::TimedOut { what: "x".into(), after: std::time::Duration::from_secs(1) };
        let slow = call(slow);
        assert_eq!(slow.exit(), Exit::Retry);
        assert!(slow.render().contains("next:    look whether it was done"), "{}", slow.render());
    }
}
