//! Parses the command line, runs the gateway, ends with its exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gateway::config::{self, Config, LogFormat};
use sys::text::{Log, LogLines};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// `EX_CONFIG` of sysexits.h: the configuration cannot be used.
const EXIT_CONFIG: u8 = 78;
/// Nothing that still runs at the end is worth a longer wait: agents go on by themselves.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Lets orchestrator drive the fleet over the HTTP API of its own agent.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Check the configuration and end: 0 when it can be used, 78 when not
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("orchestrator-gateway: {}", sys::error::line(&error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check {
        println!("the configuration can be used");
        return ExitCode::SUCCESS;
    }
    init_log(&config);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", sys::error::line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
            asked.cancel();
        });
        gateway::run(config, stop, ready).await?;
        Ok(())
    });
    runtime.shutdown_timeout(LAST_TASKS);
    ended
}

fn ready() {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the gateway listens");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Begins to log, without colours: their sequences could not be told from those of foreign text. The level was checked before.
fn init_log(config: &Config) {
    let format = config.log.format;
    // The audit is told whatever the level.
    let filter =
        EnvFilter::try_new(format!("async_nats=off,audit=info,{}", config.log.level)).unwrap_or_default();
    let writer = move || {
        Log::new(std::io::stderr(), if format == LogFormat::Json { LogLines::Json } else { LogLines::Text })
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use testkit::told::{self, Told};

    use super::Args;

    #[test]
    fn what_pages_tell_to_type_is_understood() {
        let told = told::by_pages("orchestrator-gateway", &[]).unwrap();
        assert!(told.len() >= 3, "{told:?}");
        let line = |told: &Told| [vec!["orchestrator-gateway".to_owned()], told.arguments.clone()].concat();
        let wrong = told::misread(&told, |told| Args::try_parse_from(line(told)).map(|_| ()));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
