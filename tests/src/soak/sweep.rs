//! After a round: what persons have left is put away, and then nothing may be left.

use std::fs;
use std::time::Duration;

use protocol::params::*;
use testkit::poll;

use super::fleet::Fleet;
use super::plan::{Fault, Round};
use crate::faults::host;
use crate::world::{self, PATIENCE};

impl Fleet {
    /// All agents serve, have no job at work, and each MySQL answers: one that a fault has taken down is started by its agent.
    ///
    /// # Panics
    /// When a job hangs, or a server is down for no reason of this round.
    pub(super) async fn comes_to_rest(&self, round: &Round) {
        for (at, host) in self.hosts.iter().enumerate() {
            world::serving(&self.client, &host.id()).await;
            poll::until_async(3 * PATIENCE, format!("the jobs of {} to end", host.id()), || async {
                let unfinished = JobsListParams { limit: 100, unfinished: true };
                self.call(at, unfinished).await.is_empty().then_some(())
            })
            .await;
            if host.db.pid().is_none() {
                let ours = round.has(|fault| fault == Fault::KillServer(at)) || round.fills(at);
                assert!(ours, "MySQL of {} is down for no reason of this round", host.id());
                let job = self.call(at, MysqlStartParams {}).await.job;
                self.succeeded(at, job).await;
            }
            poll::until_async(PATIENCE, format!("MySQL of {} to answer", host.id()), || async {
                host.db.scalar("SELECT 1").await.ok()
            })
            .await;
        }
    }

    /// Holds, second servers and snapshots of persons are given up; the provider's directory is empty then.
    ///
    /// # Panics
    /// When one cannot be.
    pub(super) async fn sweep(&self) {
        for (at, host) in self.hosts.iter().enumerate() {
            for held in self.call(at, SnapshotMountStatusParams {}).await {
                let snapshot = held.snapshot;
                for holder in &held.mount.holders {
                    if holder.starts_with("mysql") {
                        let leave = MysqlLeaveSnapshotParams { snapshot: snapshot.clone() };
                        let job = self.call(at, leave).await.job;
                        self.succeeded(at, job).await;
                    } else if holder == "operator" {
                        let unmount = SnapshotUnmountParams { snapshot: Some(snapshot.clone()) };
                        self.call(at, unmount).await;
                    }
                }
            }
            // What a seed holds goes by itself.
            poll::until_async(PATIENCE, format!("the holds of {} to go", host.id()), || async {
                self.call(at, SnapshotMountStatusParams {}).await.is_empty().then_some(())
            })
            .await;
            for snapshot in self.call(at, SnapshotListParams { usable: false }).await {
                let remove = SnapshotRemoveParams { snapshot: snapshot.id, foreign: false };
                let job = self.call(at, remove).await.job;
                self.succeeded(at, job).await;
            }
            let root = host.db.base().with_file_name("snapshots");
            // The provider's own lock stays.
            let entries = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let left: Vec<_> = entries.filter(|name| name != ".lock").collect();
            assert!(left.is_empty(), "{} has left {left:?} in {}", host.id(), root.display());
        }
    }

    /// Nothing of any seed is left on any host: no hold, mount, staging, secret, second server or socket.
    ///
    /// # Panics
    /// With what is left.
    pub(super) async fn nothing_left(&self) {
        world::nothing_left(&self.client, &self.all(), PATIENCE).await;
        host::let_go(&self.all()).await;
        for host in &self.hosts {
            let Some(server) = host.db.pid() else { continue };
            let environment = fs::read(format!("/proc/{server}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment);
            let inherited = environment.split('\0').find(|entry| entry.starts_with("MALLOC_ARENA_MAX"));
            assert_eq!(inherited, None, "MySQL of {} has inherited what is for its agent alone", host.id());
        }
    }

    /// Waits until threads that have no more work have ended, so that two looks at an agent can be compared.
    pub(super) async fn is_quiet(&self) {
        const STILL: Duration = Duration::from_secs(12);
        let threads = || self.readings().iter().map(|reading| reading.threads).collect::<Vec<_>>();
        let (mut last, mut since) = (threads(), std::time::Instant::now());
        poll::until_true(PATIENCE, "the agents to be quiet", || {
            let now = threads();
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
            since.elapsed() > STILL
        });
    }
}
