//! How a connection is encrypted, in the words that option files have for clients: `ssl-mode` (MySQL), `ssl`,
//! `ssl-verify-server-cert` (MariaDB), `ssl-ca`, `ssl-cert`, `ssl-key`.

use std::path::PathBuf;

use mysql_async::{ClientIdentity, SslOpts};

use crate::options::Options;

/// What is demanded of the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    /// Nobody said anything: in clear.
    #[default]
    Unsaid,
    /// In clear, in somebody's own words.
    Disabled,
    /// Encrypted, whoever answers.
    Required,
    /// Its certificate is of the authority in `ssl-ca`.
    VerifyCa,
    /// And bears the name that was connected to.
    VerifyIdentity,
}

/// Encryption of a connection to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// What is demanded.
    pub mode: TlsMode,
    /// Certificates of the authorities that are trusted.
    pub ca: Option<PathBuf>,
    /// Certificate and key of the client.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// As the group of an option file says; the error is a sentence about what in it cannot be kept.
    pub(crate) fn from_options(client: &Options) -> Result<Self, String> {
        let ca = client.path("ssl-ca");
        let identity = match (client.path("ssl-cert"), client.path("ssl-key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("ssl-cert and ssl-key belong together".to_owned()),
        };
        let mode = match client.get("ssl-mode").map(str::to_ascii_uppercase).as_deref() {
            Some("DISABLED") => TlsMode::Disabled,
            // A preference that may end in clear would be no setting.
            Some("PREFERRED" | "REQUIRED") => TlsMode::Required,
            Some("VERIFY_CA") => TlsMode::VerifyCa,
            Some("VERIFY_IDENTITY") => TlsMode::VerifyIdentity,
            Some(other) => return Err(format!("ssl-mode {other} is unknown")),
            None => match (client.is_on("ssl"), client.is_on("ssl-verify-server-cert")) {
                (Some(false), _) => TlsMode::Disabled,
                (_, Some(true)) => TlsMode::VerifyIdentity,
                _ if ca.is_some() => TlsMode::VerifyCa,
                (Some(true), _) => TlsMode::Required,
                _ if identity.is_some() => TlsMode::Required,
                _ => TlsMode::Unsaid,
            },
        };
        if mode >= TlsMode::VerifyCa && ca.is_none() {
            return Err("a server's certificate can only be verified with ssl-ca".to_owned());
        }
        Ok(Self { mode, ca, identity })
    }

    /// True when a connection in clear is none.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mode >= TlsMode::Required
    }

    /// For this client's own connections.
    pub(crate) fn options(&self) -> Option<SslOpts> {
        if !self.is_on() {
            return None;
        }
        let roots = self.ca.iter().map(|path| path.clone().into()).collect();
        let mut options = SslOpts::default().with_root_certs(roots);
        if let Some((cert, key)) = &self.identity {
            options = options
                .with_client_identity(Some(ClientIdentity::new(cert.clone().into(), key.clone().into())));
        }
        // The authorities of the web vouch for no database server.
        options = options.with_disable_built_in_roots(self.ca.is_some());
        Some(match self.mode {
            TlsMode::VerifyIdentity => options,
            TlsMode::VerifyCa => options.with_danger_skip_domain_validation(true),
            _ => options.with_danger_accept_invalid_certs(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OptionFiles;

    fn tls(lines: &str) -> Result<Tls, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("[client]\n{lines}\n")).unwrap();
        Tls::from_options(&OptionFiles::load_file(file.path()).unwrap().effective(&["client"]))
    }

    #[test]
    fn the_words_of_both_vendors_are_understood() {
        let cases = [
            ("user=x", TlsMode::Unsaid),
            ("ssl-mode=DISABLED", TlsMode::Disabled),
            ("skip-ssl", TlsMode::Disabled),
            ("ssl", TlsMode::Required),
            ("ssl-mode=preferred", TlsMode::Required),
            ("ssl_mode=REQUIRED\nssl-ca=/ca.pem", TlsMode::Required),
            ("ssl-ca=/ca.pem", TlsMode::VerifyCa),
            ("ssl-ca=/ca.pem\nssl-verify-server-cert", TlsMode::VerifyIdentity),
            ("ssl-cert=/c.pem\nssl-key=/k.pem", TlsMode::Required),
        ];
        for (lines, mode) in cases {
            assert_eq!(tls(lines).unwrap().mode, mode, "{lines}");
        }
        for wrong in ["ssl-mode=perhaps", "ssl-mode=VERIFY_CA", "ssl-cert=/c.pem"] {
            assert!(tls(wrong).is_err(), "{wrong}");
        }
    }
}
