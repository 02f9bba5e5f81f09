//! Parses the command line, runs it, ends with its exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use ctl::args::{self, Cli};
use ctl::error::CtlError;
use ctl::exit::Exit;
use ctl::output::Out;
use sys::text::{Log, LogLines};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    ctl::complete::answer();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::read(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &arguments),
    };
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
    let mut exit = result.as_ref().map_or_else(CtlError::exit, |()| Exit::Ok);
    if let Err(error) = &result {
        ctl::report(&out, error);
    }
    if let Some(error) = out.take_failure() {
        out.note(&format!("error: cannot write to stdout: {error}; what was written is not whole"));
        exit = Exit::worst([exit, Exit::Failed]);
    }
    ExitCode::from(exit.code())
}

/// Help, or what is wrong with the arguments; a program that wants JSON has that as it has every other failure.
fn misused(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if error.use_stderr() && args::asks_for_json(arguments) {
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what).to_owned();
        let usage = CtlError::Usage { what, hint: Some("orchestrator-ctl --help".to_owned()) };
        Out::new(true).json_line(&serde_json::json!({"error": usage.report()}));
    }
    let printed = error.print();
    match u8::try_from(error.exit_code()) {
        Ok(code) if printed.is_ok() => ExitCode::from(code),
        _ => ExitCode::from(Exit::Failed.code()),
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "info",
        _ => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_ansi(false)
        .with_writer(|| Log::new(std::io::stderr(), LogLines::Text))
        .without_time()
        .with_target(false)
        .init();
}
