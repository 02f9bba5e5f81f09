//! What a seed, a snapshot or a replica would lack on this host, before somebody needs it at night: each thing with what was found and
//! the command or the setting that mends it. Only looks.

mod confinement;
mod ground;
mod server;

use protocol::host::{Finding, FindingState};

use crate::host::Host;

/// Everything that was looked at.
pub(crate) async fn look(host: &Host) -> Vec<Finding> {
    let info = host.instance.info().await;
    let mut found = ground::bus(host);
    found.extend(server::look(host, &info).await);
    found.extend(confinement::of_server(host, &info));
    found.extend(ground::snapshots(host).await);
    found.extend(ground::seeds(host, &info).await);
    found.extend(ground::programs(host));
    found
}

fn fine(area: &str, what: &str, detail: impl Into<String>) -> Finding {
    finding(FindingState::Fine, area, what, detail, None)
}

fn weak(area: &str, what: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
    finding(FindingState::Weak, area, what, detail, Some(mend.into()))
}

fn unknown(area: &str, what: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
    finding(FindingState::Unknown, area, what, detail, Some(mend.into()))
}

fn missing(area: &str, what: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
    finding(FindingState::Missing, area, what, detail, Some(mend.into()))
}

fn finding(
    state: FindingState,
    area: &str,
    what: &str,
    detail: impl Into<String>,
    mend: Option<String>,
) -> Finding {
    Finding { area: area.to_owned(), what: what.to_owned(), state, detail: detail.into(), mend }
}
