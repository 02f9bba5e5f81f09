//! Orchestrator's part of a seed, in its order, with its pauses and with its way of taking everything for success that has a status.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::Node;
use crate::program::Gateway;
use crate::web;

/// Between two looks at a seed.
const POLL: Duration = Duration::from_secs(30);
/// Polls of an unchanged figure after which a seed is given up.
const STALE: usize = 10;

/// What one poll of a host tells.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    pub(crate) snapshots: Value,
    pub(crate) mount: Value,
    pub(crate) runs: bool,
    pub(crate) used: i64,
    pub(crate) free: i64,
}

/// Orchestrator, as far as it drives seeds.
#[derive(Debug)]
pub(crate) struct Driver {
    to: SocketAddr,
    tokens: Vec<(String, String)>,
    /// Bytes on the recipient, poll after poll.
    pub(crate) figures: std::sync::Mutex<Vec<i64>>,
}

impl Driver {
    /// Knows these hosts by what the node was told.
    pub(crate) async fn of(gateway: &Gateway, node: &Node, hosts: &[&str]) -> Self {
        let mut tokens = Vec::new();
        for host in hosts {
            tokens.push(((*host).to_owned(), node.agent(host).await.1));
        }
        Self { to: gateway.address(), tokens, figures: std::sync::Mutex::default() }
    }

    /// The same with one more host.
    pub(crate) fn with(&self, host: &str, token: &str) -> Self {
        let mut tokens = self.tokens.clone();
        tokens.push((host.to_owned(), token.to_owned()));
        Self { to: self.to, tokens, figures: std::sync::Mutex::default() }
    }

    fn token(&self, host: &str) -> &str {
        &self.tokens.iter().find(|(name, _)| name == host).unwrap().1
    }

    /// One request; an error only where there is no answer at all.
    pub(crate) async fn order(&self, host: &str, path: &str) -> Result<Value, String> {
        let with = if path.contains('?') { '&' } else { '?' };
        let path = format!("/api/{path}{with}token={}", self.token(host));
        let reply = web::get(self.to, host, &path).await.ok_or_else(|| format!("EOF: {host} {path}"))?;
        Ok(reply.json())
    }

    /// All nine questions, one after the other; what fails leaves its zero.
    pub(crate) async fn poll(&self, host: &str) -> Agent {
        let ask = async |path: &str| self.order(host, path).await.unwrap_or_default();
        ask("available-snapshots-local").await;
        ask("available-snapshots").await;
        let snapshots = ask("lvs-snapshots").await;
        let mount = ask("mount").await;
        let runs = ask("mysql-status").await.as_bool().unwrap_or_default();
        ask("mysql-port").await;
        let used = ask("mysql-du").await.as_i64().unwrap_or_default();
        let free = ask("mysql-datadir-available-space").await.as_i64().unwrap_or_default();
        ask("mysql-error-log-tail").await;
        Agent { snapshots, mount, runs, used, free }
    }

    /// Seeds `target` from `source` as `/api/agent-seed/:target/:source` does.
    pub(crate) async fn seed(&self, target: &str, source: &str, id: u64) -> Result<Duration, String> {
        let begun = Instant::now();
        if self.poll(target).await.runs {
            return Err(format!("MySQL is running on target host {target}. Cannot proceed with seed"));
        }
        let from = self.poll(source).await;
        let volume =
            from.snapshots[0]["Path"].as_str().ok_or("No logical volumes found on source host")?.to_owned();
        if from.mount["IsMounted"].as_bool().unwrap_or_default() {
            return Err("Volume already mounted on source host".to_owned());
        }
        self.order(source, &format!("mountlv?lv={volume}")).await?;
        let from = self.poll(source).await;
        let needed = from.mount["MySQLDiskUsage"].as_i64().unwrap_or_default();
        self.order(target, "delete-mysql-datadir").await?;
        if needed > self.poll(target).await.free {
            return Err("Not enough disk space on target host".to_owned());
        }
        // What these two say is not looked at.
        let _ = self.order(target, &format!("receive-mysql-seed-data/{id}")).await;
        let _ = self.order(source, &format!("send-mysql-seed-data/{target}/{id}")).await;
        self.copied(target, source, id).await?;
        self.order(target, &format!("post-copy/?sourceHost={source}")).await?;
        self.order(source, "umount").await?;
        self.order(target, "mysql-start").await?;
        Ok(begun.elapsed())
    }

    async fn copied(&self, target: &str, source: &str, id: u64) -> Result<(), String> {
        let (mut stale, mut before) = (0, 0);
        let mut pace = tokio::time::interval(POLL);
        loop {
            pace.tick().await;
            let used = self.poll(target).await.used;
            self.figures.lock().unwrap().push(used);
            stale += usize::from(used == before);
            before = used;
            let over = self.order(target, &format!("seed-command-completed/{id}")).await;
            let over = over.is_ok_and(|over| over == true);
            let well = over && self.order(target, &format!("seed-command-succeeded/{id}")).await? == true;
            if (over && !well) || stale > STALE {
                for host in [target, source] {
                    let _ = self.order(host, &format!("abort-seed/{id}")).await;
                }
                let _ = self.order(source, "umount").await;
                return Err("10 iterations have passed without progress. Bailing out.".to_owned());
            }
            if over {
                return Ok(());
            }
            // It waits from the answer on.
            pace.reset();
        }
    }
}
