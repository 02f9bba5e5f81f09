//! What every request and reply carries around its payload, and how it is read from untrusted bytes.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ErrorCode, WireError};
use crate::ids::{AgentId, RequestId};

/// The protocol version of this build; also a token of every subject.
pub const VERSION: u16 = 1;
/// A longer request body is refused unread, in bytes.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// Header with the signer's public nkey: the sender's of a command, the host's of a reply.
pub const HEADER_KEY: &str = "Orch-Key";
/// Header with the signature, base64url without padding.
pub const HEADER_SIGNATURE: &str = "Orch-Signature";
/// W3C trace context.
pub const HEADER_TRACEPARENT: &str = "traceparent";

/// A request as it stands on the wire. `command` repeats the subject's last two tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Protocol version.
    pub version: u16,
    /// The idempotency key: the same id twice has one effect and gets the same reply.
    pub id: RequestId,
    /// Not begun after this instant.
    pub deadline: Timestamp,
    /// Who asks, for the audit; with signed commands the signer's key is the actor and this is a remark.
    #[schemars(length(max = 256))]
    pub actor: String,
    /// The command's name, `family.verb`.
    #[schemars(length(max = 64))]
    pub command: String,
    /// The command's parameters; an object, empty when it takes none.
    #[serde(default = "empty_object")]
    pub params: Value,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Request {
    /// Reads a request from the bus, checking size, form and version; deadline and signature are for the caller.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        if body.len() > MAX_REQUEST_BYTES {
            return Err(WireError::new(
                ErrorCode::TooLarge,
                format!("the request has {} bytes, the limit is {MAX_REQUEST_BYTES}", body.len()),
            ));
        }
        let request: Self = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(_) => return Err(why_not(body)),
        };
        check_version(request.version)?;
        if request.actor.len() > 256 || request.command.len() > 64 {
            return Err(WireError::new(
                ErrorCode::BadRequest,
                "actor has at most 256 bytes, command at most 64".to_owned(),
            ));
        }
        Ok(request)
    }
}

/// What is wrong with a body that is no request, found by reading it again with more care: few are.
fn why_not(body: &[u8]) -> WireError {
    // The version is looked at first: a newer client deserves that answer, not "unknown field".
    #[derive(Deserialize)]
    struct Version {
        version: u16,
    }
    let explain = || {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let version: Version = serde_path_to_error::deserialize(&mut reader).map_err(bad_request)?;
        check_version(version.version)?;
        let mut reader = serde_json::Deserializer::from_slice(body);
        let _: Request = serde_path_to_error::deserialize(&mut reader).map_err(bad_request)?;
        reader.end().map_err(|e| WireError::new(ErrorCode::BadRequest, format!("after the request: {e}")))
    };
    explain().err().unwrap_or_else(|| WireError::new(ErrorCode::BadRequest, "it is no request"))
}

fn check_version(version: u16) -> Result<(), WireError> {
    if version == VERSION {
        return Ok(());
    }
    Err(WireError::new(
        ErrorCode::UnsupportedVersion,
        format!(
            "this agent speaks version {VERSION}, the request is of version {version}; update the older of the two"
        ),
    ))
}

pub(crate) fn bad_request(error: serde_path_to_error::Error<serde_json::Error>) -> WireError {
    let path = error.path().to_string();
    let inner = error.into_inner();
    WireError::new(
        ErrorCode::BadRequest,
        if path == "." { inner.to_string() } else { format!("at {path}: {inner}") },
    )
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// Protocol version.
    pub version: u16,
    /// The request's id; absent when the request could not be read.
    pub id: Option<RequestId>,
    /// Who answers.
    pub host: AgentId,
    /// Result or error.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Result or error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command's result, of the type that its schema gives.
    Result(Value),
    /// What failed.
    Error(WireError),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({"version": 1, "id": RequestId::generate(), "deadline": "2026-01-01T00:00:00Z",
               "actor": "alice", "command": "agent.info", "params": {}})
    }

    fn code(body: &Value) -> ErrorCode {
        Request::parse(body.to_string().as_bytes()).unwrap_err().code
    }

    #[test]
    fn a_valid_request_is_read() {
        assert!(Request::parse(valid().to_string().as_bytes()).is_ok());
    }

    #[test]
    fn each_kind_of_bad_input_has_its_code() {
        let mut newer = valid();
        newer["version"] = json!(2);
        newer["new_field"] = json!(1);
        assert_eq!(code(&newer), ErrorCode::UnsupportedVersion);

        let mut unknown = valid();
        unknown["extra"] = json!(1);
        assert_eq!(code(&unknown), ErrorCode::BadRequest);

        assert_eq!(Request::parse(b"{").unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(Request::parse(&[0xff; 10]).unwrap_err().code, ErrorCode::BadRequest);
        let huge = vec![b' '; MAX_REQUEST_BYTES + 1];
        assert_eq!(Request::parse(&huge).unwrap_err().code, ErrorCode::TooLarge);
        let deep = "[".repeat(100_000);
        assert_eq!(Request::parse(deep.as_bytes()).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_reply_is_result_or_error() {
        let reply = Reply {
            version: VERSION,
            id: None,
            host: "db1".parse().unwrap(),
            outcome: Outcome::Error(WireError::new(ErrorCode::Busy, "held by seed 1").retryable()),
        };
        let text = serde_json::to_value(&reply).unwrap();
        assert_eq!(text["error"]["code"], "busy");
        assert_eq!(serde_json::from_value::<Reply>(text).unwrap(), reply);
    }
}
