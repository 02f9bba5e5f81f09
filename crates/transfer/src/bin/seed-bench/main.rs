//! Measures seeds against what a DBA would use instead, on this machine, in one run, in turn.
//!
//! Every contestant moves the same tree between separate processes, over loopback unless the lane says otherwise. Wall time runs
//! from the first process to the last one's end (on disk: until everything is written out); CPU time is that of all
//! processes of a side. Only ratios mean anything, and those of CPU time more than those of wall time where the machine is busy.

mod claims;
mod contest;
mod dataset;
mod floor;
mod lane;
mod lanes;
mod neighbour;
mod process;
mod report;
mod roles;
mod way;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use process::failed;

const USAGE: &str =
    "usage: seed-bench [--quick] [--rounds N] [--lane TEXT] [--only NAME,NAME] [--tmpfs DIR] [--disk DIR]
                  [--docs FILE] [--json FILE]

  --quick       a tenth of the data, one round, loopback only: to see that it runs
  --lane TEXT   only lanes whose name contains TEXT
  --only NAMES  only these contestants";

/// What to measure.
struct Plan {
    quick: bool,
    rounds: Option<usize>,
    lane: String,
    only: Vec<String>,
    tmpfs: PathBuf,
    disk: PathBuf,
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
        quick: false,
        rounds: None,
        lane: String::new(),
        only: Vec::new(),
        tmpfs: PathBuf::from("/dev/shm"),
        disk: std::env::temp_dir(),
        docs: None,
        json: None,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        if flag == "--quick" {
            plan.quick = true;
            continue;
        }
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--rounds" => {
                let rounds = value.parse::<usize>().map_err(|_| "--rounds needs a number")?;
                plan.rounds = Some(rounds.max(1));
            }
            "--lane" => plan.lane.clone_from(value),
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            "--tmpfs" => plan.tmpfs = PathBuf::from(value),
            "--disk" => plan.disk = PathBuf::from(value),
            "--docs" => plan.docs = Some(PathBuf::from(value)),
            "--json" => plan.json = Some(PathBuf::from(value)),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(plan)
}

fn measure(plan: &Plan) -> Result<(), String> {
    let mut tables = Vec::new();
    let mut skipped = Vec::new();
    for mut lane in lanes::all(plan.quick) {
        if !lane.name.contains(&plan.lane) {
            continue;
        }
        lane.rounds = plan.rounds.unwrap_or(lane.rounds);
        match lane.run(&plan.tmpfs, &plan.disk, &plan.only) {
            Ok(table) => tables.push(table),
            Err(why) => {
                eprintln!("{}: skipped, because {why}", lane.name);
                skipped.push((lane.name, why));
            }
        }
    }
    let text = report::markdown(&tables, &skipped);
    println!("{text}");
    if let Some(path) = &plan.docs {
        std::fs::write(path, &text).map_err(failed(&format!("cannot write {}", path.display())))?;
    }
    if let Some(path) = &plan.json {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed(&format!("cannot make {}", dir.display())))?;
        let text = claims::json(&tables);
        std::fs::write(path, text).map_err(failed(&format!("cannot write {}", path.display())))?;
    }
    Ok(())
}
