//! What hosts lack, asked of each.

use futures_util::{StreamExt as _, stream};
use protocol::host::FindingState;
use protocol::ids::AgentId;
use protocol::params::AgentDoctorParams;

use crate::args::DoctorArgs;
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::render::{self, Examined};
use crate::session::Session;

/// Hosts that are asked at once: each looks at its disks and its server.
const AT_ONCE: usize = 64;

pub(super) async fn run(session: &Session, args: DoctorArgs) -> Result<()> {
    let hosts = if args.hosts.is_empty() { everyone(session).await? } else { args.hosts };
    if hosts.is_empty() {
        return Err(CtlError::usage(
            "no agent answers on this bus",
            "name hosts, or see `orchestrator-ctl fleet` and `orchestrator-ctl bus status`",
        ));
    }
    let asked = stream::iter(hosts).map(|host| examine(session, host)).buffered(AT_ONCE);
    let examined: Vec<Examined> = asked.collect().await;
    session.out.result(&examined, |examined| render::doctor(examined, args.all));
    let lacks = |host: &Examined| {
        host.error.is_some() || host.findings.iter().any(|finding| finding.state == FindingState::Missing)
    };
    if examined.iter().any(lacks) { Err(CtlError::Told(Exit::Failed)) } else { Ok(()) }
}

pub(super) async fn everyone(session: &Session) -> Result<Vec<AgentId>> {
    let mut hosts: Vec<AgentId> = session.fleet().await?.into_iter().map(|beat| beat.agent).collect();
    hosts.sort();
    hosts.dedup();
    Ok(hosts)
}

async fn examine(session: &Session, host: AgentId) -> Examined {
    match session.call(&host, AgentDoctorParams {}).await {
        Ok(findings) => Examined { host, findings, error: None },
        Err(error) => Examined { host, findings: Vec::new(), error: Some(error.to_string()) },
    }
}
