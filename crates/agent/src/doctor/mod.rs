//! What a seed, a snapshot or a replica would lack on this host, before somebody needs it at night: each thing with what was found and
//! the command or the setting that mends it. Only looks.

mod bus;
mod confinement;
mod ground;
mod here;
mod server;

use std::sync::Arc;

use mysql::Instance;
use protocol::host::{Capability, Finding, FindingState};
use protocol::ids::AgentId;

pub(crate) use self::here::{here, json, lacks, text};
use crate::config::Config;
use crate::host::Host;

/// What is looked at: the host of an agent that runs, or of one that does not.
#[derive(Debug)]
struct Place<'a> {
    id: &'a AgentId,
    config: &'a Config,
    instance: &'a Instance,
    /// What makes snapshots, or why nothing does.
    provider: Result<Arc<dyn snapshot::Provider>, String>,
    capabilities: &'a [Capability],
}

/// Everything that was looked at.
pub(crate) async fn look(host: &Host) -> Vec<Finding> {
    let place = Place {
        id: &host.id,
        config: &host.config,
        instance: &host.instance,
        provider: host.snapshots.as_ref().map(|snapshots| snapshots.provider.clone()).map_err(Clone::clone),
        capabilities: &host.capabilities,
    };
    let mut found = vec![bus::events(host), bus::commands(&host.config)];
    found.extend(around(&place).await);
    found
}

/// All but the bus.
async fn around(place: &Place<'_>) -> Vec<Finding> {
    let info = place.instance.info().await;
    let mut found = server::look(place, &info).await;
    found.extend(confinement::of_server(place, &info));
    found.extend(ground::snapshots(place, info.datadir.as_deref()).await);
    found.extend(ground::seeds(place, &info).await);
    found.extend(ground::programs(place));
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
