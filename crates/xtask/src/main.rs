//! Developer tasks: `cargo run -p xtask -- --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{layering, mutants, repository, schemas, tidy};

#[derive(Debug, Parser)]
#[command(about = "Developer tasks of this repository")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check that crates lean only on the crates that they may know
    Layering,
    /// Write schemas/, docs/commands.md and docs/configuration.md from the code
    Schemas {
        /// Write nothing; fail when they and the code differ
        #[arg(long)]
        check: bool,
    },
    /// Check what neither rustfmt nor clippy sees: file lengths, unfinished code, sleeping tests, paths of one machine
    Tidy,
    /// Take the mends that tests/mutants.toml names out of a copy, and see their tests red
    Mutants {
        /// Only this set
        #[arg(long)]
        set: Option<u32>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let root = repository();
    let findings = match Args::parse().task {
        Task::Layering => layering::check(&root)?,
        Task::Schemas { check: true } => schemas::check(&root)?,
        Task::Schemas { check: false } => {
            println!("wrote {} files below schemas/ and docs/", schemas::write(&root)?);
            Vec::new()
        }
        Task::Tidy => tidy::check(&root)?,
        Task::Mutants { set } => mutants::run(&root, set)?,
    };
    for finding in &findings {
        eprintln!("{finding}");
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
