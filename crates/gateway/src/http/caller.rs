//! Who asks for which host, as handlers receive it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::answer;
use crate::hosts::Host;

/// Longest path that is logged.
const MAX_LOGGED: usize = 200;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) IpAddr);

/// A request for a host, from anybody.
#[derive(Debug, Clone)]
pub(crate) struct Stranger {
    /// The host that it is for.
    pub(crate) host: Arc<Host>,
    /// Where it comes from.
    pub(crate) client: IpAddr,
}

/// A request for a host by somebody who has its token.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The host that it is for.
    pub(crate) host: Arc<Host>,
    /// Where it comes from.
    pub(crate) client: IpAddr,
    /// Path and query without the token.
    pub(crate) asked: String,
    query: String,
}

impl Caller {
    /// A parameter of the query. Orchestrator writes it as it is, so nothing but percent signs is decoded: a plus is a plus.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        parameter(&self.query, name).map(Cow::into_owned)
    }
}

/// The last parameter of that name; a text that is no UTF-8 is none.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = values.rev().find(|(key, _)| *key == name)?;
    percent_decode_str(value).decode_utf8().ok()
}

fn without_token(path: &str, query: &str) -> String {
    let rest: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("token=")).collect();
    let mut asked = path.to_owned();
    if !rest.is_empty() {
        asked.push('?');
        asked.push_str(&rest.join("&"));
    }
    asked.chars().take(MAX_LOGGED).collect()
}

impl<S: Sync> FromRequestParts<S> for Stranger {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let stranger = parts.extensions.get::<Self>().cloned();
        stranger.ok_or_else(|| answer::failed("the request names no host"))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Stranger { host, client } = Stranger::from_request_parts(parts, state).await?;
        let query = parts.uri.query().unwrap_or_default();
        if !parameter(query, "token").is_some_and(|token| host.token.is(&token)) {
            // Without its query: the token may stand there under another name.
            let asked = without_token(parts.uri.path(), "");
            tracing::warn!(%client, host = host.name, asked, "a request without the host's token");
            return Err(answer::error(StatusCode::INTERNAL_SERVER_ERROR, answer::INVALID_TOKEN));
        }
        let asked = without_token(parts.uri.path(), query);
        Ok(Self { host, client, asked, query: query.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_orchestrator_writes_them() {
        let query = "lv=/dev/vg0/mysql+1:a@b&token=x";
        assert_eq!(parameter(query, "lv").unwrap(), "/dev/vg0/mysql+1:a@b");
        assert_eq!(parameter("lv=%2Fdev%2Fvg0%2fs&token=x", "lv").unwrap(), "/dev/vg0/s");
        assert_eq!(parameter("token=a&token=b", "token").unwrap(), "b");
        assert_eq!(parameter("xtoken=a&token", "token"), None);
        assert_eq!(parameter("lv=%ff", "lv"), None);
        assert_eq!(without_token("/api/mountlv", query), "/api/mountlv?lv=/dev/vg0/mysql+1:a@b");
        assert_eq!(without_token("/api/mount", "token=secret"), "/api/mount");
        assert_eq!(without_token("/x", &"y".repeat(9_000)).len(), MAX_LOGGED);
    }
}
