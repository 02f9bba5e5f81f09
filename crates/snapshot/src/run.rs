//! The tools of snapshots: no shell, none of the agent's environment, what they print is in the C locale.

use std::collections::BTreeMap;
use std::time::Duration;

use sys::process::{Limits, Output, Program};

use crate::Error;

/// More than 10,000 volumes print; what comes after it is read and dropped, so that the tool does not block.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// Runs a tool to its end; nothing of the environment is inherited. A failure status is not an error here: see [`Output::success`].
pub(crate) fn run(
    argv: &[String],
    environment: &BTreeMap<String, String>,
    time: Duration,
) -> Result<Output, Error> {
    let quiet = [("LVM_SUPPRESS_FD_WARNINGS", "1")].into_iter();
    let program = Program::from_argv(argv)?.called(display_name(argv)).only_environment(
        quiet.chain(environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
    );
    let output = program.run_blocking(&Limits { time, output_bytes: MAX_OUTPUT_BYTES })?;
    tracing::debug!(tool = %display_name(argv), status = ?output.status.code(), "ran");
    Ok(output)
}

/// Program and sub-command, without parameters that may be long.
fn display_name(argv: &[String]) -> String {
    let base = argv[0].rsplit('/').next().unwrap_or(&argv[0]);
    match argv.get(1).filter(|_| base == "btrfs") {
        Some(sub) => format!("{base} {sub}"),
        None => base.to_owned(),
    }
}

/// Arguments as owned text.
pub(crate) fn argv<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}
