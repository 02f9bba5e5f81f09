//! The MySQL instance: whether it answers, what others can make of its data, and who starts it.

use protocol::host::Finding;
use protocol::mysql::{Layout, ServerInfo, ServerState};

use super::{Place, fine, missing, unknown, weak};
use crate::host::chain;

const AREA: &str = "mysql";

pub(super) async fn look(place: &Place<'_>, info: &ServerInfo) -> Vec<Finding> {
    let mut found = vec![log_in(place, info).await, service(place).await];
    if let Some(layout) = &info.layout {
        found.push(binary_log(layout));
        found.push(in_one_place(layout));
    }
    found.push(server_id(info.server_id));
    found
}

async fn log_in(place: &Place<'_>, info: &ServerInfo) -> Finding {
    let what = "log-in";
    if info.state == ServerState::Stopped {
        let detail = "the server is stopped: what only it can tell was not looked at";
        return unknown(AREA, what, detail, format!("orchestrator-ctl mysql {} start", place.id));
    }
    match place.instance.connect().await {
        Ok(session) => {
            session.close().await;
            let version = info.version.as_ref().map_or("a server", |version| version.text.as_str());
            fine(AREA, what, version)
        }
        Err(error) => {
            let mend = "mysql.client_option_file in the agent's configuration: a [client] group with the user and the password of an \
                        account, mode 0600";
            missing(AREA, what, chain(&error), mend)
        }
    }
}

async fn service(place: &Place<'_>) -> Finding {
    let what = "service";
    match place.instance.unit_facts().await {
        Ok(Some(facts)) if facts.is_masked() => {
            let mend = format!("systemctl unmask {}", facts.unit);
            weak(AREA, what, format!("{} is masked: the agent cannot start it", facts.unit), mend)
        }
        Ok(Some(facts)) => {
            let starters = facts.starters().map_or_else(String::new, |starters| {
                format!("; {starters} would start it again, and cannot while a seed swaps the datadir")
            });
            fine(AREA, what, format!("{}{starters}", facts.unit))
        }
        Ok(None) => weak(
            AREA,
            what,
            "no unit of systemd runs it: who starts it again in the middle of a swap is not known here",
            "mysql.service in the agent's configuration, if there is a unit",
        ),
        Err(error) => unknown(AREA, what, chain(&error), "systemctl status mariadb mysql"),
    }
}

fn binary_log(layout: &Layout) -> Finding {
    let what = "binary log";
    match &layout.log_bin {
        Some(log) => fine(AREA, what, log.display().to_string()),
        None => missing(
            AREA,
            what,
            "it is off: snapshots have no position, and nothing can replicate from this server",
            "log_bin = binlog in [mysqld], then restart the server",
        ),
    }
}

/// A snapshot is of the datadir's volume only.
fn in_one_place(layout: &Layout) -> Finding {
    let elsewhere = [
        ("innodb_data_home_dir", &layout.innodb_data_home_dir),
        ("innodb_log_group_home_dir", &layout.innodb_log_group_home_dir),
        ("innodb_undo_directory", &layout.innodb_undo_directory),
    ];
    let named = elsewhere
        .into_iter()
        .filter_map(|(name, path)| Some(format!("{name} = {}", path.as_ref()?.display())));
    let further = layout.further_dirs.iter().map(|path| path.display().to_string());
    let outside: Vec<String> = named.chain(further).collect();
    if outside.is_empty() {
        return fine(AREA, "layout", "all data lie in the datadir");
    }
    let detail = format!("a seed is refused, for data lie outside the datadir: {}", outside.join(", "));
    missing(AREA, "layout", detail, "move them into the datadir and take the options out of the option file")
}

fn server_id(id: Option<u32>) -> Finding {
    let what = "server_id";
    let mend = "server_id = a number that no other server has, in [mysqld], then restart the server";
    match id {
        Some(0) => missing(AREA, what, "0: this server can neither replicate nor be replicated from", mend),
        None | Some(1) => {
            weak(AREA, what, "1, the default: of two such servers none can follow the other", mend)
        }
        Some(id) => fine(AREA, what, id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::host::FindingState;

    use super::*;

    #[test]
    fn an_id_that_many_have_is_weak_and_one_that_none_can_have_is_missing() {
        let states = [Some(0), Some(1), None, Some(4711)].map(|id| server_id(id).state);
        assert_eq!(
            states,
            [FindingState::Missing, FindingState::Weak, FindingState::Weak, FindingState::Fine]
        );
    }
}
