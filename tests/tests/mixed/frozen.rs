//! The schemas of the release before beside today's: what is published is only added to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::programs::release_before;

use super::is_there;

/// Who reads a document decides what may be added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// Requests: an agent of this release must understand what those before send.
    ByAgents,
    /// Replies, events, heartbeats: clients of the release before must understand what is sent today.
    ByClients,
}

fn directories() -> (PathBuf, PathBuf) {
    let today = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1");
    (release_before().unwrap().join("schemas/v1"), today)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// What a writer of the release before could send, or a reader of it could hold for impossible, that is otherwise today.
fn breaks(before: &Value, today: &Value, by: Read) -> Vec<String> {
    let mut found = Vec::new();
    compare(&Place { document: before, path: String::new() }, before, today, today, by, 0, &mut found);
    found
}

struct Place<'a> {
    document: &'a Value,
    path: String,
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap(),
        None => schema,
    }
}

fn compare(
    place: &Place<'_>,
    before: &Value,
    today: &Value,
    today_document: &Value,
    by: Read,
    depth: usize,
    found: &mut Vec<String>,
) {
    // Types that hold themselves have been looked at by then.
    if depth > 24 {
        return;
    }
    let (before, today) = (resolve(place.document, before), resolve(today_document, today));
    let at = |what: String| format!("{}: {what}", if place.path.is_empty() { "/" } else { &place.path });
    let none = serde_json::Map::new();
    let properties =
        |schema: &'_ Value| schema["properties"].as_object().cloned().unwrap_or_else(|| none.clone());
    let (old, new) = (properties(before), properties(today));
    for (name, schema) in &old {
        let Some(other) = new.get(name) else {
            found.push(at(format!("{name} is gone")));
            continue;
        };
        let below = Place { document: place.document, path: format!("{}/{name}", place.path) };
        compare(&below, schema, other, today_document, by, depth + 1, found);
    }
    let required = |schema: &Value| -> BTreeSet<String> {
        let listed = schema["required"].as_array().into_iter().flatten();
        listed.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let (must_before, must_today) = (required(before), required(today));
    match by {
        Read::ByAgents => {
            found.extend(
                must_today.difference(&must_before).map(|name| at(format!("{name} is demanded now"))),
            );
        }
        Read::ByClients => {
            found.extend(
                must_before.difference(&must_today).map(|name| at(format!("{name} may be absent now"))),
            );
        }
    }
    let kinds = |schema: &Value| -> BTreeSet<String> {
        let all = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
        all.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect()
    };
    let (kinds_before, kinds_today) = (kinds(before), kinds(today));
    let lost: Vec<_> = match by {
        Read::ByAgents => kinds_before.difference(&kinds_today).collect(),
        Read::ByClients => kinds_today.difference(&kinds_before).collect(),
    };
    if !kinds_before.is_empty() && !kinds_today.is_empty() && !lost.is_empty() {
        found.push(at(format!("{kinds_before:?} is {kinds_today:?} now")));
    }
    let below = Place { document: place.document, path: format!("{}[]", place.path) };
    if before.get("items").is_some() && today.get("items").is_some() {
        compare(&below, &before["items"], &today["items"], today_document, by, depth + 1, found);
    }
    words(before, today, by, &at, found);
}

/// Words of an enumeration: an agent goes on to know those of before. Clients read words that they do not know as unknown.
fn words(before: &Value, today: &Value, by: Read, at: &impl Fn(String) -> String, found: &mut Vec<String>) {
    let of = |schema: &Value| -> BTreeSet<String> {
        let consts = schema["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
        let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        consts.chain(listed).map(str::to_owned).collect()
    };
    if by == Read::ByAgents {
        found.extend(
            of(before).difference(&of(today)).map(|word| at(format!("{word:?} is not known any more"))),
        );
    }
}

#[test]
fn what_is_published_is_only_added_to() {
    if !is_there() {
        return;
    }
    let (before, today) = directories();
    let mut found = Vec::new();
    for name in names(&before.join("commands")) {
        let (old, path) = (read(&before.join("commands").join(&name)), today.join("commands").join(&name));
        assert!(path.exists(), "{name} is gone: agents and clients of the release before know that command");
        let new = read(&path);
        for (part, by) in [("params", Read::ByAgents), ("result", Read::ByClients)] {
            found.extend(
                breaks(&old[part], &new[part], by).into_iter().map(|what| format!("{name} {part} {what}")),
            );
        }
    }
    for (name, by) in [
        ("request.json", Read::ByAgents),
        ("reply.json", Read::ByClients),
        ("heartbeat.json", Read::ByClients),
        ("event.json", Read::ByClients),
        ("progress.json", Read::ByClients),
    ] {
        let all = breaks(&read(&before.join(name)), &read(&today.join(name)), by);
        found.extend(all.into_iter().map(|what| format!("{name} {what}")));
    }
    assert!(found.is_empty(), "not as docs/versions.md promises:\n{}", found.join("\n"));
}

fn assert_valid(value: &Value, schema: &Value, what: &str) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(faults.is_empty(), "{what}: {}", faults.join("; "));
}

#[test]
fn what_one_release_has_sent_is_read_by_the_other() {
    if !is_there() {
        return;
    }
    let (before, today) = directories();
    for name in names(&before.join("examples")) {
        let of = |directory: &Path| {
            (read(&directory.join("examples").join(&name)), read(&directory.join("commands").join(&name)))
        };
        let ((old, old_schema), (new, new_schema)) = (of(&before), of(&today));
        // Both ways: an upgrade goes host by host, and ctl is upgraded before or after.
        let pairs = [(&old, &new_schema, "of the release before"), (&new, &old_schema, "of this release")];
        for (example, schema, whose) in pairs {
            let what = |part: &str| format!("the {part} of {name} {whose}");
            assert_valid(&example["request"]["params"], &schema["params"], &what("request"));
            assert_valid(&example["reply"]["result"], &schema["result"], &what("reply"));
        }
    }
}

#[test]
fn what_breaks_is_found() {
    let before = serde_json::json!({ "type": "object", "required": ["a"], "properties": {
        "a": { "type": "string" }, "b": { "$ref": "#/$defs/B" } }, "$defs": { "B": { "enum": ["x", "y"] } } });
    assert!(breaks(&before, &before, Read::ByAgents).is_empty());
    let mut today = before.clone();
    today["properties"]["c"] = serde_json::json!({ "type": "string" });
    assert!(breaks(&before, &today, Read::ByAgents).is_empty(), "an addition");
    today["required"] = serde_json::json!(["a", "c"]);
    assert_eq!(breaks(&before, &today, Read::ByAgents), ["/: c is demanded now"]);
    assert!(breaks(&before, &today, Read::ByClients).is_empty());
    today["required"] = serde_json::json!([]);
    assert_eq!(breaks(&before, &today, Read::ByClients), ["/: a may be absent now"]);
    today["$defs"]["B"]["enum"] = serde_json::json!(["x"]);
    assert_eq!(breaks(&before, &today, Read::ByAgents), ["/b: \"y\" is not known any more"]);
    today["properties"]["a"]["type"] = serde_json::json!(["string", "null"]);
    today["required"] = serde_json::json!(["a"]);
    assert_eq!(breaks(&before, &today, Read::ByClients).len(), 1, "a client of before takes no null there");
}
