//! What is wrong now, then the fleet.

use std::collections::{BTreeMap, BTreeSet};

use bus::Health;
use maud::{Markup, html};
use protocol::ids::AgentId;
use protocol::mysql::ServerState;

use super::super::desk::Desk;
use super::super::place::{self, Filter, Sort};
use super::super::trouble::{Grade, Kind, Trouble};
use super::{Moment, Part, Screen, bits, fleet};

/// Troubles of one kind that are shown at once, the others on demand.
const SHOWN: usize = 4;
/// Beyond so many of one kind the filter tells.
const LISTED: usize = 60;

pub(super) fn screen(desk: &Desk, moment: &Moment, filter: &Filter) -> Screen {
    let troubles = desk.troubles(moment);
    let mut parts = vec![
        Part::whole("tiles", tiles(moment, &troubles)),
        Part::whole("wrong", wrong(moment, &troubles, filter)),
    ];
    parts.extend(fleet::parts(moment, &troubles, filter));
    Screen::new("Now", head(moment, &troubles, filter), parts)
}

fn head(moment: &Moment, troubles: &[Trouble], filter: &Filter) -> Markup {
    let of = |word: fn(&protocol::heartbeat::Heartbeat) -> &str| {
        moment.fleet.iter().map(|entry| word(&entry.heartbeat)).collect::<BTreeSet<_>>()
    };
    let kinds: BTreeSet<Kind> = troubles.iter().map(|trouble| trouble.kind).chain(filter.trouble).collect();
    html! {
        h1 .unseen { "The fleet now" }
        form #filter role="search" action="/" {
            input #q name="q" type="search" value=(filter.text) placeholder="host, cluster, state …" aria-label="Filter hosts" autocomplete="off" spellcheck="false";
            (choice("cluster", "any cluster", &filter.cluster, of(|beat| &beat.cluster).into_iter().map(|word| (word, word))))
            (choice("dc", "any DC", &filter.dc, of(|beat| &beat.dc).into_iter().map(|word| (word, word))))
            (choice("trouble", "any state", filter.trouble.map(Kind::as_str).unwrap_or_default(),
                kinds.into_iter().map(|kind| (kind.as_str(), kind.title()))))
            (choice("sort", "", Sort::ALL.into_iter().find(|(sort, ..)| *sort == filter.sort).map(|(_, word, _)| word).unwrap_or_default(),
                Sort::ALL.into_iter().map(|(_, word, title)| (word, title))))
            button .go { "Filter" }
        }
    }
}

/// A list to choose from; the one that is chosen is in it although nothing has it now.
fn choice<'a>(
    name: &'static str,
    any: &str,
    chosen: &'a str,
    of: impl Iterator<Item = (&'a str, &'a str)>,
) -> Markup {
    let mut of: Vec<(&str, &str)> = of.filter(|(word, _)| !word.is_empty()).collect();
    if !chosen.is_empty() && !of.iter().any(|(word, _)| *word == chosen) {
        of.push((chosen, chosen));
    }
    html! {
        select name=(name) aria-label=(name) {
            @if !any.is_empty() { option value="" selected[chosen.is_empty()] { (any) } }
            @for (word, title) in of { option value=(word) selected[word == chosen] { (title) } }
        }
    }
}

fn tiles(moment: &Moment, troubles: &[Trouble]) -> Markup {
    let hosts = moment.fleet.len();
    let lost = moment.fleet.iter().filter(|entry| entry.health == Health::Lost).count();
    let up = moment.fleet.iter().filter(|entry| {
        entry.health != Health::Lost
            && matches!(entry.heartbeat.mysql.state, ServerState::Ready | ServerState::ReadyNoAccess)
    });
    let clusters: BTreeSet<&str> =
        moment.fleet.iter().map(|entry| entry.heartbeat.cluster.as_str()).collect();
    let without = |kinds: &[Kind]| {
        let of = troubles.iter().filter(|trouble| kinds.contains(&trouble.kind));
        clusters.len()
            - of.filter_map(|t| t.cluster.as_deref())
                .filter(|c| clusters.contains(c))
                .collect::<BTreeSet<_>>()
                .len()
    };
    let bad: BTreeSet<&AgentId> =
        troubles.iter().filter(|t| t.kind.grade() == Grade::Bad).filter_map(|t| t.host.as_ref()).collect();
    let seeds = moment
        .fleet
        .iter()
        .flat_map(|entry| &entry.heartbeat.jobs)
        .filter(|job| job.kind == "seed.start")
        .count();
    let tile = |href: &str, figure: String, of: String, what: &str, is_fine: bool| {
        html! {
            a .tile .short[!is_fine] href=(href) { b { (figure) @if !of.is_empty() { small { " / " (of) } } } span { (what) } }
        }
    };
    let up = up.count();
    let (protected, proven) = (without(&[Kind::NoSnapshot]), without(&[Kind::NoSnapshot, Kind::NoProof]));
    let all = clusters.len();
    html! {
        section #tiles .tiles aria-label="In figures" {
            (tile("/", (hosts - lost).to_string(), hosts.to_string(), "hosts heard", lost == 0))
            (tile("/?trouble=mysql-down", up.to_string(), hosts.to_string(), "MySQL up", up == hosts))
            (tile("/?sort=trouble", bad.len().to_string(), String::new(), "hosts in trouble", bad.is_empty()))
            (tile("/snapshots", protected.to_string(), all.to_string(), "clusters protected", protected == all))
            (tile("/snapshots", proven.to_string(), all.to_string(), "clusters proven", proven == all))
            (tile("/seeds", seeds.to_string(), String::new(), "seeds at work", true))
        }
    }
}

fn wrong(moment: &Moment, troubles: &[Trouble], filter: &Filter) -> Markup {
    let has = |trouble: &&Trouble| match &trouble.cluster {
        None => true,
        Some(cluster) => {
            let dc = trouble.host.as_ref().and_then(|host| {
                let at = moment.fleet.binary_search_by(|entry| entry.heartbeat.agent.cmp(host)).ok()?;
                Some(moment.fleet.get(at)?.heartbeat.dc.as_str())
            });
            let words = || {
                let host = trouble.host.as_ref().map(AgentId::as_str).unwrap_or_default();
                format!("{host} {cluster} {} {}", trouble.kind.title(), trouble.cause)
            };
            // A cluster is in every DC.
            filter.has(cluster, dc.unwrap_or(&filter.dc), words)
        }
    };
    let mut kinds: BTreeMap<Kind, Vec<&Trouble>> = BTreeMap::new();
    for trouble in troubles.iter().filter(has).filter(|t| filter.trouble.is_none_or(|kind| kind == t.kind)) {
        kinds.entry(trouble.kind).or_default().push(trouble);
    }
    let is_all = *filter == Filter { sort: filter.sort, ..Filter::default() };
    html! {
        section #wrong aria-labelledby="wrong-title" {
            h2 #wrong-title { "What is wrong now" }
            @if kinds.is_empty() {
                p .calm {
                    (bits::sign(None)) " "
                    @if moment.fleet.is_empty() { "No host has been heard of yet." }
                    @else if is_all { "Nothing, on " (bits::count(moment.fleet.len(), "host", "hosts")) "." }
                    @else { "Nothing of what is filtered for." }
                }
            }
            @for (kind, of) in &kinds { (of_kind(*kind, of)) }
        }
    }
}

fn of_kind(kind: Kind, troubles: &[&Trouble]) -> Markup {
    let grade = Some(kind.grade());
    let shown = if troubles.len() <= SHOWN + 1 { troubles.len() } else { SHOWN };
    let (first, rest) = troubles.split_at(shown);
    let rest_title = format!("and {} more", rest.len());
    html! {
        article .kind .(bits::class(grade)) {
            header {
                (bits::sign(grade))
                h3 { (kind.title()) @if troubles.len() > 1 { " " span .count { (troubles.len()) } } }
                p { (kind.meaning()) }
            }
            ul { @for trouble in first { (item(trouble)) } }
            @if !rest.is_empty() {
                details id=(format!("more-{}", kind.as_str())) {
                    summary { (rest_title) }
                    ul { @for trouble in rest.iter().take(LISTED) { (item(trouble)) } }
                    @if rest.len() > LISTED {
                        p { a href=(place::link("/", &[("trouble", kind.as_str())])) { "all " (troubles.len()) " among the hosts" } }
                    }
                }
            }
        }
    }
}

fn item(trouble: &Trouble) -> Markup {
    html! {
        li .item {
            span .who {
                @match (&trouble.host, &trouble.cluster) {
                    (Some(host), cluster) => {
                        a .row href=(place::host(host)) { (host) }
                        @if let Some(cluster) = cluster { " " a .dim href=(place::link("/", &[("cluster", cluster)])) { (cluster) } }
                    }
                    (None, Some(cluster)) => { a .row href=(place::link("/", &[("cluster", cluster)])) { (cluster) } }
                    (None, None) => { span { "the fleet" } }
                }
            }
            span .cause {
                (trouble.cause)
                @if let Some(since) = trouble.since { " " span .dim { (bits::ago(since)) } }
                @if let Some(seed) = trouble.seed { " " a href=(format!("/seed/{seed}")) { "the seed" } }
            }
            (bits::command(&trouble.mend))
        }
    }
}
