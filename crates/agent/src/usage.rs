//! Whether anybody uses the server, seen over a while: a live one must not be taken for a spare.

use std::time::{Duration, Instant};

use mysql::activity::Activity;
use protocol::mysql::ServerInfo;

/// What the looks at one run of a server have shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// The server's process, and when it was first looked at.
    since: Option<(Option<i32>, Instant)>,
    last: Option<Activity>,
    latest: Option<Instant>,
    /// Connections of others until then.
    floor: Option<u64>,
    /// The last look that showed a write, by no applier of a replica.
    written: Option<Instant>,
    /// The last look that showed a client or that somebody had come and gone, and who.
    visited: Option<(Instant, String)>,
}

/// What a plan is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InUse {
    /// Nothing and nobody, for this long.
    No(Duration),
    /// By whom or how it shows.
    Yes(String),
    /// Why it cannot be told.
    Unknown(String),
}

impl Watched {
    /// Adds one look. `grown`: the binary log has grown since the one before.
    pub(crate) fn add(
        &self,
        server: &ServerInfo,
        now: Option<Activity>,
        grown: bool,
        by_counter: bool,
    ) -> Self {
        let Some(now) = now else { return Self::default() };
        let pid = server.pid;
        let at = Instant::now();
        let same_run = self.since.is_some_and(|(known, _)| known == pid);
        let mut watched = if same_run { self.clone() } else { Self::default() };
        watched.since.get_or_insert((pid, at));
        let before = watched.last.take();
        let more_writes = before.as_ref().is_some_and(|before| now.writes > before.writes);
        if server.replica_of.is_none() && (grown || more_writes) {
            watched.written = Some(at);
        }
        // A connection of the agent's own that is being made counts for one look: what two in a row show has come.
        let settled = before.map_or(now.connections, |before| before.connections.min(now.connections));
        let came_and_went = settled.saturating_sub(watched.floor.unwrap_or(settled));
        watched.floor = Some(settled);
        if !now.clients.is_empty() {
            watched.visited = Some((
                at,
                format!(
                    "clients are connected: {} (accounts of monitoring belong into seed.ignored_clients)",
                    now.clients.join(", ")
                ),
            ));
        } else if now.hidden > 0 {
            let text = format!(
                "{} connection(s) that the agent's account may not see (grant it PROCESS)",
                now.hidden
            );
            watched.visited = Some((at, text));
        } else if by_counter && came_and_went > 0 {
            watched.visited = Some((at, format!("{came_and_went} connection(s) came and went")));
        }
        (watched.last, watched.latest) = (Some(now), Some(at));
        watched
    }

    /// What it comes to, where `long_enough` is how long nothing must have shown.
    pub(crate) fn verdict(&self, long_enough: Duration) -> InUse {
        // What the last look showed is of this moment, however short a while is asked for.
        let lately = |at: &Instant| at.elapsed() <= long_enough || self.latest == Some(*at);
        if self.written.as_ref().is_some_and(lately) {
            return InUse::Yes("this server is no replica and takes writes".to_owned());
        }
        if let Some((_, who)) = self.visited.as_ref().filter(|(at, _)| lately(at)) {
            return InUse::Yes(format!("this server is used: {who}"));
        }
        match self.since {
            None => InUse::Unknown("whether anybody uses this server could not be told".to_owned()),
            Some((_, since)) if since.elapsed() < long_enough => InUse::Unknown(format!(
                "whether anybody uses this server cannot be told yet: it has been watched for {} of {} s \
                 (seed.watch_s), ask again in {} s",
                since.elapsed().as_secs(),
                long_enough.as_secs(),
                long_enough.saturating_sub(since.elapsed()).as_secs() + 1
            )),
            Some((_, since)) => InUse::No(since.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::seen::Seen;

    fn server(pid: i32) -> ServerInfo {
        ServerInfo { pid: Some(pid), ..Seen::nothing().server }
    }

    fn activity(writes: u64, connections: u64, clients: &[&str]) -> Option<Activity> {
        let clients = clients.iter().map(|name| (*name).to_owned()).collect();
        Some(Activity { writes, connections, clients, hidden: 0 })
    }

    const SHORT: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    fn used(verdict: &InUse, words: &str) {
        assert!(matches!(verdict, InUse::Yes(why) if why.contains(words)), "{verdict:?}");
    }

    #[test]
    fn what_was_seen_is_remembered_for_a_while_and_not_for_another_run() {
        let first = Watched::default().add(&server(1), activity(5, 2, &[]), false, true);
        assert!(matches!(first.verdict(SHORT), InUse::No(_)), "what it did before is no sign");
        assert!(matches!(first.verdict(LONG), InUse::Unknown(_)), "a moment is no while");
        let wrote = first.add(&server(1), activity(6, 2, &[]), false, true);
        used(&wrote.verdict(SHORT), "takes writes");
        let later = wrote.add(&server(1), activity(6, 2, &[]), false, true);
        used(&later.verdict(LONG), "takes writes");
        assert!(matches!(later.verdict(SHORT), InUse::No(_)));
        let restarted = later.add(&server(2), activity(0, 0, &[]), false, true);
        assert!(matches!(restarted.verdict(LONG), InUse::Unknown(_)));
        used(&first.add(&server(1), activity(5, 2, &[]), true, true).verdict(SHORT), "takes writes");
    }

    #[test]
    fn readers_show_as_clients_or_as_connections_that_came_and_went() {
        let first = Watched::default().add(&server(1), activity(5, 2, &[]), false, true);
        used(
            &first.add(&server(1), activity(5, 3, &["app@10.0.0.1"]), false, true).verdict(SHORT),
            "app@10.0.0.1",
        );
        let twice = |by_counter| {
            let once = first.add(&server(1), activity(5, 3, &[]), false, by_counter);
            assert!(matches!(once.verdict(SHORT), InUse::No(_)), "it may be the agent's own");
            once.add(&server(1), activity(5, 3, &[]), false, by_counter).verdict(SHORT)
        };
        used(&twice(true), "came and went");
        assert!(matches!(twice(false), InUse::No(_)));
        let mut replica = server(1);
        replica.replica_of = Some("db0:3306".into());
        let applied = first.add(&replica, activity(50, 2, &[]), true, true);
        assert!(matches!(applied.verdict(SHORT), InUse::No(_)), "what a replica writes is its source's");
        assert!(matches!(first.add(&server(1), None, false, true).verdict(SHORT), InUse::Unknown(_)));
    }
}
