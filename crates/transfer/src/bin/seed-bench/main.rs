//! Measures seeds against what a DBA would use instead, on this machine, in one run, in turn.
//!
//! Every contestant moves the same tree over loopback between separate processes. Wall time runs from the first process to the
//! last byte (on disk: until it is written out); CPU time is that of all processes of both sides. Only ratios mean anything, and
//! those of CPU time more than those of wall time where the machine is busy.

mod contest;
mod dataset;
mod floor;
mod report;
mod roles;

use std::path::PathBuf;
use std::process::ExitCode;

use contest::{Contestant, Lane};

const USAGE: &str = "usage: seed-bench [--rounds N] [--large-mib N] [--small-files N] [--tmpfs DIR] [--disk DIR] [--only NAME,NAME]
                  [--docs FILE] [--json FILE]";

/// What to measure.
struct Plan {
    rounds: usize,
    large_mib: u64,
    small_files: u64,
    tmpfs: Option<PathBuf>,
    disk: Option<PathBuf>,
    only: Vec<String>,
    docs: Option<PathBuf>,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("role") => roles::run(&args[1..]),
        _ => parse(&args).and_then(|plan| measure(&plan)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("seed-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Plan, String> {
    let mut plan = Plan {
        rounds: 5,
        large_mib: 2048,
        small_files: 20_000,
        tmpfs: Some(PathBuf::from("/dev/shm")),
        disk: Some(std::env::temp_dir()),
        only: Vec::new(),
        docs: None,
        json: None,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} needs a number"));
        let dir = || (value != "none").then(|| PathBuf::from(value));
        match flag.as_str() {
            "--rounds" => plan.rounds = number()?.max(1) as usize,
            "--large-mib" => plan.large_mib = number()?,
            "--small-files" => plan.small_files = number()?,
            "--tmpfs" => plan.tmpfs = dir(),
            "--disk" => plan.disk = dir(),
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            "--docs" => plan.docs = Some(PathBuf::from(value)),
            "--json" => plan.json = Some(PathBuf::from(value)),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(plan)
}

fn measure(plan: &Plan) -> Result<(), String> {
    let mut tables = Vec::new();
    for (name, dir, on_disk) in [("tmpfs", &plan.tmpfs, false), ("disk", &plan.disk, true)] {
        let Some(dir) = dir else { continue };
        for (set, make) in dataset::sets(plan.large_mib, plan.small_files) {
            let lane = Lane::prepare(dir, on_disk, &make)?;
            let contestants: Vec<Contestant> = Contestant::all()
                .into_iter()
                .filter(|contestant| {
                    plan.only.is_empty() || plan.only.iter().any(|name| name == contestant.name())
                })
                .collect();
            tables.push(lane.run(&format!("{set}, {name}"), &contestants, plan.rounds)?);
        }
    }
    let text = report::markdown(&tables, plan.rounds);
    println!("{text}");
    if let Some(path) = &plan.docs {
        std::fs::write(path, &text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if let Some(path) = &plan.json {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        }
        std::fs::write(path, report::json(&tables))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}
