//! The roots from which `schemas/` is written: JSON Schemas, the AsyncAPI document and the table of commands.

use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value, json};

use crate::command::{Class, Command, CommandSchema};
use crate::envelope::{Reply, Request};
use crate::event::{Event, EventData};
use crate::heartbeat::Heartbeat;
use crate::seed::TransferProgress;
use crate::subject::{self, form};

/// A file below `schemas/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Path below `schemas/`.
    pub path: String,
    /// Content.
    pub content: Value,
}

/// All documents, in a fixed order.
#[must_use]
pub fn documents() -> Vec<Document> {
    let mut documents = vec![
        document::<Request>("v1/request.json"),
        document::<Reply>("v1/reply.json"),
        document::<Event>("v1/event.json"),
        document::<EventData>("v1/event-data.json"),
        document::<Heartbeat>("v1/heartbeat.json"),
        document::<TransferProgress>("v1/progress.json"),
    ];
    let commands = Command::schemas();
    documents.push(Document { path: "asyncapi.json".into(), content: asyncapi(&commands) });
    for command in commands {
        documents.push(Document {
            path: format!("v1/commands/{}.json", command.spec.name),
            content: json!({
                "$defs": definitions(&command),
                "command": command.spec.name,
                "about": about(&command),
                "class": command.spec.class,
                "role": command.spec.role,
                "params": command.params,
                "result": command.result,
            }),
        });
    }
    documents
}

/// What params and result refer to, at the root of their file, where `#/$defs/…` leads whoever reads the file as one document (RFC 6901),
/// as AsyncAPI's tools do. Both have it too, for those who take one of them out. One name is one type of this crate.
fn definitions(command: &CommandSchema) -> Map<String, Value> {
    let of = |schema: &Value| schema["$defs"].as_object().cloned().unwrap_or_default();
    of(&command.params).into_iter().chain(of(&command.result)).collect()
}

/// The table of commands for `docs/commands.md`, as Markdown.
#[must_use]
pub fn commands_table() -> String {
    let mut table = String::from(
        "| command | class | role | what it does | own errors | replaces |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for spec in Command::SPECS {
        let class = match spec.class {
            Class::Query => "query",
            Class::Change => "change",
            Class::Job => "job",
        };
        let role = format!("{:?}", spec.role).to_lowercase();
        let replaces: Vec<String> =
            spec.replaces.split(", ").filter(|r| !r.is_empty()).map(|r| format!("`{r}`")).collect();
        table.push_str(&format!(
            "| `{}` | {class} | {role} | {} | {} | {} |\n",
            spec.name,
            spec.about.trim(),
            own_errors(spec.name),
            replaces.join(", ")
        ));
    }
    table
}

/// Codes beyond those that every command can answer with.
fn own_errors(command: &str) -> &'static str {
    match command {
        "jobs.abort" => "`not_found`, `refused`",
        "jobs.show" | "seed.throttle" | "seed.release" | "custom.run" => "`not_found`",
        "host.disk-usage" | "host.disk-free" => "`system`",
        "host.volumes" => "`missing_capability`, `snapshot`",
        "snapshot.mount-status" | "snapshot.create" | "snapshot.remove" | "snapshot.verify" => {
            "`missing_capability`"
        }
        "snapshot.list" => "`missing_capability`, `snapshot`",
        "snapshot.mount" | "snapshot.unmount" => "`missing_capability`, `not_found`, `snapshot`",
        "seed.survey" | "seed.offer" => "`missing_capability`, `not_found`, `snapshot`, `refused`",
        "seed.start" => "`refused`, `plan_changed`",
        "mysql.disk-usage" | "mysql.disk-free" | "mysql.error-log" => "`not_found`, `system`",
        "binlog.upload" => "`system`",
        "binlog.apply" => "`not_found`",
        "datadir.post-copy" => "`missing_capability`",
        "binlog.files" | "binlog.relay-files" => "`mysql`, `system`",
        "binlog.relay-end" | "binlog.binary" | "binlog.text" => "`not_found`, `mysql`, `system`",
        _ => "",
    }
}

fn about(command: &CommandSchema) -> &'static str {
    command.spec.about.trim()
}

fn document<T: JsonSchema>(path: &str) -> Document {
    Document { path: path.into(), content: schema_for!(T).into() }
}

fn asyncapi(commands: &[CommandSchema]) -> Value {
    let mut channels = json!({
        "heartbeat": {
            "address": form::heartbeat("{host}"),
            "description": "Each agent says every few seconds who and how it is.",
            "parameters": {"host": {"description": HOST_TOKEN}},
            "messages": {"heartbeat": {"payload": {"$ref": "v1/heartbeat.json"}}},
        },
        "event": {
            "address": form::event("{host}", "{kind}"),
            "description": "Durable events, CloudEvents 1.0 in structured mode, in a JetStream stream.",
            "parameters": {"host": {"description": HOST_TOKEN}, "kind": {"description": "For example snapshot.created; it has dots."}},
            "messages": {"event": {"contentType": crate::event::CONTENT_TYPE, "payload": {"$ref": "v1/event.json"}}},
        },
        "progress": {
            "address": form::progress("{host}", "{job}"),
            "description": "Droppable progress of a job.",
            "parameters": {"host": {"description": HOST_TOKEN}, "job": {"description": "Job id, a UUID."}},
            "messages": {"progress": {"payload": {"$ref": "v1/progress.json"}}},
        },
        "askFleet": {
            "address": subject::ASK_FLEET,
            "description": "A request here is answered by every agent with its heartbeat.",
            "messages": {"heartbeat": {"payload": {"$ref": "v1/heartbeat.json"}}},
        },
    });
    let mut operations = json!({
        "heartbeat": {"action": "send", "channel": {"$ref": "#/channels/heartbeat"}},
        "event": {"action": "send", "channel": {"$ref": "#/channels/event"}},
        "progress": {"action": "send", "channel": {"$ref": "#/channels/progress"}},
        "askFleet": {"action": "receive", "channel": {"$ref": "#/channels/askFleet"}},
    });
    for command in commands {
        let name = command.spec.name;
        channels[name] = json!({
            "address": form::command("{host}", name),
            "description": about(command),
            "parameters": {"host": {"description": HOST_TOKEN}},
            "messages": {
                "request": {"payload": {"$ref": "v1/request.json"}, "x-params": {"$ref": format!("v1/commands/{name}.json#/params")}},
                "reply": {"payload": {"$ref": "v1/reply.json"}, "x-result": {"$ref": format!("v1/commands/{name}.json#/result")}},
            },
        });
        operations[name] = json!({
            "action": "receive",
            "channel": {"$ref": format!("#/channels/{name}")},
            "reply": {"channel": {"$ref": format!("#/channels/{name}")}},
        });
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "orchestrator-agent",
            "version": "1",
            "description": "Commands, heartbeats and events of the agents, as seen from an agent.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
    })
}

const HOST_TOKEN: &str = "Agent id in lower case; '.' is written '_', any other byte outside [a-z0-9-] as X and two upper-case hex digits.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_distinct_paths_and_refs_that_exist() {
        let documents = documents();
        let mut paths: Vec<_> = documents.iter().map(|d| d.path.clone()).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), documents.len());
        let asyncapi = documents.iter().find(|d| d.path == "asyncapi.json").unwrap().content.to_string();
        for reference in asyncapi.split("\"$ref\":\"").skip(1) {
            let target = reference.split(['"', '#']).next().unwrap();
            assert!(target.is_empty() || paths.iter().any(|p| p == target), "{target} is missing");
        }
    }

    #[test]
    fn one_name_of_a_definition_is_one_type() {
        for command in Command::schemas() {
            let all = definitions(&command);
            for part in [&command.params, &command.result] {
                for (name, schema) in part["$defs"].as_object().into_iter().flatten() {
                    assert_eq!(all[name], *schema, "{name} of {}", command.spec.name);
                }
            }
        }
    }

    #[test]
    fn requests_are_strict_in_the_schemas_too() {
        for command in Command::schemas() {
            assert_eq!(command.params["additionalProperties"], json!(false), "{}", command.spec.name);
        }
    }
}
