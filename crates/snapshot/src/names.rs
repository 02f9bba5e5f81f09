//! Names of new snapshots, and snapshot ids as file names.

use jiff::Timestamp;
use protocol::ids::SnapshotId;

use crate::Error;
use crate::provider::CreateRequest;

const PLACEHOLDERS: [&str; 4] = ["cluster", "host", "origin", "time"];
/// LVM's own limit is 127; the rest is left for a suffix and for a view's name.
const MAX_NAME: usize = 110;

/// A checked name pattern.
#[derive(Debug, Clone)]
pub(crate) struct NamePattern(String);

impl NamePattern {
    /// Checks literal characters and placeholders.
    pub(crate) fn parse(pattern: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::Setting { key: "name_pattern", why };
        let mut rest = pattern;
        while let Some(open) = rest.find('{') {
            check_literal(&rest[..open]).map_err(bad)?;
            let tail = &rest[open + 1..];
            let close = tail.find('}').ok_or_else(|| bad(format!("{pattern:?} has a {{ without its }}")))?;
            let name = &tail[..close];
            if !PLACEHOLDERS.contains(&name) {
                return Err(bad(format!(
                    "{{{name}}} is not one of {{cluster}} {{host}} {{origin}} {{time}}"
                )));
            }
            rest = &tail[close + 1..];
        }
        check_literal(rest).map_err(bad)?;
        if !pattern.contains("{time}") {
            return Err(bad(format!(
                "{pattern:?} needs {{time}}, or every snapshot would have the same name"
            )));
        }
        Ok(Self(pattern.to_owned()))
    }

    /// The first name by this pattern that `taken` does not know.
    pub(crate) fn expand(
        &self,
        request: &CreateRequest,
        origin: &str,
        at: Timestamp,
        taken: &dyn Fn(&str) -> bool,
    ) -> String {
        let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let filled = self
            .0
            .replace("{cluster}", &safe(&request.cluster))
            .replace("{host}", &safe(request.host.as_str()))
            .replace("{origin}", &safe(origin))
            .replace("{time}", &time);
        let mut name = filled.trim_start_matches(['-', '.']).to_owned();
        name.truncate(MAX_NAME);
        // LVM reserves these; dots first would hide a directory.
        if name.is_empty()
            || ["snapshot", "pvmove"].iter().any(|r| name.starts_with(r))
            || is_reserved_inside(&name)
        {
            name = format!("oa-{}", name.replace('_', "-"));
        }
        let mut candidate = name.clone();
        let mut count = 1_u32;
        while taken(&candidate) {
            count += 1;
            candidate = format!("{name}-{count}");
        }
        candidate
    }
}

fn check_literal(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "+_.-".contains(*c))) {
        Some(c) => Err(format!("{c:?} may not be part of a name; letters, digits and + _ . - may")),
        None => Ok(()),
    }
}

/// Names with these parts are LVM's internal volumes.
fn is_reserved_inside(name: &str) -> bool {
    [
        "_cdata", "_cmeta", "_corig", "_mlog", "_mimage", "_pmspare", "_rimage", "_rmeta", "_tdata",
        "_tmeta", "_vorigin", "_vdata",
    ]
    .iter()
    .any(|part| name.contains(part))
}

fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "+_.-".contains(c) { c } else { '-' }).collect()
}

/// A snapshot id as one file name; distinct ids give distinct names.
pub(crate) fn as_file_name(id: &SnapshotId) -> String {
    // `%` is not allowed in ids, so the replacement cannot collide.
    id.as_str().replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn request(cluster: &str) -> CreateRequest {
        CreateRequest {
            cluster: cluster.to_owned(),
            dc: "dc1".to_owned(),
            host: "db1:3307".parse().unwrap(),
            datadir: PathBuf::from("/var/lib/mysql"),
            size: None,
            expires_at: None,
        }
    }

    fn at() -> Timestamp {
        "2026-11-22T10:15:00Z".parse().unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_a_taken_name_gets_a_number() {
        let pattern = NamePattern::parse("{origin}-{cluster}.{host}_{time}").unwrap();
        let name = pattern.expand(&request("orders"), "data", at(), &|_| false);
        assert_eq!(name, "data-orders.db1-3307_20261122T101500Z");
        let second = pattern.expand(&request("orders"), "data", at(), &|n| n == name);
        assert_eq!(second, format!("{name}-2"));
    }

    #[test]
    fn a_bad_pattern_is_refused_with_what_is_wrong() {
        for (bad, part) in
            [("a b{time}", "' '"), ("{time", "without its }"), ("{who}-{time}", "{who}"), ("fixed", "{time}")]
        {
            let error = NamePattern::parse(bad).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("name_pattern"), "{bad}: {error}");
        }
    }

    #[test]
    fn names_that_lvm_reserves_are_avoided() {
        let pattern = NamePattern::parse("snapshot-{time}").unwrap();
        assert!(pattern.expand(&request("x"), "o", at(), &|_| false).starts_with("oa-snapshot"));
        let pattern = NamePattern::parse("{cluster}{time}").unwrap();
        assert!(!is_reserved_inside(&pattern.expand(&request("a_tmeta"), "o", at(), &|_| false)));
    }

    proptest! {
        #[test]
        fn whatever_the_cluster_is_called_the_name_is_a_valid_id(cluster in ".{0,200}") {
            let pattern = NamePattern::parse("{cluster}{time}").unwrap();
            let name = pattern.expand(&request(&cluster), "o", at(), &|_| false);
            prop_assert!(name.parse::<SnapshotId>().is_ok(), "{name:?}");
            prop_assert!(!name.starts_with('.') && name.len() <= 127);
        }
    }
}
