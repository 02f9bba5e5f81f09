//! What an agent or a person proves itself with to the server, read from files that nobody else can read.

use nkeys::KeyPair;

use crate::config::{BusConfig, Credentials};
use crate::error::{BusError, Result};

/// Reads a credentials file and answers the server's challenge with it; the server's nonce may be empty, to try the file.
///
/// # Errors
/// [`BusError::File`] where the file cannot be read or others can; [`BusError::Config`] where it holds no such credentials.
pub(crate) fn make_auth(credentials: &Credentials, nonce: &[u8]) -> Result<async_nats::Auth> {
    let text = sys::file::read_secret(credentials.path())?;
    let bad = |why: &str| BusError::Config {
        key: "credentials",
        why: format!("{}: {why}", credentials.path().display()),
    };
    let sign = |seed: &str| {
        let key = KeyPair::from_seed(seed).map_err(|_| bad("it holds no valid nkey seed"))?;
        let signature = key.sign(nonce).map_err(|_| bad("its key cannot sign"))?;
        Ok::<_, BusError>((key, signature))
    };
    let mut auth = async_nats::Auth::new();
    match credentials {
        Credentials::NkeyFile(_) => {
            let (key, signature) = sign(first_line(&text).ok_or_else(|| bad("it is empty"))?)?;
            auth.nkey = Some(key.public_key());
            auth.signature = Some(signature);
        }
        Credentials::CredsFile(_) => {
            let jwt = armored(&text, "USER JWT").ok_or_else(|| bad("it has no user JWT"))?;
            let seed = armored(&text, "USER NKEY SEED").ok_or_else(|| bad("it has no user seed"))?;
            auth.jwt = Some(jwt.to_owned());
            auth.signature = Some(sign(seed)?.1);
        }
        Credentials::TokenFile(_) => {
            auth.token = Some(first_line(&text).ok_or_else(|| bad("it is empty"))?.to_owned());
        }
        Credentials::PasswordFile(_) => {
            let line = first_line(&text).ok_or_else(|| bad("it is empty"))?;
            let (user, password) = line.split_once(':').ok_or_else(|| bad("it is not user:password"))?;
            auth.username = Some(user.to_owned());
            auth.password = Some(password.to_owned());
        }
    }
    Ok(auth)
}

fn first_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The line between `-----BEGIN NATS <what>-----` and its end (the marks differ in their number of dashes).
fn armored<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let begins = |line: &str| line.starts_with('-') && line.contains("BEGIN") && line.contains(what);
    let mut lines = text.lines().skip_while(|line| !begins(line));
    lines.next()?;
    lines.map(str::trim).find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

/// Looks at the files that the settings name, before anything is tried with them.
///
/// # Errors
/// The key, and what is wrong with its file.
pub fn check_files(config: &BusConfig) -> std::result::Result<(), (&'static str, BusError)> {
    if let Some(credentials) = &config.credentials {
        make_auth(credentials, b"").map_err(|error| ("credentials", error))?;
    }
    check_tls_files(config).map_err(|error| ("tls", error))
}

/// Looks at the files of TLS before the client reads them at some later attempt.
///
/// # Errors
/// [`BusError::File`] where one cannot be read, or others can read the key.
pub(crate) fn check_tls_files(config: &BusConfig) -> Result<()> {
    if let Some(key) = &config.tls.key {
        sys::file::check_secret(key)?;
    }
    for path in [&config.tls.ca, &config.tls.cert].into_iter().flatten() {
        std::fs::File::open(path).map_err(|source| BusError::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::armored;

    #[test]
    fn a_token_may_hold_any_letters() {
        let file =
            |token: &str| format!("-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n");
        for token in ["eyJ0.eyJENDB.sig", "eyBEGIN.USER.x"] {
            assert_eq!(armored(&file(token), "USER JWT"), Some(token));
        }
        assert_eq!(armored(&file(""), "USER JWT"), None);
        assert_eq!(armored("eyJ0", "USER JWT"), None);
    }
}
