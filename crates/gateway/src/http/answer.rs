//! Answers in the original's form, and the one that it has no form for: none.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

/// Marks an answer in whose place the connection is broken. Orchestrator takes every HTTP status for success; only a connection that
/// ends without an answer is a failure to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Break;

/// What the original says to a wrong or missing token.
pub(crate) const INVALID_TOKEN: &str = "Invalid token";

/// JSON as the original labels it.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => with(status, "application/json; charset=UTF-8", text.into()),
        Err(error) => failed(&error.to_string()),
    }
}

/// A good answer.
pub(crate) fn ok<T: Serialize>(value: &T) -> Response<Body> {
    json(StatusCode::OK, value)
}

/// The original's form of an outcome in words.
pub(crate) fn told(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json(status, &outcome(code, message))
}

/// The body of [`told`].
pub(crate) fn outcome(code: &str, message: &str) -> Value {
    json!({"Code": code, "Message": message, "Details": null})
}

/// An error in the original's form.
pub(crate) fn error(status: StatusCode, message: &str) -> Response<Body> {
    told(status, "ERROR", message)
}

/// What the original answers when something failed.
pub(crate) fn failed(message: &str) -> Response<Body> {
    let text = outcome("ERROR", message).to_string();
    with(StatusCode::INTERNAL_SERVER_ERROR, "application/json; charset=UTF-8", text.into())
}

/// No such path.
pub(crate) fn no_path() -> Response<Body> {
    with(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into())
}

/// No answer at all.
pub(crate) fn broken() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Break);
    response
}

/// The last answer of its connection.
pub(crate) fn last(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn with(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
