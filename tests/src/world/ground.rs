//! Where the servers of a world lie, and what is in them from the start.

use std::path::PathBuf;

use testkit::mysqld::{Mysqld, MysqldOptions, Shape, Vendor};
use testkit::nats::{NatsOptions, NatsServer};

use super::{BusPlace, Provider, WorldOptions};
use crate::volume::{Kind, Volume};

/// A row by which old data are known again.
pub(super) async fn mark(db: &Mysqld) {
    for statement in [
        // Whatever its option file says.
        "SET GLOBAL read_only = 0",
        "CREATE DATABASE own",
        "CREATE TABLE own.marker (id INT PRIMARY KEY)",
        "INSERT INTO own.marker VALUES (4711)",
    ] {
        db.exec(statement).await.unwrap();
    }
}

/// The bus, and the addresses of its servers.
pub(super) fn bus(options: &WorldOptions) -> (NatsServer, Vec<String>) {
    let mut own = NatsOptions::jetstream();
    let elsewhere = match options.bus.as_deref() {
        Some(BusPlace::At(servers)) => Some(servers.clone()),
        Some(BusPlace::Server(server)) => {
            own = server.clone();
            None
        }
        None => None,
    };
    own.address = options.bus_address;
    let Some(servers) = elsewhere else {
        let server = NatsServer::start(&own).unwrap();
        let url = server.url();
        return (server, vec![url]);
    };
    (NatsServer::down(&own).unwrap(), servers)
}

/// The directory that the donor lies in, and the name of its provider.
pub(super) fn ground(options: &WorldOptions, volumes: &mut Vec<Volume>) -> (Option<PathBuf>, &'static str) {
    let (kind, name) = match options.provider {
        Provider::Reflink => (Kind::Xfs, "reflink"),
        Provider::Btrfs => (Kind::Btrfs, "btrfs"),
        Provider::Directory => return (None, "directory"),
        Provider::Lvm(mount_point) => return (Some(mount_point.into()), "lvm"),
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{name} snapshots skipped, because mounting needs root: plain copies instead");
        return (None, "directory");
    }
    let size_mib = if options.donor_volume_mib == 0 { 1024 } else { options.donor_volume_mib };
    let volume = Volume::make_below(&options.vendor.short_dir(), kind, size_mib);
    let path = volume.path().to_owned();
    volumes.push(volume);
    (Some(path), name)
}

/// What a server of a world lies on and is made with.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) lines: Vec<String>,
    pub(super) shape: Shape,
    /// Directory for all its files.
    pub(super) parent: Option<PathBuf>,
    /// A mount point that is its datadir.
    pub(super) datadir: Option<PathBuf>,
    /// Its datadir is a subvolume of its own.
    pub(super) subvolume: bool,
}

pub(super) async fn server(vendor: &Vendor, site: Site) -> Mysqld {
    let mut options = MysqldOptions {
        vendor: vendor.clone(),
        parent: site.parent.clone(),
        datadir: site.datadir,
        lines: site.lines,
        shape: site.shape,
        ..MysqldOptions::default()
    };
    if let (Some(parent), true) = (site.parent, site.subvolume) {
        let datadir = parent.join(format!("data-{}", uuid::Uuid::now_v7()));
        let made = tokio::process::Command::new("btrfs")
            .args(["subvolume", "create"])
            .arg(&datadir)
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        options.datadir = Some(datadir);
    }
    Mysqld::start(options).await.unwrap()
}
