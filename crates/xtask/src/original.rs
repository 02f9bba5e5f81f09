//! The endpoints of the HTTP agent that this project succeeds, each with its command and the test that shows it.
//!
//! The test must be there: a row whose test was renamed or removed is a finding.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use protocol::command::Command;

/// One endpoint below `/api/`.
struct Endpoint {
    path: &'static str,
    command: &'static str,
    /// File and function of a test that runs the command on a real agent beside a real MariaDB.
    test: &'static str,
    /// What is otherwise than it was.
    now: &'static str,
}

const SELF: &str = "tests/tests/wire/original.rs::a_host_tells_of_itself_its_disks_and_its_server";
const SNAPSHOTS: &str =
    "tests/tests/wire/original.rs::a_snapshot_is_made_found_mounted_unmounted_and_removed";
const LOGS: &str = "tests/tests/wire/original.rs::logs_are_listed_read_as_text_and_bytes_and_applied";
const SERVICE: &str =
    "tests/tests/wire/original.rs::the_service_is_stopped_and_started_and_a_stopped_datadir_cleared";
const CUSTOM: &str =
    "tests/tests/wire/original.rs::a_custom_command_is_bounded_and_ended_with_all_its_children";
const VOLUMES: &str = "tests/tests/vm_seed.rs::volumes_are_listed_by_pattern";
const SEED: &str = "tests/tests/seed.rs::ctl_seeds_a_host_while_a_writer_goes_on";
const ABORT: &str = "tests/tests/seed.rs::an_abort_frees_both_hosts_and_a_new_seed_succeeds";

const fn row(path: &'static str, command: &'static str, test: &'static str, now: &'static str) -> Endpoint {
    Endpoint { path, command, test, now }
}

const ENDPOINTS: &[Endpoint] = &[
    row("hostname", "agent.info", SELF, "the agent's id, with version and capabilities"),
    row("status", "agent.status", SELF, "the heartbeat; an agent that is cut off is missing, not 500"),
    row("lvs", "host.volumes", VOLUMES, ""),
    row("lvs/:pattern", "host.volumes", VOLUMES, "the pattern is a regular expression over group/name"),
    row("lv", "host.volumes", VOLUMES, ""),
    row("lv/:lv", "host.volumes", VOLUMES, "a pattern that only one name matches"),
    row("lvs-snapshots", "snapshot.list", SNAPSHOTS, "of every provider, with metadata and validity"),
    row("mount", "snapshot.mount-status", SNAPSHOTS, "any number of mounts, each with its holders"),
    row("mountlv?lv=", "snapshot.mount", SNAPSHOTS, "only what the provider lists"),
    row("umount", "snapshot.unmount", SNAPSHOTS, "only the caller's hold; a seed keeps its own"),
    row("removelv?lv=", "snapshot.remove", SNAPSHOTS, "never an origin, never what is in use"),
    row("create-snapshot", "snapshot.create", SNAPSHOTS, ""),
    row("available-snapshots-local", "snapshot.list", SNAPSHOTS, "over the fleet: `ctl snapshot find --dc`"),
    row("available-snapshots", "snapshot.list", SNAPSHOTS, "over the fleet: `ctl snapshot find`"),
    row("du?path=", "host.disk-usage", SELF, "allow-listed paths only"),
    row("mysql-du", "mysql.disk-usage", SELF, "from memory with its age, or counted anew"),
    row("mysql-datadir-available-space", "mysql.disk-free", SELF, ""),
    row("mysql-status", "mysql.info", SELF, "by a connection; unknown counts as running"),
    row("mysql-port", "mysql.info", SELF, ""),
    row("mysql-start", "mysql.start", SERVICE, "done when it answers"),
    row("mysql-stop", "mysql.stop", SERVICE, "done when the datadir is free"),
    row(
        "mysql-error-log-tail",
        "mysql.error-log",
        SELF,
        "1 to 1,000 lines; from the journal where it goes there",
    ),
    row("delete-mysql-datadir", "datadir.clear", SERVICE, "only of a stopped server, and only its own"),
    row("post-copy", "datadir.post-copy", SERVICE, ""),
    row("receive-mysql-seed-data/:seedId", "seed.start", SEED, ""),
    row("send-mysql-seed-data/:targetHost/:seedId", "seed.offer", SEED, ""),
    row("abort-seed/:seedId", "jobs.abort", ABORT, "takes back what was done, on both hosts"),
    row("seed-command-completed/:seedId", "jobs.show", SEED, "the job's state; its end is an event too"),
    row("seed-command-succeeded/:seedId", "jobs.show", SEED, "likewise"),
    row("mysql-relay-log-index-file", "binlog.relay-files", LOGS, ""),
    row("mysql-relay-log-files", "binlog.relay-files", LOGS, ""),
    row("mysql-relay-log-end-coordinates", "binlog.relay-end", LOGS, ""),
    row("mysql-relaylog-contents-tail/:relaylog/:start", "binlog.text", LOGS, "in bounded chunks"),
    row("mysql-binlog-contents", "binlog.text", LOGS, "in bounded chunks"),
    row("mysql-binlog-binary-contents", "binlog.binary", LOGS, "in bounded chunks"),
    row(
        "POST apply-relaylog-contents",
        "binlog.apply",
        LOGS,
        "received whole before the first event is applied",
    ),
    row("custom-commands/:cmd", "custom.run", CUSTOM, "argv from the configuration, no shell"),
];

/// The table for `docs/commands.md`.
#[must_use]
pub fn table() -> String {
    let mut table =
        String::from("| endpoint | command | what is otherwise | shown by |\n| --- | --- | --- | --- |\n");
    for Endpoint { path, command, test, now } in ENDPOINTS {
        let (file, function) = test.split_once("::").unwrap_or((test, ""));
        table.push_str(&format!("| `{path}` | `{command}` | {now} | [{function}](../{file}) |\n"));
    }
    table
}

/// Says, one line each, which row has no command or no test, and which endpoint has no row.
pub fn check(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for Endpoint { path, command, test, .. } in ENDPOINTS {
        let spec = Command::SPECS.iter().find(|spec| spec.name == *command);
        if !spec.is_some_and(|spec| spec.replaces.split(", ").any(|replaced| replaced == *path)) {
            found.push(format!("endpoint {path}: {command} does not say that it replaces it"));
        }
        let (file, function) = test.split_once("::").unwrap_or((test, ""));
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        if !text.contains(&format!("fn {function}(")) {
            found.push(format!("endpoint {path}: its test {function} is not in {file}"));
        }
    }
    let rows: BTreeSet<&str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    for spec in Command::SPECS {
        for replaced in spec.replaces.split(", ").filter(|path| !path.is_empty()) {
            if !rows.contains(replaced) {
                found.push(format!("{}: the endpoint {replaced} has no row and no test", spec.name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_its_test_is_found() {
        assert_eq!(check(Path::new("/nowhere")).len(), ENDPOINTS.len());
        assert_eq!(check(&crate::repository()), Vec::<String>::new());
    }
}
