//! One host: what its heartbeats say, and what it answers when it is asked now.

use std::sync::Arc;

use bus::{FleetEntry, Health};
use maud::{Markup, html};
use protocol::ids::AgentId;
use protocol::mysql::ServerInfo;
use protocol::params::{MysqlErrorLogParams, MysqlInfoParams, SnapshotListParams};
use protocol::snapshot::{Snapshot, Validity};
use sys::units;

use super::super::act::Order;
use super::super::desk::Desk;
use super::super::past::Wanted;
use super::super::place::{self, Level};
use super::super::trouble::{Grade, Trouble};
use super::{Moment, Part, Screen, bits, events};
use crate::failure::Failure;

/// Lines of the error log that are asked for.
const LOG_LINES: u32 = 200;
/// Lines that are shown.
const SHOWN_LINES: usize = 60;
/// Events of the host that are shown.
const EVENTS: usize = 12;

type Asked<T> = Result<Arc<T>, Failure>;

pub(super) async fn screen(desk: &Desk, moment: &Moment, agent: &AgentId, level: Level) -> Screen {
    let entry = moment.fleet.iter().find(|entry| entry.heartbeat.agent == *agent);
    let last = desk.past.look(|past| past.hosts.get(agent).cloned());
    let Some(entry) = entry else {
        return match last {
            None => super::missing(&format!("No host {agent} has been heard of.")),
            Some(last) => super::missing(&format!(
                "{agent} of cluster {} is not heard of; its last event was at {}.",
                last.cluster,
                units::time(last.at)
            )),
        };
    };
    let troubles: Vec<Trouble> =
        desk.troubles(moment).into_iter().filter(|trouble| trouble.host.as_ref() == Some(agent)).collect();
    let (server, snapshots, log) = ask(desk, entry).await;
    let wanted = Wanted { host: agent.to_string(), ..Wanted::default() };
    let (lines, _) = desk.past.look(|past| past.log.find(&wanted, EVENTS));
    let parts = vec![
        Part::whole("host", heading(entry, &troubles)),
        Part::whole("server", card_server(entry, &server)),
        Part::whole("disk", card_disk(entry)),
        Part::whole("snaps", card_snapshots(entry, &snapshots, desk.has_actions)),
        Part::whole("errors", card_log(agent, level, &log)),
        Part::whole(
            "lately",
            html! {
                section #lately .card aria-labelledby="lately-title" {
                    h2 #lately-title { "Lately" " " a .more href=(place::link("/events", &[("host", agent.as_str())])) { "all events" } }
                    @if lines.is_empty() { p .dim { "No event of it is known." } } @else { (events::table(&lines, false)) }
                }
            },
        ),
    ];
    Screen::new(agent.as_str(), html! {}, parts)
}

/// Asks all at once; one that is lost is not asked.
async fn ask(
    desk: &Desk,
    entry: &FleetEntry,
) -> (Asked<ServerInfo>, Asked<Vec<Snapshot>>, Asked<Vec<String>>) {
    let agent = &entry.heartbeat.agent;
    if entry.health == Health::Lost {
        let lost = || Failure::new("It is lost and was not asked.");
        return (Err(lost()), Err(lost()), Err(lost()));
    }
    tokio::join!(
        desk.query(agent, MysqlInfoParams {}),
        desk.query(agent, SnapshotListParams { usable: false }),
        desk.query(agent, MysqlErrorLogParams { lines: LOG_LINES }),
    )
}

fn heading(entry: &FleetEntry, troubles: &[Trouble]) -> Markup {
    let beat = &entry.heartbeat;
    let grade = troubles.first().map(|trouble| trouble.kind.grade());
    html! {
        section #host .heading {
            h1 { (bits::sign(grade)) (beat.agent) }
            p {
                a href=(place::link("/", &[("cluster", &beat.cluster)])) { (beat.cluster) } " in "
                a href=(place::link("/", &[("dc", &beat.dc)])) { (beat.dc) }
                " · agent " (beat.version) ", up " (bits::age(beat.started_at))
                @if entry.health != Health::Alive { " · " span .bad-ink { "last heard of " (bits::ago(beat.sent_at)) } }
            }
            @if !troubles.is_empty() {
                ul .troubles { @for trouble in troubles {
                    li .item .(bits::class(Some(trouble.kind.grade()))) {
                        span .who { (bits::sign(Some(trouble.kind.grade()))) b { (trouble.kind.title()) } }
                        span .cause { (trouble.cause) @if let Some(since) = trouble.since { " " span .dim { (bits::ago(since)) } } }
                        (bits::command(&trouble.mend))
                    }
                } }
            }
        }
    }
}

/// What a host did not tell now, and what stands in for it.
fn unanswered(entry: &FleetEntry, failure: &Failure) -> Markup {
    html! {
        p .note { (failure) " What follows is from its heartbeat, " (bits::ago(entry.heartbeat.sent_at)) "." }
    }
}

fn fact(name: &str, value: Option<Markup>) -> Markup {
    html! { @if let Some(value) = value { dt { (name) } dd { (value) } } }
}

fn text<T: maud::Render>(value: Option<T>) -> Option<Markup> {
    value.map(|value| html! { (value) })
}

fn card_server(entry: &FleetEntry, asked: &Asked<ServerInfo>) -> Markup {
    let mysql = &entry.heartbeat.mysql;
    let info = asked.as_deref().ok();
    let state = info.map_or(mysql.state, |info| info.state);
    let source = info.map_or(&mysql.replica_of, |info| &info.replica_of);
    let lag = info.map_or(mysql.lag_seconds, |info| info.lag_seconds);
    let read_only = info.map_or(mysql.read_only, |info| info.read_only);
    let version = info.map_or(&mysql.version, |info| &info.version);
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| html! { code { (path.display()) } });
    let at = info.and_then(|info| info.coordinates.as_ref());
    html! {
        section #server .card aria-labelledby="server-title" {
            h2 #server-title { "MySQL" }
            @if let Err(failure) = asked { (unanswered(entry, failure)) }
            dl .facts {
                (fact("state", Some(html! { b { (bits::word(&state)) } @if read_only == Some(true) { " · read only" } })))
                (fact("version", text(version.as_ref().map(|version| version.text.as_str()))))
                (fact("port", text(info.map_or(mysql.port, |info| info.port))))
                (fact("server id", text(info.and_then(|info| info.server_id))))
                (fact("replica of", Some(source.as_ref().map_or_else(|| html! { span .dim { "nobody" } }, |source| html! {
                    (source) @if let Some(lag) = lag { ", " (units::duration(lag)) " behind" }
                }))))
                (fact("its replicas", text(info.and_then(|info| info.replicas))))
                (fact("binary log", at.and_then(|at| at.binlog.as_ref()).map(|log| html! { code { (log.file) ":" (log.position) } })))
                (fact("GTID", at.and_then(|at| at.gtid.as_ref()).map(|gtid| html! { code { (gtid) } })))
                @if let Some(info) = info {
                    (fact("datadir", path(&info.datadir)))
                    (fact("error log", path(&info.error_log)))
                    (fact("socket", path(&info.socket)))
                }
            }
        }
    }
}

fn card_disk(entry: &FleetEntry) -> Markup {
    let beat = &entry.heartbeat;
    let (free, used) = (beat.free_bytes, beat.mysql.datadir_bytes);
    let percent = free.map(|free| {
        let used = used.unwrap_or_default() as f64;
        used * 100.0 / (used + free as f64).max(1.0)
    });
    html! {
        section #disk .card aria-labelledby="disk-title" {
            h2 #disk-title { "Disk and load" }
            @if let Some(percent) = percent {
                (bits::bar(percent, (percent > 90.0).then_some(Grade::Bad), &format!("the datadir takes {percent:.0} % of what it could")))
            }
            dl .facts {
                (fact("datadir", text(used.map(units::size))))
                (fact("free", text(free.map(units::size))))
                @if let Some(load) = &beat.load {
                    (fact("load", load.load_1m.map(|mean| html! { (format!("{mean:.1}")) " on " (bits::count(load.cpus as usize, "processor", "processors")) })))
                    (fact("waits for disks", load.io_pressure_percent.map(|part| html! { (format!("{part:.1} %")) })))
                    (fact("statements at work", text(load.threads_running)))
                }
                (fact("commands", Some(if beat.accepts_unsigned { html! { span .weak-ink { "unsigned ones too" } } } else { html! { "signed only" } })))
            }
            @for job in &beat.jobs {
                p { @if job.kind == "seed.start" { a href=(format!("/seed/{}", job.id)) { "seed" } } @else { (job.kind) }
                    " " span .dim { (job.stage.as_deref().unwrap_or_default()) } @if let Some(percent) = job.percent { " " (percent) " %" } }
            }
        }
    }
}

fn card_snapshots(entry: &FleetEntry, asked: &Asked<Vec<Snapshot>>, has_actions: bool) -> Markup {
    let agent = &entry.heartbeat.agent;
    html! {
        section #snaps .card .broad aria-labelledby="snaps-title" {
            h2 #snaps-title { "Snapshots" @if has_actions { " " (bits::order(&Order::Create(agent.clone()), "create one")) } }
            @match asked {
                Ok(snapshots) if snapshots.is_empty() => {
                    p .dim { "It has none. " }
                    (bits::command(&format!("orchestrator-ctl snapshot create {}", entry.heartbeat.agent)))
                }
                Ok(snapshots) => {
                    table .list {
                        thead { tr { th scope="col" { "Snapshot" } th scope="col" { "Made" } th scope="col" { "Proof" } th scope="col" .wide { "Fill" } th scope="col" .wide { "Held by" } } }
                        tbody { @for snapshot in snapshots.iter() { (snapshot_row(snapshot, has_actions.then_some(agent))) } }
                    }
                }
                Err(failure) => {
                    (unanswered(entry, failure))
                    table .list { tbody { @for snapshot in &entry.heartbeat.snapshots {
                        tr .item { td { code { (snapshot.id) } } td { (bits::ago(snapshot.created_at)) }
                            td { @if snapshot.proven { span .good-ink { "proven" } } @else if !snapshot.usable { span .bad-ink { "not usable" } } } }
                    } } }
                }
            }
        }
    }
}

fn snapshot_row(snapshot: &Snapshot, verifies: Option<&AgentId>) -> Markup {
    let meta = snapshot.meta.as_ref();
    let proof = meta.and_then(|meta| meta.proof.as_ref());
    let holders: Vec<&str> =
        snapshot.mounts.iter().flat_map(|mount| &mount.holders).map(String::as_str).collect();
    html! {
        tr .item {
            td { code { (snapshot.id) } " " span .dim { (bits::word(&snapshot.provider)) }
                @if let Some(foreign) = &snapshot.foreign { " " span .badge .weak title=(foreign) { "foreign" } } }
            td { (bits::ago(snapshot.created_at)) @if let Some(at) = meta.and_then(|meta| meta.expires_at) {
                " " span .dim { "until " time datetime=(at.to_string()) { (units::time(at)) } } } }
            td { @match (&snapshot.validity, proof) {
                (Validity::Invalid(why), _) => { span .badge .bad { "lost" } " " (why) }
                (_, Some(proof)) if proof.passed && proof.unchecked_tables == 0 => { span .good-ink title=(proof.detail) { "proven" } " " span .dim { (bits::ago(proof.checked_at)) } }
                (_, Some(proof)) if proof.passed => { span .weak-ink title=(proof.detail) { "in part" } " " span .dim { (proof.unchecked_tables) " tables unchecked" } }
                (_, Some(proof)) => { span .badge .bad { "failed" } " " (proof.detail) }
                (Validity::Unknown(why), None) => { span .weak-ink { "cannot be told" } " " span .dim { (why) } }
                (Validity::Valid, None) => { span .dim { "not proven" } }
            }
                @if let Some(agent) = verifies.filter(|_| snapshot.is_usable()) { " " (bits::order(&Order::Verify(agent.clone(), snapshot.id.clone()), "verify")) }
            }
            td .wide { @match snapshot.fill_percent {
                Some(fill) => { (bits::bar(fill, (fill > 80.0).then_some(Grade::Bad), &format!("{fill:.0} % full"))) " " (format!("{fill:.0} %")) }
                None => (bits::dash()),
            } }
            td .wide { @if holders.is_empty() { (bits::dash()) } @else { (holders.join(", ")) } }
        }
    }
}

/// The level that a line of MySQL's or MariaDB's log tells; lines below it belong to it.
fn level_of(line: &str) -> Option<Level> {
    let tag = line.split('[').skip(1).filter_map(|part| part.split_once(']')).map(|(tag, _)| tag);
    tag.take(2).find_map(|tag| match tag.to_ascii_lowercase().as_str() {
        "error" => Some(Level::Error),
        "warning" => Some(Level::Warning),
        "note" | "system" | "information" => Some(Level::Note),
        _ => None,
    })
}

fn card_log(agent: &AgentId, level: Level, asked: &Asked<Vec<String>>) -> Markup {
    let mut lines = Vec::new();
    let mut now = Level::Note;
    for line in asked.as_deref().map(Vec::as_slice).unwrap_or_default() {
        now = level_of(line).unwrap_or(now);
        lines.push((now, line));
    }
    let count = |least: Level| lines.iter().filter(|(of, _)| *of >= least).count();
    let shown: Vec<_> = lines.iter().rev().filter(|(of, _)| *of >= level).take(SHOWN_LINES).collect();
    html! {
        section #errors .card .broad aria-labelledby="errors-title" {
            h2 #errors-title { "Error log" " " span .choices { @for (of, word, title) in Level::ALL {
                a href=(place::link(&place::host(agent), &[("level", word)])) aria-current=[(of == level).then_some("true")] { (title) " " (count(of)) }
            } } }
            @match asked {
                Err(failure) => { p .note { (failure) } (bits::command(&format!("orchestrator-ctl mysql {agent} error-log"))) }
                Ok(_) if shown.is_empty() => { p .dim { "No such line among the last " (lines.len()) "." } }
                Ok(_) => { ol .log tabindex="0" aria-label="Lines, the newest last" { @for (of, line) in shown.iter().rev() {
                    li class=(match of { Level::Error => "bad", Level::Warning => "weak", Level::Note => "" }) { (line) }
                } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_both_vendors() {
        for (line, level) in [
            ("2026-11-23  3:41:59 0 [Note] /usr/sbin/mariadbd: ready", Some(Level::Note)),
            ("2026-11-23 03:41:59 0 [ERROR] InnoDB: x", Some(Level::Error)),
            ("2026-11-23T03:41:59.1Z 0 [Warning] [MY-010068] [Server] CA certificate", Some(Level::Warning)),
            ("2026-11-23T03:41:59.1Z 0 [ERROR] [MY-010119] [Server] Aborting", Some(Level::Error)),
            ("    at [line] 3", None),
            ("plain", None),
        ] {
            assert_eq!(level_of(line), level, "{line}");
        }
    }
}
