//! Subcommands about one host: its agent, MySQL, datadir and configured commands.

use jiff::Timestamp;
use protocol::ids::AgentId;
use protocol::params::*;

use super::confirm;
use crate::args::{CustomCmd, DatadirCmd, HostCmd, MysqlCmd, RunArgs};
use crate::error::{CtlError, Result};
use crate::render;
use crate::session::Session;

pub(super) async fn host(session: &Session, host: &AgentId, command: HostCmd) -> Result<()> {
    let out = &session.out;
    match command {
        HostCmd::Info => out.result(&session.call(host, AgentInfoParams {}).await?, render::agent_info),
        HostCmd::Status => out.result(&session.call(host, AgentStatusParams {}).await?, render::heartbeat),
        HostCmd::DiskFree { path } => {
            out.result(&session.call(host, HostDiskFreeParams { path }).await?, render::disk_free);
        }
        HostCmd::DiskUsage { path, fresh } => {
            let usage = session.call(host, HostDiskUsageParams { path, fresh }).await?;
            out.result(&usage, |usage| render::disk_usage(usage, Timestamp::now()));
        }
        HostCmd::Volumes { pattern } => {
            let volumes = session.call(host, HostVolumesParams { pattern }).await?;
            out.result(&volumes, |volumes| render::volumes(volumes));
        }
    }
    Ok(())
}

pub(super) async fn mysql(session: &Session, host: &AgentId, command: MysqlCmd) -> Result<()> {
    let out = &session.out;
    match command {
        MysqlCmd::Info => out.result(&session.call(host, MysqlInfoParams {}).await?, render::server_info),
        MysqlCmd::Start { on_snapshot: None, run, .. } => {
            return session.job(host, MysqlStartParams {}, &run).await;
        }
        MysqlCmd::Start { on_snapshot: Some(snapshot), port, run } => {
            if port.is_none() {
                confirm(session, &format!("Run the service of {host} on snapshot {snapshot}?"))?;
            }
            return session.job(host, MysqlStartOnSnapshotParams { snapshot, port }, &run).await;
        }
        MysqlCmd::Stop { on_snapshot: None, run } => {
            return session.job(host, MysqlStopParams {}, &run).await;
        }
        MysqlCmd::Stop { on_snapshot: Some(snapshot), run } => {
            let lost = "what was written on it is lost";
            confirm(session, &format!("End the server of {host} on snapshot {snapshot} ({lost})?"))?;
            return session.job(host, MysqlLeaveSnapshotParams { snapshot }, &run).await;
        }
        MysqlCmd::Restart(run) => return session.job(host, MysqlRestartParams {}, &run).await,
        MysqlCmd::ErrorLog { lines } => {
            let log = session.call(host, MysqlErrorLogParams { lines }).await?;
            out.result(&log, |log| log.iter().map(|line| format!("{line}\n")).collect());
        }
        MysqlCmd::DiskUsage { fresh } => {
            let usage = session.call(host, MysqlDiskUsageParams { fresh }).await?;
            out.result(&usage, |usage| render::disk_usage(usage, Timestamp::now()));
        }
        MysqlCmd::DiskFree => {
            out.result(&session.call(host, MysqlDiskFreeParams {}).await?, render::disk_free);
        }
    }
    Ok(())
}

pub(super) async fn datadir(session: &Session, host: &AgentId, command: DatadirCmd) -> Result<()> {
    match command {
        DatadirCmd::Clear { datadir, run } => clear(session, host, datadir, &run).await,
        DatadirCmd::PostCopy(run) => session.job(host, DatadirPostCopyParams {}, &run).await,
    }
}

/// The one command that destroys what no snapshot keeps: it is never run on a guess.
async fn clear(
    session: &Session,
    host: &AgentId,
    datadir: Option<std::path::PathBuf>,
    run: &RunArgs,
) -> Result<()> {
    if session.global.yes {
        let Some(datadir) = datadir else {
            return Err(CtlError::usage(
                "datadir clear with --yes must name the datadir that you mean",
                format!("add --datadir PATH (`orchestrator-ctl mysql {host} info` shows it)"),
            ));
        };
        return session.job(host, DatadirClearParams { datadir }, run).await;
    }
    let datadir = match datadir {
        Some(datadir) => datadir,
        None => session.call(host, MysqlInfoParams {}).await?.datadir.ok_or_else(|| CtlError::NotFound {
            what: format!("{host} does not know its datadir"),
            hint: Some(format!(
                "see `orchestrator-ctl mysql {host} info` and `orchestrator-ctl mysql {host} error-log`"
            )),
        })?,
    };
    match session.out.ask(&format!("Remove everything below {} on {host}?", datadir.display())) {
        Some(true) => session.job(host, DatadirClearParams { datadir }, run).await,
        Some(false) => {
            Err(CtlError::Usage { what: "not confirmed; nothing was done".to_owned(), hint: None })
        }
        None => Err(CtlError::usage(
            format!("datadir clear on {host} must be confirmed and there is no terminal to ask on"),
            format!("repeat it with --yes --datadir {}", datadir.display()),
        )),
    }
}

pub(super) async fn custom(session: &Session, host: &AgentId, command: CustomCmd) -> Result<()> {
    match command {
        CustomCmd::List => {
            let commands = session.call(host, CustomListParams {}).await?;
            session.out.result(&commands, |commands| {
                let row = |c: &CustomCommand| {
                    let about = c.about.clone().unwrap_or_default();
                    vec![c.name.clone(), crate::units::duration(c.time_limit_s), about]
                };
                render::table(&["NAME", ">TIME LIMIT", "ABOUT"], commands.iter().map(row).collect())
            });
            Ok(())
        }
        CustomCmd::Run { name, run } => session.job(host, CustomRunParams { name }, &run).await,
    }
}
