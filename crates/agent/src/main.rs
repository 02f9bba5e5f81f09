//! The agent: a worker beside one MySQL instance that reacts to commands on the bus.

mod admission;
mod app;
mod config;
mod errors;
mod guardian;
mod handler;
mod host;
mod jobs;
mod load;
mod observe;
mod publish;
mod queries;
mod schedule;
mod streams;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Config, LogFormat, Overrides};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// `EX_CONFIG` of sysexits.h: the configuration cannot be used.
const EXIT_CONFIG: u8 = 78;

/// Worker beside one MySQL or MariaDB instance: reacts to commands on NATS.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file [default: /etc/orchestrator-agent/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over file and environment, for example --set agent.cluster=shop
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Check the configuration and end: 0 when it can be used, 78 when not
    #[arg(long)]
    check_config: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let overrides = Overrides { values: args.set };
    let config = match config::load(args.config.as_deref(), &overrides) {
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
    if let Err(error) = init_log(&config) {
        eprintln!("orchestrator-agent: log.level: {error}");
        return ExitCode::from(EXIT_CONFIG);
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // Two workers serve an idle agent well; the byte path has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
            stop.cancel();
        });
        app::run(config, shutdown).await
    })
}

fn init_log(config: &Config) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&config.log.level)?;
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match config.log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
