//! Metadata as LV tags, so that `lvs -o +lv_tags` alone tells whose a snapshot is, and a lost state directory loses nothing of weight.
//!
//! One tag per field, `oa:key=value`, so that a person can read it. LVM allows `A-Za-z0-9_+.-/=!:#&` only; any other byte is written as
//! `#` and two hexadecimal digits. A long value is split over several tags, `oa:key.1=…`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::ids::AgentId;
use protocol::mysql::{BinlogPosition, Coordinates, Flavor, LogIdentity, ServerVersion};
use protocol::snapshot::{Consistency, Freeze, Proof, SnapshotMeta};

/// On every snapshot of ours.
pub(crate) const OURS: &str = "orchestrator-agent";
/// On a throw-away view of a snapshot.
pub(crate) const VIEW: &str = "oa:view";
/// LVM's limit for one tag is 1024; its metadata area holds about a megabyte for all volumes.
const MAX_VALUE: usize = 900;
/// A GTID set longer than this stays in the sidecar alone.
const MAX_PIECES: usize = 16;

/// The tag of a snapshot that is being made by this agent.
pub(crate) fn unfinished(host: &str) -> String {
    format!("oa:new={}", escape(host))
}

/// Whether a tag of [`unfinished`] is among them, of whichever agent.
pub(crate) fn is_unfinished(tags: &[String]) -> bool {
    tags.iter().any(|t| t.starts_with("oa:new="))
}

/// Those of the tags that tell which agent made a snapshot.
pub(crate) fn host_tags(tags: &[String]) -> Vec<String> {
    tags.iter().filter(|t| t.starts_with("oa:host=") || t.starts_with("oa:host.")).cloned().collect()
}

/// Whether they name this agent as the maker.
pub(crate) fn is_of(tags: &[String], host: &AgentId) -> bool {
    join(tags).get("host").is_some_and(|maker| maker == host.as_str())
}

/// All tags for the metadata, [`OURS`] included.
pub(crate) fn encode(meta: &SnapshotMeta) -> Vec<String> {
    let mut fields: Vec<(&str, String)> = vec![
        ("cluster", meta.cluster.clone()),
        ("dc", meta.dc.clone()),
        ("host", meta.host.to_string()),
        ("consistency", name_of(&meta.consistency)),
        ("freeze", name_of(&meta.freeze)),
        ("datadir", meta.datadir.to_string_lossy().into_owned()),
    ];
    if let Some(expires_at) = meta.expires_at {
        fields.push(("expires", expires_at.to_string()));
    }
    if let Some(version) = &meta.server_version {
        let [major, minor, patch] = version.number;
        fields.push((
            "version",
            format!("{}:{major}.{minor}.{patch}:{}", name_of(&version.flavor), version.text),
        ));
    }
    push_coordinates(&mut fields, ["flavor", "binlog", "gtid"], meta.coordinates.as_ref());
    push_coordinates(&mut fields, ["least-flavor", "least-binlog", "least-gtid"], meta.at_least.as_deref());
    if let Some(log) = &meta.log {
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        let uuid = log.server_uuid.as_deref().unwrap_or_default();
        fields.push(("log", format!("{}:{}:{uuid}", number(log.server_id), number(log.created_s))));
    }
    fields.extend(meta.no_position.clone().map(|why| ("no-position", why)));
    if let Some(proof) = &meta.proof {
        let verdict = if proof.passed { "passed" } else { "failed" };
        fields.push(("proof", format!("{verdict}:{}:{}", proof.recovery_ms, proof.checked_at)));
        fields.push(("proof-detail", proof.detail.clone()));
        fields.push(("proof-unchecked", proof.unchecked_tables.to_string()));
        push_coordinates(
            &mut fields,
            ["proof-flavor", "proof-binlog", "proof-gtid"],
            proof.recovered.as_ref(),
        );
    }
    let mut tags = vec![OURS.to_owned()];
    for (key, value) in fields {
        tags.extend(split(key, &escape(&value)));
    }
    tags
}

fn push_coordinates<'a>(
    fields: &mut Vec<(&'a str, String)>,
    keys: [&'a str; 3],
    coordinates: Option<&Coordinates>,
) {
    let Some(coordinates) = coordinates else { return };
    fields.push((keys[0], name_of(&coordinates.flavor)));
    if let Some(binlog) = &coordinates.binlog {
        fields.push((keys[1], format!("{}:{}", binlog.position, binlog.file)));
    }
    if let Some(gtid) = &coordinates.gtid {
        fields.push((keys[2], gtid.clone()));
    }
}

/// The metadata of a snapshot; `None` when it is not ours or its tags were damaged.
pub(crate) fn decode(tags: &[String]) -> Option<SnapshotMeta> {
    if !tags.iter().any(|t| t == OURS) {
        return None;
    }
    let fields = join(tags);
    let get = |key: &str| fields.get(key).cloned();
    let coordinates = |keys: [&str; 3]| {
        Some(Coordinates {
            flavor: value_of::<Flavor>(&get(keys[0])?)?,
            binlog: get(keys[1]).and_then(|v| {
                let (position, file) = v.split_once(':')?;
                Some(BinlogPosition { file: file.to_owned(), position: position.parse().ok()? })
            }),
            gtid: get(keys[2]),
        })
    };
    Some(SnapshotMeta {
        cluster: get("cluster")?,
        dc: get("dc")?,
        host: get("host")?.parse().ok()?,
        consistency: value_of::<Consistency>(&get("consistency")?)?,
        freeze: get("freeze").and_then(|v| value_of::<Freeze>(&v)).unwrap_or_default(),
        coordinates: coordinates(["flavor", "binlog", "gtid"]),
        at_least: coordinates(["least-flavor", "least-binlog", "least-gtid"]).map(Box::new),
        log: get("log").and_then(|v| read_log(&v)),
        no_position: get("no-position"),
        server_version: get("version").and_then(|v| read_version(&v)),
        datadir: get("datadir").unwrap_or_default().into(),
        expires_at: get("expires").and_then(|v| v.parse().ok()),
        proof: get("proof").and_then(|v| {
            let mut parts = v.splitn(3, ':');
            let passed = parts.next()? == "passed";
            let recovery_ms = parts.next()?.parse().ok()?;
            let checked_at: Timestamp = parts.next()?.parse().ok()?;
            let detail = get("proof-detail").unwrap_or_default();
            let recovered = coordinates(["proof-flavor", "proof-binlog", "proof-gtid"]);
            let unchecked_tables = get("proof-unchecked").and_then(|n| n.parse().ok()).unwrap_or(0);
            Some(Proof { checked_at, passed, detail, recovery_ms, recovered, unchecked_tables })
        }),
    })
}

fn read_log(text: &str) -> Option<LogIdentity> {
    let mut parts = text.splitn(3, ':');
    let (server_id, created_s) = (parts.next()?.parse().ok(), parts.next()?.parse().ok());
    let server_uuid = parts.next().filter(|uuid| !uuid.is_empty()).map(str::to_owned);
    Some(LogIdentity { server_uuid, server_id, created_s })
}

fn read_version(text: &str) -> Option<ServerVersion> {
    let mut parts = text.splitn(3, ':');
    let flavor = value_of::<Flavor>(parts.next()?)?;
    let mut numbers = parts.next()?.splitn(3, '.').map(str::parse::<u16>);
    let mut next = || numbers.next()?.ok();
    Some(ServerVersion { flavor, number: [next()?, next()?, next()?], text: parts.next()?.to_owned() })
}

/// An enum's name on the wire.
fn name_of<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn value_of<T: serde::de::DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_+.-/=!:&".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("#{byte:02x}"));
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'#' {
            out.push(first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok()
}

/// Empty when the value is too long for tags at all.
fn split(key: &str, value: &str) -> Vec<String> {
    if value.len() <= MAX_VALUE {
        return vec![format!("oa:{key}={value}")];
    }
    // `value` is ASCII, so every cut is on a character; an escape that is cut in two is joined again before it is read.
    let pieces: Vec<&[u8]> = value.as_bytes().chunks(MAX_VALUE).collect();
    if pieces.len() > MAX_PIECES {
        return Vec::new();
    }
    let numbered = pieces.iter().enumerate();
    numbered.map(|(n, p)| format!("oa:{key}.{n:02}={}", String::from_utf8_lossy(p))).collect()
}

fn join(tags: &[String]) -> BTreeMap<String, String> {
    let mut pieces: Vec<(&str, &str)> =
        tags.iter().filter_map(|t| t.strip_prefix("oa:")?.split_once('=')).collect();
    // LVM keeps no order.
    pieces.sort_unstable();
    let mut raw: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in pieces {
        let base = key.split_once('.').map_or(key, |(base, _)| base);
        raw.entry(base).or_default().push_str(value);
    }
    raw.into_iter().filter_map(|(k, v)| Some((k.to_owned(), unescape(&v)?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta(cluster: &str, gtid: &str) -> SnapshotMeta {
        let coordinates = Coordinates {
            flavor: Flavor::Mysql,
            binlog: Some(BinlogPosition { file: "bin:log,.1".to_owned(), position: 4 }),
            gtid: Some(gtid.to_owned()),
        };
        SnapshotMeta {
            cluster: cluster.to_owned(),
            dc: String::new(),
            host: "db1:3306".parse().unwrap(),
            consistency: Consistency::Locked,
            freeze: Freeze::Atomic,
            coordinates: Some(coordinates.clone()),
            at_least: Some(Box::new(coordinates.clone())),
            log: Some(LogIdentity {
                server_uuid: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562".to_owned()),
                server_id: Some(7),
                created_s: None,
            }),
            no_position: Some("no lock, ü".to_owned()),
            server_version: Some(ServerVersion {
                flavor: Flavor::Mysql,
                number: [8, 0, 40],
                text: "8.0.40-31 (a:b)".to_owned(),
            }),
            datadir: "my sql/data".into(),
            expires_at: Some(Timestamp::from_second(1_795_382_706).unwrap()),
            proof: Some(Proof {
                checked_at: Timestamp::from_second(1_795_382_707).unwrap(),
                passed: true,
                detail: "sound, ü".to_owned(),
                recovery_ms: 77,
                recovered: Some(coordinates),
                unchecked_tables: 12,
            }),
        }
    }

    #[test]
    fn tags_of_others_are_no_metadata() {
        assert_eq!(decode(&["backup".to_owned(), "oa:cluster=x".to_owned()]), None);
        assert_eq!(decode(&[OURS.to_owned()]), None, "ours, but damaged");
    }

    #[test]
    fn a_gtid_set_beyond_all_tags_stays_out_of_them() {
        let long = meta("c", &"1".repeat(MAX_VALUE * (MAX_PIECES + 1)));
        let read = decode(&encode(&long)).unwrap();
        assert_eq!((read.coordinates.unwrap().gtid, read.cluster.as_str()), (None, "c"));
    }

    proptest! {
        #[test]
        fn metadata_survive_in_any_order_and_only_allowed_characters_are_used(
            cluster in ".{0,60}", gtid in "[ -~\n]{0,4000}", swap in any::<u64>(),
        ) {
            let original = meta(&cluster, &gtid);
            let mut tags = encode(&original);
            for tag in &tags {
                prop_assert!(tag.len() <= 1024 && !tag.starts_with('-'));
                prop_assert!(tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-/=!:#&".contains(&b)), "{tag}");
            }
            let at = usize::try_from(swap % tags.len() as u64).unwrap();
            tags.rotate_left(at);
            tags.reverse();
            prop_assert_eq!(decode(&tags), Some(original));
        }

        #[test]
        fn no_tags_break_the_decoder(tags in proptest::collection::vec("(oa:[a-z.0-9-]{0,8}=)?.{0,20}", 0..8)) {
            let mut tags = tags;
            tags.push(OURS.to_owned());
            let _ = decode(&tags);
        }
    }
}
