//! TLS as a server towards orchestrator and as a client of it. No certificate is ever demanded of orchestrator: it has none to show.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use sys::tls;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate, key or authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or open to others.
    #[error(transparent)]
    File(#[from] sys::file::Error),
    /// It holds something else, or there are no authorities.
    #[error(transparent)]
    Contents(#[from] tls::Error),
    /// Certificate and key do not go together, or are of a kind that is not spoken.
    #[error("this certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// Takes TLS connections.
///
/// # Errors
/// A file that cannot be used.
pub(crate) fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let text = sys::file::read_secret(key)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(tls::no_pem(key, "private key"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(tls::certificates(cert)?, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Makes TLS connections; trusts the authorities of a file, or those of the system.
///
/// # Errors
/// A file that cannot be used.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::from(Arc::new(tls::client(ca)?)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::orchestrator::Node;

    /// A certificate for the loopback with its key, in files.
    fn identity(dir: &Path) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        sys::file::create(&key, made.signing_key.serialize_pem().as_bytes(), 0o600).unwrap();
        (cert, key)
    }

    #[tokio::test]
    async fn a_node_is_asked_over_tls_and_only_where_its_certificate_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = identity(dir.path());
        let acceptor = acceptor(&cert, &key).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}/prefix", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let mut asked = String::new();
            while !asked.contains("agent-ping") {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 512];
                let read = stream.read(&mut head).await.unwrap();
                asked = String::from_utf8_lossy(&head[..read]).into_owned();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\"OK\"").await.unwrap();
            }
            asked
        });
        let other = tempfile::tempdir().unwrap();
        let (stranger, _) = identity(other.path());
        assert!(Node::new(&url, Some(&stranger), None).unwrap().ping().await.is_err());
        Node::new(&url, Some(&cert), None).unwrap().ping().await.unwrap();
        assert!(served.await.unwrap().starts_with("GET /prefix/api/agent-ping HTTP/1.1"));
    }

    #[test]
    fn files_that_hold_something_else_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = identity(dir.path());
        let told = |result: Result<TlsAcceptor, TlsError>| sys::error::line(&result.err().unwrap());
        assert!(told(acceptor(&key, &key)).contains("key.pem holds no certificate"));
        let empty = dir.path().join("empty.pem");
        sys::file::create(&empty, b"", 0o600).unwrap();
        assert!(told(acceptor(&cert, &empty)).contains("empty.pem holds no private key"));
        sys::file::write(&key, &std::fs::read(&key).unwrap(), 0o640).unwrap();
        assert!(told(acceptor(&cert, &key)).contains("chmod 600"));
    }
}
