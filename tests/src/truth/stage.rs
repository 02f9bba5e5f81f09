//! The hosts of one cell.

use testkit::agent::AgentOptions;
use testkit::mysqld::Mysqld;
use testkit::mysqld::mysql_async::Conn;
use testkit::mysqld::mysql_async::prelude::Queryable as _;

use super::layout::Layout;
use crate::replication::{Account, vendor};
use crate::volume::{Kind, Volume};
use crate::world::{Configure, Provider, World, WorldOptions};

/// MiB: a copy and the old data of the smallest servers.
const VOLUME_MIB: u64 = 900;

/// Donor, recipient, and where there is one a third server that is the source.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) primary: Option<Mysqld>,
    /// With what is open in it.
    session: Option<Conn>,
    _account: Account,
}

impl Stage {
    /// Whom the new replica follows.
    pub(super) fn source(&self) -> &Mysqld {
        self.primary.as_ref().unwrap_or(&self.world.donor.db)
    }

    /// Begins a transaction of two phases in a session that stays.
    pub(super) async fn xa(&mut self, begin: &str, statements: &[&str]) {
        let mut session = self.source().connect().await.unwrap();
        for statement in [&[begin], statements].concat() {
            session.query_drop(statement).await.unwrap();
        }
        self.session = Some(session);
    }

    /// Leaves a transaction open.
    pub(super) async fn open(&mut self, statement: &str) {
        self.xa("START TRANSACTION", &[statement]).await;
    }

    /// Ends what is open.
    pub(super) async fn finish(&mut self, statement: &str) {
        if let Some(mut session) = self.session.take() {
            session.query_drop(statement).await.unwrap();
            session.disconnect().await.unwrap();
        }
    }

    /// Both hosts; `lines` are for both option files and for the donor's alone.
    pub(super) async fn start(
        vendor_name: &str,
        layout: &Layout,
        lines: (Vec<String>, Vec<String>),
    ) -> Option<Self> {
        let vendor = vendor(vendor_name)?;
        let account = Account::new();
        let file = account.file().display().to_string();
        let configure: Configure = Box::new(move |id: &str, agent: &mut AgentOptions| {
            if id == "db2" {
                agent.set("seed.replication_credentials", file.clone());
            }
        });
        let (server_lines, donor_lines) = lines;
        let volume =
            layout.on_mount_point.then(|| Volume::make_below(&vendor.short_dir(), Kind::Ext4, VOLUME_MIB));
        let world = World::start(WorldOptions {
            provider: Provider::Directory,
            vendor,
            server_lines,
            donor_lines,
            donor_shape: layout.donor,
            recipient_shape: layout.recipient,
            is_empty: true,
            recipient_volume: volume,
            recipient_on_mount_point: layout.on_mount_point,
            configure: Some(configure),
            ..WorldOptions::default()
        })
        .await;
        Some(Self { world, primary: None, session: None, _account: account })
    }
}
