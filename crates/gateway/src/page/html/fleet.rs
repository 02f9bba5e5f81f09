//! The fleet as a table, by cluster.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use bus::{FleetEntry, Health};
use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::heartbeat::{Heartbeat, MysqlSummary, SnapshotSummary};
use protocol::ids::AgentId;
use protocol::mysql::ServerState;
use sys::units;

use super::super::place::{self, Filter, Sort};
use super::super::trouble::{Grade, Kind, Trouble};
use super::{Moment, Part, bits};

/// A larger table is of no use to a person, and slow in a browser.
const MAX_ROWS: usize = 3_000;

/// Rows of one table where there are no clusters.
const CHUNK: usize = 50;

/// Names of the columns, their classes, and the order by them.
const COLUMNS: [(&str, &str, Option<Sort>); 7] = [
    ("Host", "", Some(Sort::Host)),
    ("DC", "wide", None),
    ("MySQL", "", Some(Sort::Trouble)),
    ("Replication", "wide", Some(Sort::Lag)),
    ("Disk", "wide", Some(Sort::Free)),
    ("Snapshot", "", Some(Sort::Snapshot)),
    ("Jobs", "wide", None),
];

/// A host with the worst of what is wrong with it.
struct Row<'a> {
    entry: &'a FleetEntry,
    kinds: &'a [Kind],
}

impl Row<'_> {
    fn beat(&self) -> &Heartbeat {
        &self.entry.heartbeat
    }

    fn worst(&self) -> Option<Kind> {
        self.kinds.first().copied()
    }
}

/// All hosts that pass the filter, a table for each cluster or for so many rows: what is not in sight is not laid out.
pub(super) fn parts(moment: &Moment, troubles: &[Trouble], filter: &Filter) -> Vec<Part> {
    let mut kinds: HashMap<&AgentId, Vec<Kind>> = HashMap::new();
    for trouble in troubles {
        if let Some(host) = &trouble.host {
            kinds.entry(host).or_default().push(trouble.kind);
        }
    }
    let of = |entry| Row { kinds: kinds.get(&entry_agent(entry)).map_or(&[][..], Vec::as_slice), entry };
    let mut rows: Vec<Row<'_>> = moment.fleet.iter().map(of).filter(|row| passes(row, filter)).collect();
    let found = rows.len();
    sort(&mut rows, filter.sort);
    rows.truncate(MAX_ROWS);
    let mut parts = vec![Part::whole("fleet", heading(moment.fleet.len(), found, filter))];
    if filter.sort == Sort::Cluster {
        for group in rows.chunk_by(|a, b| a.beat().cluster == b.beat().cluster) {
            let Some(first) = group.first() else { continue };
            let cluster = &first.beat().cluster;
            parts.push(table(cluster_id(cluster), of_cluster(cluster, group), group, true));
        }
    } else {
        for (number, group) in rows.chunks(CHUNK).enumerate() {
            parts.push(table(format!("g-{number}"), html! {}, group, false));
        }
    }
    parts
}

fn table(id: String, caption: Markup, rows: &[Row<'_>], is_grouped: bool) -> Part {
    let columns = html! { thead .unseen { tr { @for (name, ..) in COLUMNS { th scope="col" { (name) } } } } };
    let open = format!(
        "<section class=\"group{}\" id=\"{}\">{}<table class=\"list fixed\">{}<tbody>",
        if is_grouped { "" } else { " flat" },
        html! { (id) }.into_string(),
        caption.into_string(),
        columns.into_string()
    );
    let rows = rows.iter().map(|row| (host_id(&row.beat().agent), line(row, is_grouped))).collect();
    Part::of_rows(id, PreEscaped(open), rows, "</tbody></table></section>")
}

fn entry_agent(entry: &FleetEntry) -> &AgentId {
    &entry.heartbeat.agent
}

fn host_id(agent: &AgentId) -> String {
    format!("h-{agent}")
}

fn cluster_id(cluster: &str) -> String {
    format!("c-{}", utf8_percent_encode(cluster, NON_ALPHANUMERIC))
}

fn passes(row: &Row<'_>, filter: &Filter) -> bool {
    let beat = row.beat();
    let words = || {
        let titles: Vec<&str> = row.kinds.iter().map(|kind| kind.title()).collect();
        let source = beat.mysql.replica_of.as_deref().unwrap_or_default();
        let version = beat.mysql.version.as_ref().map(|version| version.text.as_str()).unwrap_or_default();
        format!(
            "{} {} {} {} {source} {version} {}",
            beat.agent,
            beat.cluster,
            beat.dc,
            bits::word(&beat.mysql.state),
            titles.join(" ")
        )
    };
    filter.trouble.is_none_or(|kind| row.kinds.contains(&kind)) && filter.has(&beat.cluster, &beat.dc, words)
}

fn sort(rows: &mut [Row<'_>], by: Sort) {
    let grade = |row: &Row<'_>| row.worst().map_or(u8::MAX, |kind| kind as u8);
    match by {
        Sort::Host => {}
        Sort::Cluster => {
            let mut worst: HashMap<String, u8> = HashMap::new();
            for row in rows.iter() {
                // What all hosts of a fleet may have moves no cluster up.
                let grade = if row.worst().is_some_and(|kind| kind.grade() == Grade::Bad) {
                    grade(row)
                } else {
                    u8::MAX
                };
                let of = worst.entry(row.beat().cluster.clone()).or_insert(u8::MAX);
                *of = (*of).min(grade);
            }
            rows.sort_by(|a, b| {
                let key = |row: &Row<'_>| worst.get(&row.beat().cluster).copied();
                (key(a), &a.beat().cluster, grade(a)).cmp(&(key(b), &b.beat().cluster, grade(b)))
            });
        }
        Sort::Trouble => rows.sort_by_key(|row| (grade(row), Reverse(row.kinds.len()))),
        Sort::Lag => rows.sort_by_key(|row| Reverse(row.beat().mysql.lag_seconds.map(|lag| lag + 1))),
        Sort::Free => rows.sort_by_key(|row| row.beat().free_bytes.unwrap_or(u64::MAX)),
        Sort::Snapshot => rows.sort_by_key(|row| newest(row.beat(), |_| true)),
    }
}

fn heading(all: usize, found: usize, filter: &Filter) -> Markup {
    html! {
        section #fleet .flat[filter.sort != Sort::Cluster] aria-labelledby="fleet-title" {
            h2 #fleet-title { "Fleet " span .count { @if found == all { (all) } @else { (found) " of " (all) } } }
            @if found == 0 { p .calm { "No host passes this filter. " a href="/" { "All hosts" } } }
            @else { p .columns { @for (name, class, sort) in COLUMNS { span .(class) { @match sort {
                Some(sort) => { a href=(Filter { sort, ..filter.clone() }.link("/")) aria-current=[(sort == filter.sort).then_some("true")] { (name) } }
                None => (name),
            } } } } }
            @if found > MAX_ROWS { p .calm { "The first " (MAX_ROWS) " of them; filter for the others." } }
        }
    }
}

/// A cluster above its hosts.
fn of_cluster(cluster: &str, rows: &[Row<'_>]) -> Markup {
    let mut dcs: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *dcs.entry(&row.beat().dc).or_default() += 1;
    }
    let alive = || rows.iter().filter(|row| row.entry.health != Health::Lost);
    let usable = alive().filter_map(|row| newest(row.beat(), |_| true)).max();
    let proven = alive().filter_map(|row| newest(row.beat(), |snapshot| snapshot.proven)).max();
    html! {
        h3 {
                a href=(place::link("/", &[("cluster", cluster)])) { (cluster) }
                " " span .dim { @for (index, (dc, count)) in dcs.iter().enumerate() {
                    @if index > 0 { " · " }
                    (dc) " " (count)
                } }
                span .newest {
                    @match usable { Some(at) => { "snapshot " (bits::age(at)) } None => { span .bad-ink { "no snapshot" } } }
                    " · "
                    @match proven { Some(at) => { "proven " (bits::age(at)) } None => { span .weak-ink { "none proven" } } }
                }
        }
    }
}

fn newest(beat: &Heartbeat, wanted: impl Fn(&SnapshotSummary) -> bool) -> Option<Timestamp> {
    let usable =
        beat.snapshots.iter().filter(|snapshot| snapshot.usable && !snapshot.foreign && wanted(snapshot));
    usable.map(|snapshot| snapshot.created_at).max()
}

fn line(row: &Row<'_>, is_grouped: bool) -> Markup {
    let beat = row.beat();
    let grade = row.worst().map(Kind::grade);
    html! {
        tr .item .(bits::class(grade)) .old[row.entry.health == Health::Lost] id=(host_id(&beat.agent)) {
            td .host { (bits::sign(grade)) a .row href=(place::host(&beat.agent)) { (beat.agent) } }
            td .wide .dim { @if !is_grouped { (beat.cluster) " · " } (beat.dc) }
            td { (state(row)) }
            td .wide { (replication(&beat.mysql)) }
            td .wide { (disk(beat)) }
            td { (snapshots(beat)) }
            td .wide { @for job in beat.jobs.iter().take(3) {
                span .job {
                    @if job.kind == "seed.start" { a href=(format!("/seed/{}", job.id)) { "seed" } } @else { (job.kind) }
                    @if let Some(stage) = &job.stage { " " span .dim { (stage) } }
                    @if let Some(percent) = job.percent { " " (percent) " %" }
                } " "
            } }
        }
    }
}

/// What is wrong with it, else its server.
fn state(row: &Row<'_>) -> Markup {
    let mysql = &row.beat().mysql;
    let told = row.kinds.iter().filter(|kind| **kind != Kind::Unsigned).take(2);
    let is_told = row.kinds.iter().any(|kind| *kind != Kind::Unsigned);
    html! {
        @for kind in told { span .badge .(bits::class(Some(kind.grade()))) { (kind.title()) } " " }
        @if !is_told {
            @if mysql.state != ServerState::Ready { (bits::word(&mysql.state)) " " }
            @if let Some(version) = &mysql.version {
                @let [major, minor, patch] = version.number;
                (bits::word(&version.flavor)) " " (major) "." (minor) "." (patch)
            }
            @if mysql.read_only == Some(true) { " " span .dim title="read only" { "ro" } }
        }
    }
}

fn replication(mysql: &MysqlSummary) -> Markup {
    html! {
        @match &mysql.replica_of {
            Some(source) => {
                span .dim { "← " } (source)
                @if let Some(lag) = mysql.lag_seconds.filter(|lag| *lag > 0) { " " span .weak-ink[lag > 60] { "+" (units::duration(lag)) } }
            }
            None => (bits::dash()),
        }
    }
}

fn disk(beat: &Heartbeat) -> Markup {
    let Some(free) = beat.free_bytes else { return bits::dash() };
    let used = beat.mysql.datadir_bytes.unwrap_or_default();
    let percent = used as f64 * 100.0 / (used as f64 + free as f64).max(1.0);
    let grade = (percent > 90.0).then_some(Grade::Bad);
    let words = format!("{} free, datadir {}", units::size(free), units::size(used));
    html! { (bits::bar(percent, grade, &words)) " " span .figure { (units::size(free)) } }
}

fn snapshots(beat: &Heartbeat) -> Markup {
    let fill = beat.snapshots.iter().filter_map(|snapshot| snapshot.fill_percent).reduce(f64::max);
    html! {
        @match newest(beat, |_| true) {
            Some(at) => {
                (bits::age(at))
                @if newest(beat, |snapshot| snapshot.proven) == Some(at) { " " span .good-ink title="a server came up on it" { "proven" } }
                @if let Some(fill) = fill.filter(|fill| *fill > 50.0) { " " span .weak-ink { (format!("{fill:.0} % full")) } }
            }
            None => (bits::dash()),
        }
    }
}
