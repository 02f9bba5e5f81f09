//! What a request must be before any handler sees it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Body as _;

use super::answer;
use super::caller::{Client, Stranger};
use crate::hosts::{Host, Hosts};
use crate::names;
use crate::secrets::Hidden;

/// Which host a listener serves.
#[derive(Debug, Clone)]
pub(crate) enum Serves {
    /// The one that the `Host` header names.
    Named,
    /// This one, whatever the header says.
    One(Arc<Host>),
    /// No host: what is asked is about all of them.
    Fleet,
}

/// The conditions of all listeners.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Bytes of path and query.
    pub(crate) max_url_bytes: usize,
    /// Bytes of a posted form; 0: nothing is posted.
    pub(crate) max_form: usize,
    /// The value of the `Authorization` header that is wanted.
    pub(crate) login: Option<Hidden>,
    /// The hosts that can be named.
    pub(crate) hosts: Arc<Hosts>,
}

impl Admission {
    /// The request as handlers see it, or what is answered instead.
    pub(crate) fn admit(
        &self,
        mut request: Request<Body>,
        serves: &Serves,
        client: IpAddr,
    ) -> Result<Request<Body>, Box<Response<Body>>> {
        let length = request.uri().path_and_query().map_or(0, |whole| whole.as_str().len());
        if length > self.max_url_bytes {
            let message = format!("the URL has {length} bytes, the limit is {}", self.max_url_bytes);
            return Err(answer::last(answer::error(StatusCode::URI_TOO_LONG, &message)).into());
        }
        let is_form = request.method() == Method::POST
            && request.body().size_hint().exact().is_some_and(|bytes| bytes <= self.max_form as u64)
            && self.max_form > 0;
        if !is_form && !request.body().is_end_stream() {
            let message = "requests have no body here";
            return Err(answer::last(answer::error(StatusCode::PAYLOAD_TOO_LARGE, message)).into());
        }
        if let Some(login) = &self.login
            && !request.headers().get(header::AUTHORIZATION).is_some_and(|given| shows(login, given))
        {
            let mut answer = answer::error(StatusCode::UNAUTHORIZED, "Not Authorized");
            let challenge = HeaderValue::from_static("Basic realm=\"orchestrator-gateway\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return Err(answer.into());
        }
        if request.method() != Method::GET && !is_form {
            return Err(answer::no_path().into());
        }
        let host = match serves {
            Serves::One(host) => Some(host.clone()),
            Serves::Named => Some(self.named(&request)?),
            Serves::Fleet => None,
        };
        if let Some(uri) = without_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        request.extensions_mut().insert(Client(client));
        if let Some(host) = host {
            request.extensions_mut().insert(Stranger { host, client });
        }
        Ok(request)
    }

    fn named(&self, request: &Request<Body>) -> Result<Arc<Host>, Box<Response<Body>>> {
        let header = request.headers().get(header::HOST).and_then(|header| header.to_str().ok());
        let name = names::of_header(header.unwrap_or_default());
        self.hosts.named(&name).ok_or_else(|| {
            let name: String = name.chars().take(128).collect();
            answer::error(StatusCode::NOT_FOUND, &format!("{name}: no such host in the fleet")).into()
        })
    }
}

fn shows(login: &Hidden, given: &HeaderValue) -> bool {
    given.to_str().is_ok_and(|given| login.is(given))
}

/// The same without a slash at the end of its path, which the original does not mind: orchestrator writes `post-copy/?`.
fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/'))?;
    let whole = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_is_not_minded() {
        let without = |text: &str| without_slash(&text.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(without("/api/post-copy/?sourceHost=a").unwrap(), "/api/post-copy?sourceHost=a");
        assert_eq!(without("/api/mount/").unwrap(), "/api/mount");
        for text in ["/", "/api/mount", "/api/mount//"] {
            assert_eq!(without(text), None, "{text}");
        }
    }
}
