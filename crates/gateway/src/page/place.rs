//! Places of the page: each has a URL, and its filters live in it.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use protocol::ids::{AgentId, JobId};
use sys::units;

use super::past::Wanted;
use super::trouble::Kind;

/// Parameters of a query that are read.
const MAX_PARAMETERS: usize = 32;

/// Where a person is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// What is wrong, and the fleet.
    Now(Filter),
    /// One host, and the least level of its error log.
    Host(AgentId, Level),
    /// The calendar of snapshots and proofs.
    Snapshots(Filter),
    /// All seeds.
    Seeds(Filter),
    /// One seed.
    Seed(JobId),
    /// The audit log.
    Events(Box<EventsFilter>),
}

/// Which hosts, clusters or seeds, in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// Part of any word that is shown.
    pub(super) text: String,
    pub(super) cluster: String,
    pub(super) dc: String,
    /// Only what has this trouble.
    pub(super) trouble: Option<Kind>,
    pub(super) sort: Sort,
}

/// The order of hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// By cluster, troubled ones first.
    #[default]
    Cluster,
    Trouble,
    Host,
    Lag,
    Free,
    Snapshot,
}

impl Sort {
    /// All, as they stand in a URL, and in words.
    pub(super) const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Cluster, "cluster", "by cluster"),
        (Self::Trouble, "trouble", "troubled first"),
        (Self::Host, "host", "by name"),
        (Self::Lag, "lag", "most lag first"),
        (Self::Free, "free", "least free first"),
        (Self::Snapshot, "snapshot", "oldest snapshot first"),
    ];
}

/// Lines of an error log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// All, also those that tell no level.
    #[default]
    Note,
    Warning,
    Error,
}

impl Level {
    /// All, as they stand in a URL, and in words.
    pub(super) const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Note, "", "all"),
        (Self::Warning, "warning", "warnings and errors"),
        (Self::Error, "error", "errors"),
    ];

    fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|(_, name, _)| *name == word).map(|(level, ..)| level).unwrap_or_default()
    }
}

/// Which events, with the texts as they were typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EventsFilter {
    pub(super) wanted: Wanted,
    pub(super) since: String,
    pub(super) until: String,
    /// What cannot be read of it, in words.
    pub(super) wrong: Option<String>,
}

impl Place {
    /// The place of a path and its query; none where there is no such page.
    pub(super) fn parse(path: &str, query: &str) -> Option<Self> {
        let query = Query::parse(query);
        let rest = path.strip_prefix('/')?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).ok();
        Some(match rest.split_once('/') {
            None => match rest {
                "" => Self::Now(Filter::of(&query)),
                "snapshots" => Self::Snapshots(Filter::of(&query)),
                "seeds" => Self::Seeds(Filter::of(&query)),
                "events" => Self::Events(EventsFilter::of(&query).into()),
                _ => return None,
            },
            Some(("host", id)) => Self::Host(decoded(id)?.parse().ok()?, Level::of(&query.get("level"))),
            Some(("seed", id)) => Self::Seed(decoded(id)?.parse().ok()?),
            Some(_) => return None,
        })
    }
}

impl Filter {
    fn of(query: &Query) -> Self {
        let word = query.get("sort");
        Self {
            text: query.get("q"),
            cluster: query.get("cluster"),
            dc: query.get("dc"),
            trouble: Kind::ALL.into_iter().find(|kind| kind.as_str() == query.get("trouble")),
            sort: Sort::ALL
                .into_iter()
                .find(|(_, name, _)| *name == word)
                .map(|(sort, ..)| sort)
                .unwrap_or_default(),
        }
    }

    /// The same as a query.
    pub(super) fn link(&self, path: &str) -> String {
        let trouble = self.trouble.map(Kind::as_str).unwrap_or_default();
        let sort =
            Sort::ALL.into_iter().find(|(sort, ..)| *sort == self.sort && self.sort != Sort::default());
        link(
            path,
            &[
                ("q", &self.text),
                ("cluster", &self.cluster),
                ("dc", &self.dc),
                ("trouble", trouble),
                ("sort", sort.map(|(_, name, _)| name).unwrap_or_default()),
            ],
        )
    }

    /// Whether it lets a host of these words pass.
    pub(super) fn has(&self, cluster: &str, dc: &str, words: impl FnOnce() -> String) -> bool {
        (self.cluster.is_empty() || self.cluster == cluster)
            && (self.dc.is_empty() || self.dc == dc)
            && (self.text.is_empty() || {
                let words = words().to_lowercase();
                self.text.to_lowercase().split_whitespace().all(|part| words.contains(part))
            })
    }
}

impl EventsFilter {
    fn of(query: &Query) -> Self {
        let (since, until) = (query.get("since"), query.get("until"));
        let now = Timestamp::now();
        let mut wrong = None;
        let mut read = |text: &str| match text {
            "" => None,
            text => instant(text, now).map_err(|reason| wrong = Some(reason)).ok(),
        };
        let wanted = Wanted {
            host: query.get("host"),
            cluster: query.get("cluster"),
            kind: query.get("kind"),
            actor: query.get("actor"),
            text: query.get("q"),
            since: read(&since),
            until: read(&until),
            before: query.get("before").parse().ok(),
        };
        Self { wanted, since, until, wrong }
    }

    /// The same as a query, of lines before a place in the stream.
    pub(super) fn link(&self, before: Option<u64>) -> String {
        let wanted = &self.wanted;
        link(
            "/events",
            &[
                ("host", &wanted.host),
                ("cluster", &wanted.cluster),
                ("kind", &wanted.kind),
                ("actor", &wanted.actor),
                ("q", &wanted.text),
                ("since", &self.since),
                ("until", &self.until),
                ("before", &before.map(|place| place.to_string()).unwrap_or_default()),
            ],
        )
    }
}

/// A time as people write it, by UTC where no zone is said, or how long ago.
fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse() {
        return Ok(instant);
    }
    if let Ok(civil) = text.parse::<DateTime>()
        && let Ok(zoned) = civil.to_zoned(TimeZone::UTC)
    {
        return Ok(zoned.timestamp());
    }
    let wrong =
        || format!("{text:?} is no time: write it like 2026-11-22, 2026-11-22 10:00 (UTC) or 2h (ago)");
    let seconds = units::parse_seconds(text).map_err(|_| wrong())?;
    let back = SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| wrong())?);
    now.checked_sub(back).map_err(|_| wrong())
}

/// A path with a query of those parameters that have a value.
pub(super) fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut link = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        link.push(mark);
        mark = '&';
        link.push_str(name);
        link.push('=');
        link.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    link
}

/// The path of a host.
pub(super) fn host(agent: &AgentId) -> String {
    format!("/host/{}", utf8_percent_encode(agent.as_str(), NON_ALPHANUMERIC))
}

/// A query as forms write it.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8().map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        let pairs = text.split('&').take(MAX_PARAMETERS).filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    /// A parameter; empty where it is not given.
    pub(super) fn get(&self, name: &str) -> String {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_url_and_filters_live_in_it() {
        let filter = Filter {
            text: "a b&c".into(),
            cluster: "<shop>".into(),
            dc: String::new(),
            trouble: Some(Kind::MysqlDown),
            sort: Sort::Lag,
        };
        let url = filter.link("/");
        let (path, query) = url.split_once('?').unwrap();
        assert_eq!(Place::parse(path, query), Some(Place::Now(filter)));
        assert_eq!(
            Place::parse("/", "q=a+b%26c&nonsense&sort=no"),
            Some(Place::Now(Filter { text: "a b&c".into(), ..Filter::default() }))
        );
        let id: AgentId = "db1:3307".parse().unwrap();
        assert_eq!(Place::parse(&host(&id), ""), Some(Place::Host(id.clone(), Level::Note)));
        assert_eq!(Place::parse(&host(&id), "level=error"), Some(Place::Host(id, Level::Error)));
        for path in
            ["", "/host/", "/host/a%2Fb", "/host/..", "/host/a/b", "/seed/x", "/nothing", "//", "/host/%ff"]
        {
            assert!(!matches!(Place::parse(path, ""), Some(Place::Seed(_) | Place::Now(_))), "{path}");
            assert!(path == "/host/.." || Place::parse(path, "").is_none(), "{path}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("2h", "2026-11-22T08:00:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20 10:30", "2026-11-20T10:30:00Z"),
            ("2026-11-20T10:30:00+01:00", "2026-11-20T09:30:00Z"),
        ] {
            assert_eq!(instant(text, now).unwrap().to_string(), wanted, "{text}");
        }
        assert!(instant("<script>", now).unwrap_err().contains("write it like"));
        let Some(Place::Events(filter)) = Place::parse("/events", "since=soon&host=db1") else { panic!() };
        assert!(filter.wrong.is_some() && filter.wanted.host == "db1");
    }
}
