//! What a shell asks when a person presses Tab: commands and options from the command line's own description, and the names of hosts
//! from the bus.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;

use crate::args::Cli;
use crate::output::Out;
use crate::session::Session;

/// Its value names the shell that asks.
const VARIABLE: &str = "ORCH_COMPLETE";
/// A person at a prompt waits no longer.
const LIMIT: Duration = Duration::from_millis(1_500);
/// Arguments that name hosts.
const HOSTS: [&str; 5] = ["host", "hosts", "recipient", "recipients", "from"];

/// Answers a shell that asks, and ends the process then.
pub fn answer() {
    CompleteEnv::with_factory(|| with_hosts(Cli::definition())).var(VARIABLE).complete();
}

/// What lets a shell ask; `None` for one that cannot.
#[must_use]
pub fn registration(shell: &str) -> Option<Vec<u8>> {
    let shells = Shells::builtins();
    let mut script = Vec::new();
    let name = Cli::definition().get_name().to_owned();
    shells.completer(shell)?.write_registration(VARIABLE, &name, &name, &name, &mut script).ok()?;
    Some(script)
}

fn with_hosts(command: Command) -> Command {
    let names_hosts = |arg: &clap::Arg| HOSTS.contains(&arg.get_id().as_str());
    command
        .mut_args(|arg| if names_hosts(&arg) { arg.add(ArgValueCompleter::new(hosts)) } else { arg })
        .mut_subcommands(with_hosts)
}

/// Hosts whose names begin so. A bus that does not answer soon has none.
fn hosts(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let asked = async {
        // What the environment says of the bus; options on the line are not read.
        let line = ["orchestrator-ctl", "fleet"].map(Into::into);
        let global = Cli::read(line).ok()?.global;
        Session::open(global, Out::new(false)).await.ok()?.fleet().await.ok()
    };
    let fleet = runtime.block_on(async { tokio::time::timeout(LIMIT, asked).await });
    runtime.shutdown_background();
    let mut found: Vec<_> = fleet.ok().flatten().unwrap_or_default();
    found.sort_by(|a, b| a.agent.cmp(&b.agent));
    found.retain(|beat| beat.agent.as_str().starts_with(begun) && is_plain(beat.agent.as_str()));
    found
        .iter()
        .map(|beat| {
            let about = sys::text::line(&format!("{} in {}", beat.cluster, beat.dc)).into_owned();
            CompletionCandidate::new(beat.agent.as_str()).help(Some(about.into()))
        })
        .collect()
}

/// Whether a shell takes it as one word and as nothing else: a name that a stranger chose comes to stand on a person's line.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_that_a_shell_would_act_on_is_offered() {
        for name in ["db1", "db1.example.com:3307", "DB_2"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["$(id)", "db1;id", "-rf", "a b", "db\u{1b}[2J", "`id`", "~root", "db*"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn every_argument_that_names_a_host_asks_for_hosts() {
        fn walk(command: &Command, found: &mut Vec<String>) {
            let asks = |arg: &&clap::Arg| arg.get::<ArgValueCompleter>().is_some();
            let path = command.get_name().to_owned();
            found.extend(command.get_arguments().filter(asks).map(|arg| format!("{path} {}", arg.get_id())));
            command.get_subcommands().for_each(|below| walk(below, found));
        }
        let mut found = Vec::new();
        walk(&with_hosts(Cli::definition()), &mut found);
        for wanted in [
            "start recipients",
            "start from",
            "watch recipient",
            "doctor hosts",
            "create host",
            "events host",
        ] {
            assert!(found.iter().any(|name| name == wanted), "{wanted} is not among {found:?}");
        }
    }
}
