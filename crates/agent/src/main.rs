//! The agent: a worker beside one MySQL instance that reacts to commands on the bus.

mod admission;
mod app;
mod config;
mod doctor;
mod errors;
mod guardian;
mod handler;
mod host;
mod import;
mod jobs;
mod keys;
mod load;
mod observe;
mod outputs;
mod owned;
mod prune;
mod publish;
mod queries;
mod reload;
mod schedule;
mod seal;
mod spans;
mod state;
mod streams;
mod supervised;
#[cfg(test)]
mod told_tests;
mod uploads;
mod usage;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use config::{Config, LogFormat, Overrides};
use reload::{Reload, SetLevel};
use sys::text::{Log, LogLines};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// `EX_CONFIG` of sysexits.h: the configuration cannot be used.
const EXIT_CONFIG: u8 = 78;
/// What is still under way at the end is done anew after the next start: jobs are parked and events on disk by then.
const LAST_READS: Duration = Duration::from_secs(2);
/// A thread that blocks ends so long after its last work. Idle ones take turns at what comes: with the runtime's own ten seconds, a task each
/// second keeps as many as ten of them for ever, all that a busy moment had needed (seen: 14 and 16 threads after an hour of seeds).
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Worker beside one MySQL or MariaDB instance: reacts to commands on NATS.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file [default: /etc/orchestrator-agent/agent.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set one key, over file and environment, for example --set agent.cluster=shop
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    set: Vec<(String, String)>,
    /// Check the configuration and end: 0 when it can be used, 78 when not
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What it can do besides being the agent.
#[derive(Debug, Subcommand)]
enum Command {
    /// Look at what seeds, snapshots and replicas would lack on this host, with what mends it: 0 when nothing is missing, 1 when
    /// something is, 78 when the configuration cannot be used. Needs neither the bus nor a running agent, and changes nothing
    Doctor {
        /// What is fine, too
        #[arg(long)]
        all: bool,
        /// Every finding as JSON
        #[arg(long)]
        json: bool,
    },
    /// Turn a configuration of the Go agent into one of this agent, with an account of each key: 0 when it is whole, 1 when a person has
    /// to look at something, 78 when it cannot be read. Without --into the configuration goes to stdout, and secrets nowhere
    Import {
        /// Its orchestrator-agent.conf.json
        file: PathBuf,
        /// A new directory for agent.toml, gateway.toml, scripts and secrets, to be moved to /etc/orchestrator-agent
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Import { file, into }) = &args.command {
        return import(file, into.as_deref());
    }
    let overrides = Overrides { values: args.set };
    let config = match config::load_usable(args.config.as_deref(), &overrides) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("orchestrator-agent: {}", host::chain(&error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check_config {
        println!("the configuration can be used");
        return ExitCode::SUCCESS;
    }
    if let Some(Command::Doctor { all, json }) = args.command {
        return examine(&config, all, json);
    }
    let set_level = match init_log(&config) {
        Ok(set_level) => set_level,
        Err(error) => {
            eprintln!("orchestrator-agent: log.level: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let load = Box::new(move || config::load_usable(args.config.as_deref(), &overrides));
    match run(config, Reload { load, set_level, hangup: None }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn import(file: &Path, into: Option<&Path>) -> ExitCode {
    let draft = match import::read(file) {
        Ok(draft) => draft,
        Err(error) => {
            eprintln!("orchestrator-agent: {error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let written = into.map(|dir| import::write(&draft, dir)).transpose();
    match written {
        Ok(None) => println!("{}", draft.agent_toml()),
        Ok(Some(files)) => files.iter().for_each(|file| println!("{}", file.display())),
        Err(error) => {
            eprintln!("orchestrator-agent: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    eprint!("{}", import::report(&draft));
    if import::is_whole(&draft) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine(config: &Config, all: bool, json: bool) -> ExitCode {
    let looked =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
    let findings = match looked.and_then(|runtime| runtime.block_on(doctor::here(config))) {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("orchestrator-agent: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let told = if json { doctor::json(&findings) } else { doctor::text(&findings, all) };
    println!("{told}");
    if doctor::lacks(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(config: Config, reload: Reload) -> anyhow::Result<()> {
    // Two workers serve an idle agent well; the byte path has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // From here on it no longer ends the process; what comes early is looked at once the agent serves.
        let hangup = signal(SignalKind::hangup())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
            stop.cancel();
        });
        app::run(config, Reload { hangup: Some(hangup), ..reload }, shutdown).await
    });
    runtime.shutdown_timeout(LAST_READS);
    ended
}

/// What is logged. The NATS client names neither servers nor causes; what it meets is told by the bus in its own words.
fn log_filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("async_nats=off,{level}"))
}

/// Begins to log; gives what changes the level later.
fn init_log(config: &Config) -> Result<SetLevel, tracing_subscriber::filter::ParseError> {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(log_filter(&config.log.level)?);
    let format = config.log.format;
    // Many a text of another host is logged. Without colours: their sequences could not be told from those of the text.
    let writer = move || {
        Log::new(std::io::stderr(), if format == LogFormat::Json { LogLines::Json } else { LogLines::Text })
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(Box::new(move |level| {
        let filter = log_filter(level).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}
