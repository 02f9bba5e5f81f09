//! What pages and messages tell people to type is what this program understands.

use clap::Parser as _;
use testkit::told::{self, Told};

use super::Args;

const PROGRAM: &str = "orchestrator-agent";

#[track_caller]
fn all_understood(told: &[Told], at_least: usize) {
    assert!(told.len() >= at_least, "only {} commands were found: is something no longer read?", told.len());
    let read = |told: &Told| {
        Args::try_parse_from([PROGRAM].into_iter().chain(told.arguments.iter().map(String::as_str)))
            .map(|_| ())
    };
    let wrong = told::misread(told, read);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), told.len(), wrong.join("\n"));
}

#[test]
fn what_pages_tell_to_type_is_understood() {
    all_understood(&told::by_pages(PROGRAM, &[]).unwrap(), 6);
}

/// What they name are connections, for who looks at the server's monitoring.
const CONNECTIONS: [&str; 2] = ["crates/agent/src/doctor/here.rs", "crates/agent/src/jobs/store.rs"];

#[test]
fn what_messages_tell_to_type_is_understood() {
    let directories = ["agent", "bus", "ctl", "gateway", "mysql"].map(|name| format!("crates/{name}/src"));
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    let mut told = told::by_messages(&directories, PROGRAM, &[]).unwrap();
    told.retain(|told| !CONNECTIONS.iter().any(|file| told.place.starts_with(file)));
    all_understood(&told, 1);
}
