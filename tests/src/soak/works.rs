//! What a person does on a host while others are seeded: short chains of ctl commands.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::plan::{Chore, HOSTS};
use crate::world::{self, PATIENCE};

/// Where a second server listens; each host has ports of its own.
const PORT: &str = "3307";

/// How a chain of commands ended: with the last one's words where it was refused or failed.
#[derive(Debug)]
pub struct Done {
    /// Where.
    pub at: usize,
    /// What.
    pub chore: Chore,
    /// Exit code and words of the command that failed.
    pub failure: Option<(Option<i32>, String)>,
}

impl Done {
    /// Whether something else had what it needed, or a guard refused it: codes 3 and 6 of ctl.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        matches!(self.failure, Some((Some(3 | 6), _)))
    }
}

/// Begins a chain.
#[must_use]
pub fn begin(url: String, at: usize, chore: Chore) -> JoinHandle<Done> {
    tokio::spawn(async move {
        let failure = run(&url, HOSTS[at], chore).await.err();
        Done { at, chore, failure }
    })
}

type Failure = (Option<i32>, String);

async fn run(url: &str, host: &str, chore: Chore) -> Result<(), Failure> {
    if chore == Chore::Restart {
        return ctl(url, &["mysql", host, "restart"]).await.map(|_| ());
    }
    let made = ctl(url, &["--json", "snapshot", "create", host]).await?;
    let snapshot = made_by(&made).ok_or((None, format!("no snapshot is named in {made}")))?;
    match chore {
        Chore::Prove => {
            ctl(url, &["snapshot", "verify", host, &snapshot, "--budget", "5s"]).await?;
        }
        Chore::Mount => {
            ctl(url, &["snapshot", "mount", host, &snapshot]).await?;
            ctl(url, &["snapshot", "unmount", host, &snapshot]).await?;
        }
        Chore::Serve => {
            ctl(url, &["mysql", host, "start", "--on-snapshot", &snapshot, "--port", PORT]).await?;
            ctl(url, &["mysql", host, "stop", "--on-snapshot", &snapshot]).await?;
        }
        Chore::Leave | Chore::Restart => return Ok(()),
    }
    ctl(url, &["snapshot", "remove", host, &snapshot]).await.map(|_| ())
}

async fn ctl(url: &str, words: &[&str]) -> Result<String, Failure> {
    let output = tokio::time::timeout(2 * PATIENCE, world::ctl_command(url, words).output()).await;
    let output = output.unwrap_or_else(|_| panic!("ctl {words:?} does not end")).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err((
        output.status.code(),
        format!("ctl {}: {}{}", words.join(" "), text(&output.stdout), text(&output.stderr)),
    ))
}

/// The id of the snapshot that a job has made, from ctl's lines of JSON.
fn made_by(lines: &str) -> Option<String> {
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = |line: Value| Some(line.pointer("/view/result/id")?.as_str()?.to_owned());
    lines.filter_map(of).next_back()
}

/// How often which chain ended how, for the report.
pub type Tally = BTreeMap<String, u64>;
