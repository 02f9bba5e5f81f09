//! Whether anybody uses the server, asked at each look and by each plan.

use protocol::mysql::{ServerInfo, ServerState};

use crate::host::Host;
use crate::state::seen::Seen;
use crate::usage::Watched;

/// One more look at who uses the server; also a plan takes one, for the moment that it is made in.
pub(crate) async fn watch(host: &Host, before: &Seen, server: &ServerInfo) -> Watched {
    let config = &host.config.seed;
    let activity = match server.state {
        ServerState::Ready => mysql::activity::look(&host.instance, &config.ignored_clients).await.ok(),
        _ => None,
    };
    // The counter knows no names: with clients that do not count, only those that are met tell something.
    let by_counter = config.watch_s > 0 && config.ignored_clients.is_empty();
    before.watched.add(server, activity, has_grown(&before.server, server), by_counter)
}

/// The binary log of a server that is no replica grew. A restart rotates the log and is no write.
pub(crate) fn has_grown(before: &ServerInfo, now: &ServerInfo) -> bool {
    let position = |server: &ServerInfo| server.coordinates.as_ref().and_then(|c| c.binlog.clone());
    match (position(before), position(now)) {
        (Some(old), Some(new)) => {
            now.replica_of.is_none()
                && before.pid == now.pid
                && (old.file != new.file || old.position != new.position)
        }
        _ => false,
    }
}
