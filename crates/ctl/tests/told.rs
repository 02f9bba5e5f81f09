//! What pages, messages and helps tell people to type is what this program understands.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::ffi::OsString;

use clap::error::ErrorKind;
use ctl::args::Cli;
use testkit::told::{self, Told};

const PROGRAM: &str = "orchestrator-ctl";

fn verbs() -> Vec<String> {
    Cli::definition().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

fn read(arguments: &[String]) -> Result<(), clap::Error> {
    let line = [PROGRAM.to_owned()].into_iter().chain(arguments.iter().cloned());
    Cli::read(line.map(OsString::from)).map(|_| ())
}

/// Options that take their values from the environment, with what lines above have put there.
fn from_environment(told: &Told) -> Vec<String> {
    fn long_of(command: &clap::Command, variable: &str) -> Option<String> {
        let is_it = |arg: &&clap::Arg| arg.get_env().is_some_and(|name| name == variable);
        let here = command
            .get_arguments()
            .find(is_it)
            .and_then(|arg| arg.get_long())
            .map(|long| format!("--{long}"));
        here.or_else(|| command.get_subcommands().find_map(|below| long_of(below, variable)))
    }
    let definition = Cli::definition();
    let set =
        told.variables.iter().filter_map(|(name, value)| Some([long_of(&definition, name)?, value.clone()]));
    set.flatten().collect()
}

/// A command that a sentence names may leave its host away, and what its last option takes.
fn tried(told: &Told) -> Result<(), clap::Error> {
    let first = read(&told.arguments);
    let lacks = |error: &clap::Error| error.kind() == ErrorKind::MissingRequiredArgument;
    if told.is_whole && first.as_ref().is_err_and(lacks) {
        return read(&[told.arguments.clone(), from_environment(told)].concat());
    }
    if told.is_whole || first.is_ok() {
        return first;
    }
    let mut filled = told.arguments.clone();
    if first.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidValue) {
        filled.push("3".to_owned());
    }
    let mut hosted = filled.clone();
    hosted.insert(hosted.len().min(1), "HOST".to_owned());
    read(&filled).or_else(|error| read(&hosted).map_err(|_| error))
}

#[track_caller]
fn all_understood(told: &[Told], at_least: usize) {
    assert!(told.len() >= at_least, "only {} commands were found: is something no longer read?", told.len());
    let wrong = told::misread(told, tried);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), told.len(), wrong.join("\n"));
}

#[test]
fn what_pages_tell_to_type_is_understood() {
    let verbs = verbs();
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    all_understood(&told::by_pages(PROGRAM, &verbs).unwrap(), 200);
}

#[test]
fn what_messages_tell_to_type_is_understood() {
    let verbs = verbs();
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    let sources = ["agent", "bus", "ctl", "gateway", "job", "mysql", "protocol", "snapshot", "transfer"];
    let directories = sources.map(|name| format!("crates/{name}/src"));
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    let mut told = told::by_messages(&directories, PROGRAM, &verbs).unwrap();
    told.retain(|told| !WITHIN_A_NAME.iter().any(|known| told.place.starts_with(known)));
    all_understood(&told, 40);
    // Who copies it out of a message has no program in front of it otherwise.
    let bare: Vec<String> = told
        .iter()
        .filter(|told| !told.text.starts_with(PROGRAM))
        .map(|told| format!("{}: {}", told.place, told.text))
        .collect();
    assert!(bare.is_empty(), "without {PROGRAM} in front:\n{}", bare.join("\n"));
}

/// Files whose messages name subcommands to people who read a page, not a terminal.
const WITHIN_A_NAME: [&str; 1] = ["crates/snapshot/src/error.rs"];

/// Whether each help names only what there is.
#[test]
fn what_helps_tell_to_type_is_understood() {
    fn helps(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        for help in [command.get_about(), command.get_long_about(), command.get_after_help()] {
            found.extend(help.map(|help| (path.to_owned(), help.to_string())));
        }
        for arg in command.get_arguments() {
            let help = arg.get_long_help().or(arg.get_help());
            found.extend(help.map(|help| (format!("{path} {}", arg.get_id()), help.to_string())));
        }
        command
            .get_subcommands()
            .for_each(|below| helps(below, &format!("{path} {}", below.get_name()), found));
    }
    let mut found = Vec::new();
    helps(&Cli::definition(), PROGRAM, &mut found);
    let verbs = verbs();
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    let told: Vec<Told> =
        found.iter().flat_map(|(place, text)| told::by_text(place, text, PROGRAM, &verbs)).collect();
    all_understood(&told, 60);
}
