//! The command line: what a person may type. Nothing here talks to the bus.

mod accounts;
mod examples;
mod global;
mod host;
mod job;
mod order;
mod seed;

use std::ffi::OsString;
use std::path::PathBuf;

use bus::permissions::{AgentUser, NamedUser};
use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use protocol::event::EventData;
use protocol::ids::AgentId;

pub use accounts::{InitArgs, PushArgs, RevokeArgs, UserArgs};
pub use global::{Form, Global, asks_for_json};
pub use host::{BinlogCmd, CustomCmd, DatadirCmd, HostCmd, JobsCmd, LogRange, MysqlCmd, SnapshotCmd};
pub use job::JobRef;
pub use seed::{CompressionArg, DonorArgs, RunArgs, SeedCmd, SeedOptionArgs, WatchArgs};

use crate::{exit, suggest, units};

/// Finds the fleet, publishes commands, plans and watches seeds, reads events. Keeps no state: killing it never
/// harms a seed.
#[derive(Debug, Parser)]
#[command(name = "orchestrator-ctl", version, after_help = exit::TABLE, max_term_width = 110)]
pub struct Cli {
    /// Options of every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Cmd,
    /// The names of the subcommands, such as `seed start`.
    #[arg(skip)]
    pub spoken: String,
}

impl Cli {
    /// The command line as help, man pages and shells have it: with examples.
    #[must_use]
    pub fn definition() -> Command {
        examples::with_examples(Self::command())
    }

    /// Reads the command line, host and verb in either order.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let definition = Self::definition();
        let arguments = order::settled(&definition, arguments.into_iter().collect());
        let matches = definition.try_get_matches_from(arguments)?;
        let mut names = Vec::new();
        let mut below = matches.subcommand();
        while let Some((name, matches)) = below {
            names.push(name);
            below = matches.subcommand();
        }
        let mut cli = Self { spoken: names.join(" "), ..Self::from_arg_matches(&matches)? };
        cli.global.settle_form()?;
        Ok(cli)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Cmd {
    /// All hosts: MySQL, snapshots, space, jobs; stale and missing ones too
    Fleet(FleetArgs),
    /// What hosts lack for seeds, snapshots and replicas, each with what mends it; ends with 1 when something is missing
    Doctor(DoctorArgs),
    /// One host: what it is, its state, disks and volumes
    Host(Targeted<HostCmd>),
    /// A host's MySQL: state, service, error log, space
    Mysql(Targeted<MysqlCmd>),
    /// Snapshots: list, create, remove, mount, verify, find in the fleet
    #[command(subcommand)]
    Snapshot(SnapshotCmd),
    /// A host's data directory
    Datadir(Targeted<DatadirCmd>),
    /// A host's binary and relay logs
    Binlog(Targeted<BinlogCmd>),
    /// The commands that a host's configuration allows
    Custom(Targeted<CustomCmd>),
    /// A host's jobs
    Jobs(Targeted<JobsCmd>),
    /// Seeds: plan, start, watch, abort, show, throttle, undo
    #[command(subcommand)]
    Seed(SeedCmd),
    /// What happened in the fleet, from the durable stream
    Events(EventsArgs),
    /// Sends any command with parameters given as JSON
    Raw(RawArgs),
    /// Keys that sign commands and log in to NATS
    #[command(subcommand)]
    Key(KeyCmd),
    /// Configuration of the bus itself
    #[command(subcommand)]
    Bus(BusCmd),
    /// Prints what lets a shell complete commands, options and the names of hosts: `source <(orchestrator-ctl completions bash)`
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Writes a man page for each command into a directory
    Man {
        /// Where they go; made when it is missing
        dir: PathBuf,
    },
}

/// A host and what to do on it.
#[derive(Debug, Args)]
pub struct Targeted<C: Subcommand> {
    /// The host as the fleet knows it
    pub host: AgentId,
    /// What to do there
    #[command(subcommand)]
    pub command: C,
}

/// Which hosts to show.
#[derive(Debug, Args)]
pub struct FleetArgs {
    /// Stay and show changes as they come
    #[arg(long, short)]
    pub watch: bool,
    /// Only this cluster
    #[arg(long)]
    pub cluster: Option<String>,
    /// Only this data centre
    #[arg(long)]
    pub dc: Option<String>,
}

/// Which hosts to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Hosts as the fleet knows them [default: all that answer]
    pub hosts: Vec<AgentId>,
    /// Show what is as it should be too
    #[arg(long, short)]
    pub all: bool,
}

/// Which events.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Stay and show events as they come
    #[arg(long, short)]
    pub follow: bool,
    /// From this time on: 2026-11-22T10:00:00Z, "2026-11-22 10:00", or 2h (ago) [default: all, or from now with --follow]
    #[arg(long, value_name = "TIME", value_parser = units::parse_since)]
    pub since: Option<Timestamp>,
    /// Only this cluster
    #[arg(long)]
    pub cluster: Option<String>,
    /// Only this host
    #[arg(long)]
    pub host: Option<AgentId>,
    /// Only this kind or family: snapshot, job.finished, …
    #[arg(long, value_parser = parse_kind)]
    pub kind: Option<String>,
    /// Only the last N of them
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "follow", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// A command as it is.
#[derive(Debug, Args)]
pub struct RawArgs {
    /// The host as the fleet knows it
    pub host: AgentId,
    /// The command's name, family.verb
    pub command: String,
    /// Its parameters, a JSON object
    #[arg(default_value = "{}")]
    pub params: String,
}

/// Keys.
#[derive(Debug, Subcommand)]
pub enum KeyCmd {
    /// Makes a key: the secret seed into FILE (mode 0600), the public key on stdout
    Generate {
        /// Where the seed goes; must not exist
        file: PathBuf,
        /// What the key is for; both for a person who logs in and signs with one key
        #[arg(long = "for", value_enum, value_delimiter = ',', value_name = "USE")]
        uses: Vec<KeyUse>,
    },
    /// Writes down the keys that hosts sign their replies with, into the file of --host-keys
    #[command(
        after_help = "To be sure of a key compare it with what `orchestrator-ctl key show /var/lib/orchestrator-agent/reply.nk` prints on the host."
    )]
    Pin {
        /// Hosts as the fleet knows them [default: all that answer]
        hosts: Vec<AgentId>,
        /// Take another key than the file has, of a host that was rebuilt
        #[arg(long, requires = "hosts")]
        replace: bool,
    },
    /// Shows the public key of a seed file
    Show {
        /// The seed file
        file: PathBuf,
    },
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyUse {
    /// Logs an agent or a person in to NATS
    Login,
    /// Signs commands, which agents obey
    Signing,
}

/// The bus itself.
#[derive(Debug, Subcommand)]
pub enum BusCmd {
    /// What is kept on which servers, what stands still and what goes with each server; fails when something is wrong
    Status,
    /// Writes nats-server accounts, users and permissions with least privilege
    Config(BusConfigArgs),
    /// Makes the streams of events and of queued commands where they are missing, and has them kept by more servers where the
    /// cluster has grown; a controller may
    Setup(BusSetupArgs),
    /// Makes an operator's keys and what servers include, so that hosts join without a word to any server; needs no bus
    Init(InitArgs),
    /// Makes credentials files for hosts and people with the rights of their role; needs no bus
    User(UserArgs),
    /// Has servers let in no longer what was made for these names, and cuts them off
    Revoke(RevokeArgs),
    /// Tells servers the account as it is now, after `revoke --offline` or with another version of this program
    Push(PushArgs),
}

/// How a stream of events is made where there is none; one that exists keeps its limits.
#[derive(Debug, Args)]
pub struct BusSetupArgs {
    /// Bytes of events kept, the oldest go first; the server sets them aside at once
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = units::parse_size)]
    pub events_size: u64,
    /// How long an event is kept
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = units::parse_seconds)]
    pub events_keep: u64,
    /// How many servers keep each stream: auto (three where the cluster has as many, else one), 1, 3 or 5
    #[arg(long, default_value = "auto", value_name = "N")]
    pub replicas: bus::Replicas,
}

/// Whom the configuration knows.
#[derive(Debug, Args)]
pub struct BusConfigArgs {
    /// An agent and its public nkey; repeat it
    #[arg(long = "agent", value_name = "HOST=KEY", value_parser = parse_agent)]
    pub agents: Vec<AgentUser>,
    /// Someone who runs the fleet, and their public nkey; repeat it
    #[arg(long = "controller", value_name = "NAME=KEY", value_parser = parse_named)]
    pub controllers: Vec<NamedUser>,
    /// Someone who only reads events and heartbeats, and their public nkey; repeat it
    #[arg(long = "auditor", value_name = "NAME=KEY", value_parser = parse_named)]
    pub auditors: Vec<NamedUser>,
    /// One account per agent: another's subjects do not exist for it
    #[arg(long)]
    pub strict: bool,
}

fn parse_agent(text: &str) -> Result<AgentUser, String> {
    let (agent, key) = text.split_once('=').ok_or_else(|| format!("{text:?} is not HOST=KEY"))?;
    let agent = agent.parse().map_err(|e: protocol::ids::InvalidId| e.to_string())?;
    Ok(AgentUser { agent, key: parse_public_key(key)? })
}

fn parse_named(text: &str) -> Result<NamedUser, String> {
    let (name, key) = text.split_once('=').ok_or_else(|| "it is not NAME=KEY".to_owned())?;
    Ok(NamedUser { name: name.to_owned(), key: parse_public_key(key)? })
}

fn parse_public_key(text: &str) -> Result<String, String> {
    nkeys::KeyPair::from_public_key(text)
        .map_err(|_| "it is no public nkey (U…); `orchestrator-ctl key show FILE` prints it".to_owned())
        .map(|key| key.public_key())
}

/// A kind of events, or what all of a family have in common; a mistyped one would be waited for in vain.
fn parse_kind(text: &str) -> Result<String, String> {
    let families = EventData::KINDS.iter().filter_map(|kind| Some(kind.split_once('.')?.0));
    let mut known: Vec<&str> = EventData::KINDS.into_iter().chain(families).collect();
    if text.contains('*') || known.contains(&text) {
        return Ok(text.to_owned());
    }
    known.dedup();
    let near = suggest::hint(text, known.iter().copied());
    Err(near.unwrap_or_else(|| format!("the kinds are {}", EventData::KINDS.join(", "))))
}

#[cfg(test)]
mod tests;
