//! TLS as a client of services that the person names: whose certificates are believed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Authorities cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file holds no such PEM.
    #[error("{} holds no {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What the reader said.
        source: io::Error,
    },
    /// They are of a kind that is not spoken.
    #[error("this certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// The system has no authorities.
    #[error("this system has no certificate authorities: name a file of them")]
    NoAuthorities,
}

/// Believes the authorities of a file, or those of the system.
///
/// # Errors
/// A file that cannot be used, a system without authorities.
pub fn client(ca: Option<&Path>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let trusted = match ca {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(trusted);
    if roots.is_empty() {
        return Err(Error::NoAuthorities);
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The certificates of a file, at least one.
///
/// # Errors
/// The file is not there or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_file_iter(path).map_err(no_pem(path, "certificate"))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(no_pem(path, "certificate"))?;
    if all.is_empty() {
        return Err(no_pem(path, "certificate")(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(all)
}

/// What a PEM reader's error means for this file.
pub fn no_pem(path: &Path, what: &'static str) -> impl FnOnce(rustls::pki_types::pem::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Pem { path, what, source: io::Error::other(error.to_string()) }
}
