//! A post-copy command and a server that misbehave as the test says.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::arena::{Arena, ArenaOptions};

/// What the recipient's post-copy command does, and whether its server comes up on what it leaves.
#[derive(Debug)]
pub struct Hook {
    dir: TempDir,
}

impl Hook {
    fn new() -> Self {
        let hook = Self { dir: tempfile::Builder::new().prefix("oa-hook-").tempdir().unwrap() };
        hook.does("nothing");
        let dir = hook.dir.path().display();
        hook.script(
            "post-copy",
            &format!(
                "case $(cat {dir}/does) in\n\
                 fail) echo 'the site says no' >&2; exit 3 ;;\n\
                 hang) sleep 600 & sleep 600 ;;\n\
                 flood) head -c 1073741824 /dev/zero ;;\n\
                 hang-server) touch \"$1/hang\" ;;\n\
                 esac\n"
            ),
        );
        // A server that stands still from its first moment on: it neither becomes ready nor heeds a SIGTERM.
        hook.script(
            "server",
            "datadir=$1; shift\n\
             [ -e \"$datadir/hang\" ] && (until grep -q mariadbd /proc/$$/comm; do :; done; kill -STOP $$) &\n\
             exec \"$@\"\n",
        );
        hook
    }

    fn script(&self, name: &str, lines: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// From now on post-copy does this: `nothing`, `fail`, `hang`, `flood`, or `hang-server`, which has the server stand
    /// still on the data that it left.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn does(&self, what: &str) {
        fs::write(self.dir.path().join("does"), what).unwrap();
    }
}

/// An arena whose recipient runs the hook and starts its server by it, with little patience.
///
/// # Panics
/// When anything does not come up.
pub async fn with_hook() -> (Arena, Hook) {
    let hook = Hook::new();
    let mut arena = Arena::start(ArenaOptions::default()).await;
    let db = &arena.world.recipient.db;
    let datadir = db.datadir().display().to_string();
    let server = [vec![hook.path("server"), datadir.clone()], db.argv()].concat();
    let agent = &mut arena.world.recipient.agent;
    agent.options().set("seed.post_copy", vec![hook.path("post-copy"), datadir]);
    agent.options().set("seed.post_copy_limit_s", 3).set("mysql.service.direct.argv", server);
    agent.options().set("mysql.start_patience_ms", 6_000).set("mysql.stop_patience_ms", 6_000);
    agent.options().set("mysql.connect_timeout_ms", 1_000);
    agent.restart().unwrap();
    arena.world.serving(&arena.world.recipient.id()).await;
    (arena, hook)
}
