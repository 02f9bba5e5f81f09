//! Host and verb in either order: `mysql db1 start` and `mysql start db1` are the same line, and so are `seed start db7` and
//! `seed db7 start`. People bring one habit or the other from their other tools.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Stands for the host where only the help of a verb is asked for.
const ANY_HOST: &str = "HOST";

/// The arguments in the order of the definition. Lines that make sense as they are stay as they are.
pub(super) fn settled(definition: &Command, mut arguments: Vec<OsString>) -> Vec<OsString> {
    let words = words(definition, &arguments);
    let (Some(&family), Some(&first)) = (words.first(), words.get(1)) else { return arguments };
    let named = |at: usize, within: &Command| {
        arguments[at].to_str().and_then(|name| within.find_subcommand(name).cloned())
    };
    let Some(family) = named(family, definition) else { return arguments };
    let is_verb = |at: usize| named(at, &family).is_some();
    let is_host_first = family.get_positionals().next().is_some();
    // `seed help start` is a question, not a host of that name.
    if is_verb(first) != is_host_first || arguments[first] == "help" {
        return arguments;
    }
    match words.get(2) {
        Some(&second) if is_verb(second) != is_host_first => arguments.swap(first, second),
        None if is_host_first
            && arguments.iter().any(|argument| argument == "--help" || argument == "-h") =>
        {
            arguments.insert(first, ANY_HOST.into());
        }
        _ => {}
    }
    arguments
}

/// Where the first words stand that are neither the program, nor options, nor what options take.
fn words(definition: &Command, arguments: &[OsString]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut is_value = false;
    for (index, argument) in arguments.iter().enumerate().skip(1) {
        let text = argument.to_str().unwrap_or_default();
        if std::mem::take(&mut is_value) {
            continue;
        }
        match text {
            "--" => break,
            "-" => found.push(index),
            option if option.starts_with('-') => is_value = takes_value(definition, option),
            _ => found.push(index),
        }
    }
    found
}

/// Whether the next argument is this option's value.
fn takes_value(command: &Command, option: &str) -> bool {
    let is_it = |arg: &&Arg| match option.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| option == format!("-{short}")),
    };
    command.get_arguments().filter(is_it).any(|arg| arg.get_action().takes_values())
        || command.get_subcommands().any(|below| takes_value(below, option))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    fn settled_line(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from).collect();
        let settled = settled(&Cli::definition(), arguments);
        settled.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn host_and_verb_change_places_where_they_stand_the_other_way_round() {
        for (typed, meant) in [
            ("ctl mysql start db1", "ctl mysql db1 start"),
            (
                "ctl --timeout 5s mysql -o json restart db1 --detach",
                "ctl --timeout 5s mysql -o json db1 restart --detach",
            ),
            ("ctl jobs list db1 -n 5", "ctl jobs db1 list -n 5"),
            ("ctl jobs -n 5 list db1", "ctl jobs -n 5 db1 list"),
            ("ctl binlog apply db1 -", "ctl binlog db1 apply -"),
            ("ctl snapshot db1 list", "ctl snapshot list db1"),
            ("ctl seed db7 start --from db1", "ctl seed start db7 --from db1"),
            ("ctl mysql start --help", "ctl mysql HOST start --help"),
        ] {
            assert_eq!(settled_line(typed), meant);
        }
    }

    #[test]
    fn what_makes_sense_as_it_is_stays() {
        for line in [
            "ctl mysql db1 start",
            "ctl mysql start stop",
            "ctl mysql start",
            "ctl mysql --help",
            "ctl mysql help start",
            "ctl seed start db7",
            "ctl seed start list",
            "ctl seed help start",
            "ctl snapshot find shop",
            "ctl doctor db1 db2",
            "ctl raw db1 agent.info",
            "ctl mysql -- start db1",
            "ctl nonsense start db1",
            "ctl",
        ] {
            assert_eq!(settled_line(line), line);
        }
    }
}
