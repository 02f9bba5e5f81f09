//! Parses the command line, runs it, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use ctl::args::Cli;
use ctl::error::CtlError;
use ctl::exit::Exit;
use ctl::output::Out;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Out::new(cli.global.json);
    log_to_stderr(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out.note(&format!("error: cannot start: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let result = runtime.block_on(ctl::commands::run(cli, out.clone()));
    // Nothing that still runs in the background is worth waiting for.
    runtime.shutdown_background();
    let exit = result.as_ref().map_or_else(CtlError::exit, |()| Exit::Ok);
    if let Err(error) = &result {
        ctl::report(&out, error);
    }
    ExitCode::from(exit.code())
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "info",
        _ => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
