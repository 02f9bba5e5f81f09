//! A line to copy below each subcommand's help.

use clap::Command;

/// Subcommands, and what a person would type.
const EXAMPLES: [(&str, &[&str]); 59] = [
    ("fleet", &["fleet", "fleet --watch --cluster shop"]),
    ("doctor", &["doctor", "doctor db1 db7 --all"]),
    ("host info", &["host db1 info"]),
    ("host status", &["host db1 status -o json"]),
    ("host disk-free", &["host db1 disk-free /var/lib/mysql"]),
    ("host disk-usage", &["host db1 disk-usage /var/lib/mysql --fresh"]),
    ("host volumes", &["host db1 volumes '^vg0/mysql'"]),
    ("mysql info", &["mysql db1 info"]),
    (
        "mysql start",
        &["mysql db1 start", "mysql db1 start --on-snapshot vg0/mysql-20261122T221500Z --port 3307"],
    ),
    ("mysql stop", &["mysql db1 stop", "mysql db1 stop --on-snapshot vg0/mysql-20261122T221500Z"]),
    ("mysql restart", &["mysql db1 restart --queue 2h"]),
    ("mysql error-log", &["mysql db1 error-log -n 50"]),
    ("mysql disk-usage", &["mysql db1 disk-usage --fresh"]),
    ("mysql disk-free", &["mysql db1 disk-free"]),
    ("snapshot list", &["snapshot list db1 --usable"]),
    ("snapshot create", &["snapshot create db1 --keep 7d"]),
    ("snapshot remove", &["snapshot remove db1 vg0/mysql-20261122T221500Z"]),
    ("snapshot mount", &["snapshot mount db1", "snapshot mount db1 vg0/mysql-20261122T221500Z --writable"]),
    ("snapshot unmount", &["snapshot unmount db1"]),
    ("snapshot mounts", &["snapshot mounts db1"]),
    ("snapshot verify", &["snapshot verify db1 vg0/mysql-20261122T221500Z --budget 10m"]),
    ("snapshot find", &["snapshot find shop --dc dc1"]),
    ("datadir clear", &["--yes datadir db7 clear --datadir /var/lib/mysql"]),
    ("datadir post-copy", &["datadir db7 post-copy"]),
    ("binlog files", &["binlog db1 files"]),
    ("binlog relay-files", &["binlog db7 relay-files"]),
    ("binlog relay-end", &["binlog db7 relay-end"]),
    ("binlog text", &["binlog db1 text binlog.000007 --start 4 --stop 12000"]),
    ("binlog binary", &["binlog db1 binary binlog.000007 >binlog.000007"]),
    ("binlog apply", &["binlog db7 apply binlog.000007"]),
    ("custom list", &["custom db1 list"]),
    ("custom run", &["custom db1 run top"]),
    ("jobs list", &["jobs db1 list --unfinished"]),
    ("jobs show", &["jobs db1 show 74dffcab"]),
    ("jobs watch", &["jobs db1 watch 74dffcab"]),
    ("jobs abort", &["jobs db1 abort 74dffcab"]),
    ("seed plan", &["seed plan db7", "seed plan db7 db8 --from db1 --stop-mysql"]),
    (
        "seed start",
        &[
            "seed start db7 --stop-mysql --keep-old 2h",
            "seed start db7 --from db1 --replicate-from db1:3306",
            "seed start db4 db5 db6 --from db1 --throttle 100M",
        ],
    ),
    ("seed watch", &["seed watch db7"]),
    ("seed abort", &["seed abort db7"]),
    ("seed show", &["seed show db7", "seed show db7 74dffcab"]),
    ("seed throttle", &["seed throttle db7 80M", "seed throttle db7 off"]),
    ("seed list", &["seed list -n 10", "seed list db7 --unfinished"]),
    ("seed kept", &["seed kept"]),
    ("seed undo", &["seed undo db7"]),
    ("events", &["events -n 20", "events --follow --since 2h --kind snapshot"]),
    ("raw", &[r#"raw db1 mysql.error-log '{"lines": 3}'"#]),
    ("key generate", &["key generate ~/.config/orch.nk --for login,signing"]),
    ("key pin", &["key pin --host-keys ~/.config/orch-hosts.keys"]),
    ("key show", &["key show ~/.config/orch.nk"]),
    ("bus status", &["bus status"]),
    ("bus config", &["bus config --agent db1=U… --controller dba=U… >/etc/nats/accounts.conf"]),
    ("bus setup", &["bus setup --events-size 4GiB --events-keep 180d"]),
    ("bus init", &["bus init ~/orch-keys --store /var/lib/nats/jwt"]),
    ("bus user", &["bus user --keys ~/orch-keys --agent db1 --controller alice --valid 365d"]),
    ("bus revoke", &["bus revoke --keys ~/orch-keys db1"]),
    ("bus push", &["bus push --keys ~/orch-keys"]),
    ("completions", &["completions bash >~/.local/share/bash-completion/completions/orchestrator-ctl"]),
    ("man", &["man ~/.local/share/man/man1"]),
];

/// Adds them to the help of each subcommand, below what it says already.
pub(super) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, lines)| {
        let path: Vec<&str> = path.split(' ').collect();
        add(command, &path, lines)
    })
}

fn add(command: Command, path: &[&str], lines: &[&str]) -> Command {
    if let [first, below @ ..] = path {
        // A name that is no subcommand would panic there; each is tried by a test.
        return command.mut_subcommand(first, |command| add(command, below, lines));
    }
    let mut help = command.get_after_help().map(|before| format!("{before}\n\n")).unwrap_or_default();
    help.push_str(if lines.len() == 1 { "Example:" } else { "Examples:" });
    for line in lines {
        help.push_str(&format!("\n  orchestrator-ctl {line}"));
    }
    command.after_help(help)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::args::Cli;

    fn leaves(command: &Command, path: &str, found: &mut BTreeSet<String>) {
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name()).trim_start().to_owned();
            if below.has_subcommands() {
                leaves(below, &path, found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn each_subcommand_has_an_example_in_its_help_that_is_a_line_of_its_own() {
        let mut wanted = BTreeSet::new();
        leaves(&Cli::definition(), "", &mut wanted);
        let present: BTreeSet<String> = EXAMPLES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(present, wanted);
        for (path, lines) in EXAMPLES {
            for line in lines {
                // What a shell takes away before the program sees it.
                let words = line.split(" >").next().unwrap().replace("U…", KEY);
                let words = words.replace(": 3", ":3").replace('\'', "");
                let cli = Cli::read(format!("ctl {words}").split_whitespace().map(Into::into));
                let cli = cli.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(cli.spoken, path, "{line}");
            }
        }
    }

    /// Any public key of a user.
    const KEY: &str = "UCIAFD6QLPBQJV2B77BRROJEFKHYC6WMBI4J6XVG7LM6BZWAZNHVJSSX";

    #[test]
    fn an_example_stands_below_what_a_help_says_already() {
        let mut pin = Cli::definition();
        let pin = pin.find_subcommand_mut("key").unwrap().find_subcommand_mut("pin").unwrap();
        let help = pin.render_help().to_string();
        let at = |words: &str| help.find(words).unwrap_or_else(|| panic!("no {words}: {help}"));
        assert!(at("To be sure of a key") < at("Example:\n  orchestrator-ctl key pin"), "{help}");
    }
}
