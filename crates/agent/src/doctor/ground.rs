//! What is around the server: the bus, snapshots, space for a copy, programs.

use std::path::Path;
use std::time::Duration;

use protocol::host::Finding;
use protocol::mysql::ServerInfo;

use super::{fine, missing, unknown, weak};
use crate::host::{Host, blocking, chain};
use crate::owned::owner;

/// A large datadir takes longer to count than anybody waits for a doctor.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the distributions call the packages.
const PACKAGES: [(&str, &str); 3] = [
    ("binlog.text", "apt install mariadb-client (or mysql-client)"),
    ("lvm", "apt install lvm2, if the data lie on LVM"),
    ("systemd", "mysql.service with commands of your own, see the sample configuration"),
];

pub(super) fn bus(host: &Host) -> Vec<Finding> {
    let events = match host.outbox.trouble() {
        None => fine("bus", "events", "they reach their stream"),
        Some(why) => missing("bus", "events", why, "orchestrator-ctl bus setup, with a controller's account"),
    };
    let commands = if host.config.auth.accept_unsigned {
        let mend =
            "auth.accept_unsigned = false, and auth.trusted with the public keys of those who may command";
        weak("bus", "commands", "unsigned ones are accepted: whoever may publish may do everything", mend)
    } else {
        fine("bus", "commands", "only signed ones are accepted")
    };
    vec![events, commands]
}

pub(super) async fn snapshots(host: &Host) -> Vec<Finding> {
    let area = "snapshot";
    let snapshots = match &host.snapshots {
        Ok(snapshots) => snapshots.clone(),
        Err(why) => {
            let mend = "[snapshot.provider] in the agent's configuration, if this host is to be a donor";
            return vec![weak(area, "provider", why, mend)];
        }
    };
    let lacks =
        host.capabilities.iter().find(|capability| capability.name == "snapshot" && !capability.available);
    if let Some(lacks) = lacks {
        let why = lacks.reason.as_deref().unwrap_or("it cannot make snapshots here");
        return vec![missing(area, "provider", why, "[snapshot.provider] in the agent's configuration")];
    }
    let owner = owner(host);
    let listed = blocking(move || snapshots.list(&owner).map_err(Into::into)).await;
    let create = format!("orchestrator-ctl snapshot create {}", host.id);
    let there = match listed {
        Err(error) => unknown(area, "snapshots", error.message, create),
        Ok(list) => {
            let usable = list.iter().filter(|snapshot| snapshot.is_usable());
            match usable.max_by_key(|snapshot| snapshot.created_at) {
                Some(newest) => {
                    fine(area, "snapshots", format!("the newest usable one is of {}", newest.created_at))
                }
                None => weak(area, "snapshots", "none that a seed could be taken from", create),
            }
        }
    };
    vec![fine(area, "provider", "it can make snapshots here"), there]
}

pub(super) async fn seeds(host: &Host, info: &ServerInfo) -> Vec<Finding> {
    let area = "seed";
    let mut found = vec![replication(host)];
    let settings = host.instance.settings().await;
    found.push(match settings.program(host.instance.config()) {
        Some((_, program)) => fine(area, "server program", program.display().to_string()),
        None => missing(
            area,
            "server program",
            "none was found: a seed could not be recovered before it is put in place",
            "mysql.server_binary in the agent's configuration",
        ),
    });
    if let Some(datadir) = &info.datadir {
        found.push(space(host, datadir).await);
    }
    found
}

fn replication(host: &Host) -> Finding {
    let (area, what) = ("seed", "replication account");
    let Some(file) = &host.config.seed.replication_credentials else {
        let mend = "seed.replication_credentials in the agent's configuration: a [client] group with user and password, mode 0600";
        return weak(area, what, "none: this host cannot be made a replica (--replicate-from)", mend);
    };
    match mysql::check_secret_file(file) {
        Err(error) => missing(area, what, chain(&error), format!("chmod 0600 {}", file.display())),
        Ok(()) if host.config.seed.sources.is_any() => weak(
            area,
            what,
            "whoever may plan a seed chooses to which server it is shown",
            "seed.sources = [\"*.db.example\"] in the agent's configuration",
        ),
        Ok(()) => fine(area, what, "shown to the servers in seed.sources only"),
    }
}

/// Old and new data lie side by side until the new ones have started.
async fn space(host: &Host, datadir: &Path) -> Finding {
    let (area, what) = ("seed", "space");
    let mend = "make room or a larger volume; `seed start --replace` does without, and loses the old data if it fails";
    let used = host.instance.disk_usage_within(datadir, PATIENCE).await;
    let (used, free) = match (used, host.instance.disk_free(datadir)) {
        (Ok(Some(used)), Ok(free)) => (used.allocated_bytes, free.available_bytes),
        (Ok(None), _) => {
            let again = format!("ask again later, or orchestrator-ctl mysql {} disk-usage", host.id);
            return unknown(area, what, "the datadir is still being counted", again);
        }
        (Err(error), _) | (_, Err(error)) => return unknown(area, what, chain(&error), "df"),
    };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let detail = format!("{} free beside data of {}", gib(free), gib(used));
    if free > used { fine(area, what, detail) } else { weak(area, what, detail, mend) }
}

pub(super) fn programs(host: &Host) -> Vec<Finding> {
    let of = host.capabilities.iter().filter_map(|capability| {
        let (_, mend) = PACKAGES.iter().find(|(name, _)| *name == capability.name)?;
        Some(match &capability.reason {
            None => fine("host", &capability.name, "there"),
            Some(why) => weak("host", &capability.name, why, *mend),
        })
    });
    of.collect()
}
