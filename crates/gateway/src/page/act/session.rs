//! What an order must show: that it comes from this page, in the browser that was given the form.

use axum::http::{HeaderMap, header};
use rustls::crypto::ring;
use subtle::ConstantTimeEq as _;

/// The cookie's name.
const COOKIE: &str = "page_session";
/// Hexadecimal digits of a session.
const DIGITS: usize = 32;

/// Makes sessions and their tokens; a restart ends all of them.
pub(in super::super) struct Sessions {
    key: [u8; blake3::KEY_LEN],
    is_secure: bool,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    /// `is_secure`: browsers speak TLS with it.
    pub(in super::super) fn new(is_secure: bool) -> Self {
        Self { key: random(), is_secure }
    }

    /// The browser's session, and the cookie to give it where it had none.
    pub(super) fn of(&self, headers: &HeaderMap) -> (String, Option<String>) {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        if let Some((_, session)) = pairs.find(|(name, session)| *name == COOKIE && is_session(session)) {
            return (session.to_owned(), None);
        }
        let bytes: [u8; DIGITS / 2] = random();
        let session = sys::hex::encode(bytes);
        let secure = if self.is_secure { "; Secure" } else { "" };
        let cookie = format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict{secure}");
        (session, Some(cookie))
    }

    /// What a form of that session holds.
    pub(super) fn token(&self, session: &str) -> String {
        sys::hex::encode(blake3::keyed_hash(&self.key, session.as_bytes()).as_bytes())
    }

    /// Whether a form is of that session, in a time that tells nothing.
    pub(super) fn holds(&self, session: &str, token: &str) -> bool {
        self.token(session).as_bytes().ct_eq(token.as_bytes()).into()
    }
}

fn is_session(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness nothing else of TLS would work; zeros would only make sessions that end with the next start.
    if ring::default_provider().secure_random.fill(&mut bytes).is_err() {
        tracing::error!("this machine gives no random bytes");
    }
    bytes
}

/// Whether a request comes from this very page, as its browser says. One that says nothing is none.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (word("sec-fetch-site"), word("origin")) {
        // Its policy keeps the page from naming its origin in a form.
        (Some(site), Some("null") | None) => site == "same-origin",
        (site, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            site.is_none_or(|site| site == "same-origin") && host.is_some() && host == word("host")
        }
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_request_of_another_origin_is_not_the_pages_own() {
        let own: [&[(&str, &str)]; 3] = [
            &[("host", "h:1"), ("sec-fetch-site", "same-origin")],
            &[("host", "h:1"), ("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[("host", "h:1"), ("origin", "http://h:1")],
        ];
        for lines in own {
            assert!(is_own(&headers(lines)), "{lines:?}");
        }
        let others: [&[(&str, &str)]; 7] = [
            &[("host", "h:1")],
            &[("host", "h:1"), ("origin", "null")],
            &[("host", "h:1"), ("origin", "http://h:2")],
            &[("host", "h:1"), ("sec-fetch-site", "cross-site")],
            &[("host", "h:1"), ("sec-fetch-site", "same-site"), ("origin", "null")],
            &[("host", "h:1"), ("sec-fetch-site", "cross-site"), ("origin", "http://h:1")],
            &[("host", "h:1"), ("sec-fetch-site", "none")],
        ];
        for lines in others {
            assert!(!is_own(&headers(lines)), "{lines:?}");
        }
    }

    #[test]
    fn a_token_is_its_sessions_and_its_gateways() {
        let sessions = Sessions::new(true);
        let (session, cookie) = sessions.of(&HeaderMap::new());
        let cookie = cookie.unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        let (same, none) = sessions.of(&headers(&[("cookie", &format!("a=b; {COOKIE}={session}"))]));
        assert_eq!((same, none), (session.clone(), None));
        assert!(sessions.holds(&session, &sessions.token(&session)));
        let (other, _) = sessions.of(&headers(&[("cookie", "page_session=x")]));
        assert_ne!(other, session);
        assert!(!sessions.holds(&other, &sessions.token(&session)) && !sessions.holds(&session, ""));
        assert!(!Sessions::new(false).holds(&session, &sessions.token(&session)));
    }
}
