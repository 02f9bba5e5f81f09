//! What a seed must not leave.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bus::Client;
use protocol::error::ErrorCode;
use protocol::params::{JobsListParams, SnapshotMountStatusParams};
use testkit::poll;

use super::{Host, call, try_call};

/// Waits until nothing of any seed is left on these hosts: no unfinished job, hold, mount, staging or secret.
///
/// # Panics
/// With what is left.
pub async fn nothing_left(client: &Client, hosts: &[&Host], within: Duration) {
    poll::until_async(within, "all jobs to end", || async {
        for host in hosts {
            if !call(client, host, JobsListParams { limit: 100, unfinished: true }).await.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for host in hosts {
        match try_call(client, host, SnapshotMountStatusParams {}).await {
            Ok(held) => assert!(held.is_empty(), "{} still holds {held:?}", host.id()),
            // Not every host has snapshots.
            Err(error) => assert_eq!(error.code, ErrorCode::MissingCapability, "{}: {error}", host.id()),
        }
        let root = host.agent.mount_root().display().to_string();
        assert!(!mounts.contains(&root), "{} has left a mount", host.id());
        for private in ["offers", "seeds"] {
            let left = entries(&host.agent.state_dir().join(private));
            assert!(left.is_empty(), "{} keeps {private}: {left:?}", host.id());
        }
        for directory in [host.db.datadir(), host.db.base()] {
            let left: Vec<_> =
                entries(directory).into_iter().filter(|name| name.starts_with(".orch")).collect();
            assert!(left.is_empty(), "{} holds {left:?}", directory.display());
        }
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
