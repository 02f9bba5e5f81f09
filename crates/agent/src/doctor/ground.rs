//! What is around the server: snapshots, space for a copy, programs.

use std::path::Path;
use std::time::Duration;

use protocol::host::Finding;
use protocol::mysql::ServerInfo;

use snapshot::Owner;

use super::{Place, fine, missing, unknown, weak};
use crate::host::{blocking, chain};

/// A large datadir takes longer to count than anybody waits for a doctor.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the distributions call the packages.
const PACKAGES: [(&str, &str); 3] = [
    ("binlog.text", "apt install mariadb-client (or mysql-client)"),
    ("lvm", "apt install lvm2, if the data lie on LVM"),
    ("systemd", "mysql.service with commands of your own, see the sample configuration"),
];

pub(super) async fn snapshots(place: &Place<'_>, datadir: Option<&Path>) -> Vec<Finding> {
    let area = "snapshot";
    let provider = match &place.provider {
        Ok(provider) => provider.clone(),
        Err(why) => {
            let mend = "[snapshot.provider] in the agent's configuration, if this host is to be a donor";
            return vec![weak(area, "provider", why, mend)];
        }
    };
    let lacks =
        place.capabilities.iter().find(|capability| capability.name == "snapshot" && !capability.available);
    if let Some(lacks) = lacks {
        let why = lacks.reason.as_deref().unwrap_or("it cannot make snapshots here");
        return vec![missing(area, "provider", why, "[snapshot.provider] in the agent's configuration")];
    }
    let owner = Owner {
        host: place.id.clone(),
        cluster: place.config.agent.cluster.clone(),
        datadir: datadir.map(Path::to_owned).or_else(|| place.config.mysql.datadir.clone()),
    };
    let listed = blocking(move || owner.list(provider.as_ref()).map_err(Into::into)).await;
    let create = format!("orchestrator-ctl snapshot create {}", place.id);
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

pub(super) async fn seeds(place: &Place<'_>, info: &ServerInfo) -> Vec<Finding> {
    let area = "seed";
    let mut found = vec![replication(place)];
    let settings = place.instance.settings().await;
    found.push(match settings.program(place.instance.config()) {
        Some((_, program)) => fine(area, "server program", program.display().to_string()),
        None => missing(
            area,
            "server program",
            "none was found: a seed could not be recovered before it is put in place",
            "mysql.server_binary in the agent's configuration",
        ),
    });
    if let Some(datadir) = &info.datadir {
        found.push(space(place, datadir).await);
    }
    found
}

fn replication(place: &Place<'_>) -> Finding {
    let (area, what) = ("seed", "replication account");
    let Some(file) = &place.config.seed.replication_credentials else {
        let mend = "seed.replication_credentials in the agent's configuration: a [client] group with user and password, mode 0600";
        return weak(area, what, "none: this host cannot be made a replica (--replicate-from)", mend);
    };
    match mysql::check_secret_file(file) {
        Err(error) => missing(area, what, chain(&error), format!("chmod 0600 {}", file.display())),
        Ok(()) if place.config.seed.sources.is_any() => weak(
            area,
            what,
            "whoever may plan a seed chooses to which server it is shown",
            "seed.sources = [\"*.db.example\"] in the agent's configuration",
        ),
        Ok(()) => fine(area, what, "shown to the servers in seed.sources only"),
    }
}

/// Old and new data lie side by side until the new ones have started.
async fn space(place: &Place<'_>, datadir: &Path) -> Finding {
    let (area, what) = ("seed", "space");
    let mend = format!(
        "make room or a larger volume; `orchestrator-ctl seed start {} --replace` does without, and loses the old data if it fails",
        place.id
    );
    let used = place.instance.disk_usage_within(datadir, PATIENCE).await;
    let (used, free) = match (used, place.instance.disk_free(datadir)) {
        (Ok(Some(used)), Ok(free)) => (used.allocated_bytes, free.available_bytes),
        (Ok(None), _) => {
            let again = format!("ask again later, or `orchestrator-ctl mysql {} disk-usage`", place.id);
            return unknown(area, what, "the datadir is still being counted", again);
        }
        (Err(error), _) | (_, Err(error)) => return unknown(area, what, chain(&error), "df"),
    };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let detail = format!("{} free beside data of {}", gib(free), gib(used));
    if free > used { fine(area, what, detail) } else { weak(area, what, detail, mend) }
}

pub(super) fn programs(place: &Place<'_>) -> Vec<Finding> {
    let of = place.capabilities.iter().filter_map(|capability| {
        let (_, mend) = PACKAGES.iter().find(|(name, _)| *name == capability.name)?;
        Some(match &capability.reason {
            None => fine("host", &capability.name, "there"),
            Some(why) => weak("host", &capability.name, why, *mend),
        })
    });
    of.collect()
}
