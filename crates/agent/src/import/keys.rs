//! What each key of the original becomes. The keys of all its releases are here: those of 1.x ran most of what is built in now by
//! commands of their own.

use serde_json::{Map, Value};

use super::Outcome::{Changed, Decide, Needless, Taken, Unknown};
use super::draft::{Draft, HOME};
use super::words;

/// How a key is carried over. It sees all values: some keys only mean something together.
enum Rule {
    /// Not at all, for this reason.
    Needless(&'static str),
    /// By this.
    Take(fn(&mut Draft, &str, &Given<'_>)),
}

use Rule::{Needless as Gone, Take};

/// The values, by their names as the original knows them: it does not mind their case.
struct Given<'a>(&'a Map<String, Value>);

impl Given<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// A text that is not empty.
    fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.value(key)?.as_i64().filter(|number| *number > 0)
    }
}

const BUILT_IN: &str = "the agent does this itself";
const NO_HTTP: &str = "the agent speaks to the bus and listens to nothing";

const RULES: &[(&str, Rule)] = &[
    ("SnapshotMountPoint", Take(mount_point)),
    ("ContinuousPollSeconds", Gone("a heartbeat goes out every agent.heartbeat_s, 10 s")),
    (
        "ResubmitAgentIntervalMinutes",
        Gone(
            "heartbeats tell of the host; the gateway registers it with orchestrator (orchestrator.resubmit_s)",
        ),
    ),
    ("CreateSnapshotCommand", Take(create_snapshot)),
    (
        "AvailableLocalSnapshotHostsCommand",
        Gone(
            "heartbeats tell: `orchestrator-ctl snapshot find CLUSTER --dc DC`; set agent.cluster and agent.dc",
        ),
    ),
    (
        "AvailableSnapshotHostsCommand",
        Gone("heartbeats tell: `orchestrator-ctl snapshot find CLUSTER`; set agent.cluster and agent.dc"),
    ),
    ("SnapshotVolumesFilter", Take(volumes_filter)),
    ("LogicalVolumesCommand", Gone(BUILT_IN)),
    ("GetMountCommand", Gone(BUILT_IN)),
    ("MountLVCommand", Gone(BUILT_IN)),
    ("UnmountCommand", Gone(BUILT_IN)),
    ("RemoveLVCommand", Gone(BUILT_IN)),
    ("GetLogicalVolumeFSTypeCommand", Gone(BUILT_IN)),
    ("MySQLDatadirCommand", Take(datadir_command)),
    ("MySQLPortCommand", Take(port_command)),
    ("MySQLTailErrorLogCommand", Gone("the server's own log is found; mysql.error_log names another")),
    (
        "MySQLDeleteDatadirContentCommand",
        Gone("`orchestrator-ctl datadir HOST clear` is built in; a seed replaces the old data at its end"),
    ),
    ("MySQLServiceStopCommand", Take(service)),
    ("MySQLServiceStartCommand", Take(service)),
    ("MySQLServiceRestartCommand", Gone("a restart is a stop and a start")),
    (
        "MySQLServiceStatusCommand",
        Gone("whether MySQL runs is told by its process, its locks and systemd, and not by an exit code"),
    ),
    ("MySQLPort", Take(port)),
    ("MySQLDataDir", Take(datadir)),
    ("MySQLErrorLog", Take(error_log)),
    ("MySQLInnoDBLogDir", Gone("found in the server's own options")),
    ("PreferStreaming", Gone("seeds never lie on the donor's disk")),
    (
        "MySQLBackupOldDatadir",
        Gone("kept until the new one is proven; longer by `orchestrator-ctl seed start HOST --keep-old 2h`"),
    ),
    ("Datacenter", Take(dc)),
    ("Cluster", Take(cluster)),
    ("MySQLBackupDir", Gone("data are staged beside the datadir, on its file system")),
    ("MySQLClientCommand", Take(client)),
    ("MySQLTopologyUser", Take(login)),
    ("MySQLTopologyPassword", Take(login)),
    ("MySQLReplicationUser", Take(replication)),
    ("MySQLReplicationPassword", Take(replication)),
    ("SeedPort", Take(seed_port)),
    ("ReceiveSeedDataCommand", Take(seed_command)),
    ("SendSeedDataCommand", Take(seed_command)),
    ("PostCopyCommand", Take(post_copy)),
    ("XtrabackupParallelThreads", Gone("of a stream's own options, see docs/streams.md")),
    ("MyDumperParallelThreads", Gone("seeds are physical")),
    ("MyDumperRowsChunkSize", Gone("seeds are physical")),
    ("CompressLogicalBackup", Gone("seeds are physical; --compression says how they travel")),
    ("CustomCommands", Take(custom)),
    ("AgentsServer", Take(orchestrator)),
    ("AgentsServerPort", Take(orchestrator)),
    ("HTTPPort", Take(http_port)),
    ("HTTPAuthUser", Take(http_login)),
    ("HTTPAuthPassword", Take(http_login)),
    ("UseSSL", Take(tls)),
    ("SSLCertFile", Take(tls)),
    ("SSLPrivateKeyFile", Take(tls)),
    ("SSLCAFile", Take(tls_ca)),
    ("SSLSkipVerify", Take(skip_verify)),
    ("UseMutualTLS", Gone("who may do what is said by signed commands (auth.trusted), not by certificates")),
    ("SSLValidOUs", Gone("who may do what is said by signed commands (auth.trusted), not by certificates")),
    ("StatusEndpoint", Gone(NO_HTTP)),
    ("StatusOUVerify", Gone(NO_HTTP)),
    (
        "StatusBadSeconds",
        Gone("a host that is silent is shown as lost by `orchestrator-ctl fleet` and its metrics"),
    ),
    ("HttpTimeoutSeconds", Gone(NO_HTTP)),
    ("ExecWithSudo", Gone("the agent is root, and what handles foreign data runs as the data's owner")),
    (
        "TokenHintFile",
        Gone("hosts have keys; orchestrator's tokens are the gateway's (gateway.token_secret_file)"),
    ),
    (
        "TokenHttpHeader",
        Gone("orchestrator's tokens are the gateway's, in the query as orchestrator sends them"),
    ),
];

/// The configuration that these values become.
pub(super) fn import(values: &Map<String, Value>) -> Draft {
    let mut draft = Draft::default();
    let given = Given(values);
    for key in values.keys() {
        let rule = RULES.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        match rule {
            None => draft.account(key, Unknown, "the original has no such key: look what it was meant for"),
            Some((_, Gone(why))) => draft.account(key, Needless, *why),
            Some((name, Take(take))) => match values.get(key) {
                Some(value) if is_unset(value) => draft.account(key, Needless, "it was not set"),
                _ => take(&mut draft, name, &given),
            },
        }
    }
    draft
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.trim().is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
    }
}

fn wrong(draft: &mut Draft, key: &str) {
    draft.account(key, Decide, "it has another type than the original's: look at it");
}

fn mount_point(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(path) = given.text(key) else { return wrong(draft, key) };
    if !path.starts_with('/') || path == "/tmp" || path.starts_with("/tmp/") || path.starts_with("/var/tmp/")
    {
        let says = format!(
            "{path:?} is a place where others may write: choose one of root's for snapshot.mount_point"
        );
        return draft.account(key, Decide, says);
    }
    draft.set("snapshot.mount_point", path);
    draft.account(
        key,
        Taken,
        "snapshot.mount_point; seeds mount below snapshot.mount_root, several at a time",
    );
}

fn create_snapshot(draft: &mut Draft, key: &str, _: &Given<'_>) {
    draft.propose_table(
        "[snapshot.provider]\nprovider = \"lvm\"           # or lvm-thin, btrfs, reflink, directory, command: docs/snapshots.md\n\
         origin = \"GROUP/VOLUME\"    # what the datadir lies on: lvs",
    );
    draft.account(
        key,
        Decide,
        "the agent makes snapshots itself, and records what they are of: fill in [snapshot.provider] and remove the command; \
         what else it did is a custom command",
    );
}

fn volumes_filter(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(filter) = given.text(key) else { return wrong(draft, key) };
    draft.propose_table(format!(
        "snapshot_volumes_filter = {:?}    # in [snapshot.provider]",
        regex::escape(filter)
    ));
    let says = "a regular expression, in [snapshot.provider]; not needed for snapshots that the agent makes: only its own count";
    draft.account(key, Changed, says);
}

fn datadir_command(draft: &mut Draft, key: &str, given: &Given<'_>) {
    match given.text(key).and_then(words::echoed).filter(|path| path.starts_with('/')) {
        Some(path) => {
            draft.set("mysql.datadir", path);
            draft.account(key, Taken, "mysql.datadir");
        }
        None => draft.account(
            key,
            Needless,
            "found in the running server and its option files; mysql.datadir names it where that fails",
        ),
    }
}

fn port_command(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let port = given.text(key).and_then(words::echoed).and_then(|text| text.parse::<u16>().ok());
    match port {
        Some(port) if port != 3306 => {
            draft.set("mysql.port", i64::from(port));
            draft.account(key, Taken, "mysql.port");
        }
        _ => draft.account(key, Needless, "found in the running server and its option files"),
    }
}

fn port(draft: &mut Draft, key: &str, given: &Given<'_>) {
    match given.number(key) {
        Some(port @ 1..=65_535) => {
            draft.set("mysql.port", port);
            draft.account(key, Taken, "mysql.port");
        }
        _ => wrong(draft, key),
    }
}

fn datadir(draft: &mut Draft, key: &str, given: &Given<'_>) {
    path(draft, key, given, "mysql.datadir");
}

fn dc(draft: &mut Draft, key: &str, given: &Given<'_>) {
    name(draft, key, given, "agent.dc");
}

fn cluster(draft: &mut Draft, key: &str, given: &Given<'_>) {
    name(draft, key, given, "agent.cluster");
}

fn name(draft: &mut Draft, key: &str, given: &Given<'_>, ours: &str) {
    let Some(name) = given.text(key) else { return wrong(draft, key) };
    draft.set(ours, name);
    draft.account(key, Taken, ours);
}

fn error_log(draft: &mut Draft, key: &str, given: &Given<'_>) {
    path(draft, key, given, "mysql.error_log");
}

fn path(draft: &mut Draft, key: &str, given: &Given<'_>, ours: &str) {
    match given.text(key).filter(|path| path.starts_with('/')) {
        Some(path) => {
            draft.set(ours, path);
            draft.account(key, Taken, ours);
        }
        None => draft.account(key, Decide, format!("it is no absolute path: set {ours}")),
    }
}

/// Start and stop belong together.
fn service(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let (start, stop) = ("MySQLServiceStartCommand", "MySQLServiceStopCommand");
    let is_first = key == start || given.text(start).is_none();
    let (Some(starts), Some(stops)) = (given.text(start), given.text(stop)) else {
        return draft.account(
            key,
            Decide,
            "the other of start and stop is missing: mysql.service = \"auto\" finds the one systemd unit",
        );
    };
    match (words::service(starts), words::service(stops)) {
        (Some((unit, verb)), Some((other, end))) if unit == other && verb == "start" && end == "stop" => {
            if is_first {
                draft.set("mysql.service.systemd.unit", unit.clone());
            }
            draft.account(
                key,
                Changed,
                format!("mysql.service: the systemd unit {unit}, asked and held by systemd's own interface"),
            );
        }
        _ => match (words::program(starts), words::program(stops)) {
            (Some(starts), Some(stops)) => {
                if is_first {
                    draft.set("mysql.service.argv.start", starts);
                    draft.set("mysql.service.argv.stop", stops);
                }
                draft.account(key, Taken, "mysql.service.argv; a systemd unit could be kept from starting in the middle of a seed, which is safer");
            }
            _ => {
                let name = if key == start { "mysql-start" } else { "mysql-stop" };
                let script = script(draft, name, key, given.text(key).unwrap_or_default());
                if is_first {
                    draft.propose(format!("mysql.service.argv = {{ start = [\"{HOME}/mysql-start\"], stop = [\"{HOME}/mysql-stop\"] }}"));
                }
                let says = format!(
                    "a line of a shell: review {script}, then say so in mysql.service.argv, or leave \"auto\""
                );
                draft.account(key, Decide, says);
            }
        },
    }
}

/// A file with a line of a shell, for review; its path.
fn script(draft: &mut Draft, name: &'static str, key: &str, line: &str) -> String {
    let text = format!(
        "#!/bin/bash\n# {key} of the original's configuration, which ran it by bash -c as root. Review it.\n{line}\n"
    );
    draft.file(name, 0o700, text)
}

fn client(draft: &mut Draft, key: &str, _: &Given<'_>) {
    draft.account(
        key,
        Decide,
        "the account goes to mysql.client_option_file, or mysql.user with mysql.password_file (0600): not onto a command line",
    );
}

fn login(draft: &mut Draft, key: &str, given: &Given<'_>) {
    if key == "MySQLTopologyUser" {
        let Some(user) = given.text(key) else { return wrong(draft, key) };
        draft.set("mysql.user", user);
        return draft.account(key, Taken, "mysql.user");
    }
    let Some(password) = given.text(key) else { return wrong(draft, key) };
    let file = draft.file("mysql.password", 0o600, format!("{password}\n"));
    draft.set("mysql.password_file", file.clone());
    draft.account(key, Changed, format!("mysql.password_file: {file}, 0600"));
}

/// User and password in one file of the servers' own format.
fn replication(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let (Some(user), Some(password)) =
        (given.text("MySQLReplicationUser"), given.text("MySQLReplicationPassword"))
    else {
        return draft.account(
            key,
            Decide,
            "user or password is missing: write both to seed.replication_credentials, a [client] file, 0600",
        );
    };
    if key == "MySQLReplicationUser" {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let text = format!("[client]\nuser = {}\npassword = {}\n", quoted(user), quoted(password));
        let file = draft.file("replication.cnf", 0o600, text);
        draft.set("seed.replication_credentials", file);
    }
    let says = "seed.replication_credentials, a file, 0600; name the servers that it may be shown to in seed.sources";
    draft.account(key, Changed, says);
}

fn seed_port(draft: &mut Draft, key: &str, given: &Given<'_>) {
    match given.number(key) {
        Some(port @ 1..=65_535) => {
            draft.set("seed.listen", format!("0.0.0.0:{port}"));
            draft.account(
                key,
                Changed,
                "seed.listen: the donor listens and the recipient connects, with TLS",
            );
        }
        _ => wrong(draft, key),
    }
}

fn seed_command(draft: &mut Draft, key: &str, _: &Given<'_>) {
    draft.account(
        key,
        Changed,
        "seeds are built in: proven, resumed, encrypted. A tool of your own that makes a stream is a [seed.streams.NAME], see docs/streams.md",
    );
}

fn post_copy(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(line) = given.text(key) else { return wrong(draft, key) };
    if let Some(argv) = words::program(line) {
        draft.set("seed.post_copy", argv);
        return draft.account(
            key,
            Taken,
            "seed.post_copy; files of another server's identity (auto.cnf, pid files) are removed without it",
        );
    }
    let script = script(draft, "post-copy", key, line);
    draft.propose(format!("seed.post_copy = [{script:?}]"));
    let says = format!(
        "a line of a shell: files of another server's identity (auto.cnf, pid files) are removed without it; where it did more, review {script}"
    );
    draft.account(key, Decide, says);
}

fn custom(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(Value::Object(commands)) = given.value(key) else { return wrong(draft, key) };
    for (name, line) in commands {
        let whole = format!("{key}.{name}");
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        match line.as_str().and_then(words::program) {
            Some(argv) if is_name => {
                draft.set(&format!("custom.{name}.argv"), argv);
                draft.account(&whole, Taken, format!("custom.{name}.argv; the role operate runs it"));
            }
            _ => {
                let says = "a line of a shell, or a name that is none: write it into a script of root's, and that into [custom.NAME] argv";
                draft.account(&whole, Decide, says);
            }
        }
    }
    draft.account(key, Taken, "each command by itself, as told");
}

fn orchestrator(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(server) = given.text("AgentsServer") else {
        return draft.account(key, Decide, "AgentsServer is missing: the gateway wants orchestrator.nodes");
    };
    let port = match given.value("AgentsServerPort") {
        Some(Value::String(port)) => port.trim().trim_start_matches(':').to_owned(),
        Some(Value::Number(port)) => port.to_string(),
        _ => String::new(),
    };
    let server = server.trim_end_matches('/');
    let has_port = server.rsplit('/').next().is_some_and(|host| host.contains(':'));
    let node = if port.is_empty() || has_port { server.to_owned() } else { format!("{server}:{port}") };
    draft.set_gateway("orchestrator.nodes", vec![node]);
    draft.account(key, Changed, "the gateway's orchestrator.nodes: name every node of orchestrator there");
}

fn http_port(draft: &mut Draft, key: &str, given: &Given<'_>) {
    match given.number(key) {
        Some(port @ 1..=65_535) => {
            draft.set_gateway("listen.port", port);
            draft.account(key, Changed, "the gateway's listen.port");
        }
        _ => wrong(draft, key),
    }
}

fn http_login(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let (user, password) = (given.text("HTTPAuthUser"), given.text("HTTPAuthPassword"));
    if key == "HTTPAuthUser" || user.is_none() {
        let login = format!("{}:{}\n", user.unwrap_or_default(), password.unwrap_or_default());
        let file = draft.file("http.login", 0o600, login);
        draft.set_gateway(
            "listen.basic_auth_file",
            file.replace("orchestrator-agent", "orchestrator-gateway"),
        );
    }
    draft.account(key, Changed, "the gateway's listen.basic_auth_file; orchestrator itself shows no login");
}

fn tls(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let ours = match key {
        "SSLCertFile" => "listen.tls_cert",
        "SSLPrivateKeyFile" => "listen.tls_key",
        _ => {
            return draft.account(
                key,
                Changed,
                "the gateway serves TLS where it has listen.tls_cert; the bus has [bus.tls]",
            );
        }
    };
    let Some(path) = given.text(key) else { return wrong(draft, key) };
    draft.set_gateway(ours, path);
    draft.account(key, Changed, format!("the gateway's {ours}; copy it to where the gateway runs"));
}

fn tls_ca(draft: &mut Draft, key: &str, given: &Given<'_>) {
    let Some(path) = given.text(key) else { return wrong(draft, key) };
    draft.set_gateway("orchestrator.tls_ca", path);
    draft.account(key, Changed, "the gateway's orchestrator.tls_ca");
}

fn skip_verify(draft: &mut Draft, key: &str, _: &Given<'_>) {
    draft.account(
        key,
        Decide,
        "certificates are always looked at: give the authority's in the gateway's orchestrator.tls_ca",
    );
}
