//! What a browser must show before it is shown anything, and what every answer tells it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::http::answer;
use crate::names;

/// Nothing of elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // A proxy in front that gathers what follows would hold ticks back.
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// The names that the page is reached under.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether a `Host` header names this page. A site of elsewhere may have its own name lead here, and is refused by it; an
    /// address is nobody's name.
    pub(super) fn have(&self, headers: &HeaderMap) -> bool {
        let Some(header) = headers.get(header::HOST).and_then(|header| header.to_str().ok()) else {
            return false;
        };
        let bare = header.rsplit_once("]:").map_or(header, |(address, _)| address);
        if let Some(address) = bare.strip_prefix('[') {
            return address.trim_end_matches(']').parse::<std::net::Ipv6Addr>().is_ok();
        }
        let name = names::of_header(header);
        name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok() || self.0.contains(&name)
    }
}

/// What is said to who asks under another name.
pub(super) fn misdirected() -> Response<Body> {
    let mut response = answer::told(
        StatusCode::MISDIRECTED_REQUEST,
        "ERROR",
        "this page is not known under that name; list it in page.names of the gateway's configuration",
    );
    guard(&mut response);
    response
}

/// Adds what every answer tells.
pub(super) fn guard(response: &mut Response<Body>) {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_else_gave_this_address_is_refused() {
        let names = Names::new(&["Fleet.example.com".to_owned()]);
        let have = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            names.have(&headers)
        };
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "10.1.2.3",
            "[::1]:8080",
            "[::1]",
            "fleet.example.com",
            "FLEET.example.com.:443",
        ] {
            assert!(have(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "xfleet.example.com",
            "",
            "[evil]:80",
            "localhost.evil",
        ] {
            assert!(!have(host), "{host}");
        }
        assert!(!names.have(&HeaderMap::new()));
    }
}
