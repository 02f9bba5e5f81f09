//! TLS 1.3 on a blocking socket, by rustls: who may speak with whom, and records in buffers of the caller's.
//!
//! rustls' unbuffered API takes and gives records in the link's own buffers; its buffered one would take them from the socket
//! one by one (docs/data-plane.md).

mod session;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
};
use sys::hex;

use crate::{Error, Fingerprint, Result};
use session::End;
pub(crate) use session::{Opened, RECORD_LEN_MAX, Session, is_tick};

/// A donor's certificate and its key, made for one offer; kept by who must serve the same offer again after a restart.
pub struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
    config: Arc<ServerConfig>,
    pub(crate) fingerprint: Fingerprint,
}

impl Identity {
    /// A new certificate with a new key.
    pub fn generate() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["donor.orchestrator-agent.invalid".to_owned()])?;
        Self::from_der(made.cert.der().to_vec(), made.signing_key.serialize_der())
    }

    /// Certificate and private key as one text of hexadecimal digits. Treat the result as a password.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{}:{}", hex::encode(&self.certificate), hex::encode(&self.key))
    }

    /// The identity that [`Identity::expose`] gave.
    pub fn from_exposed(text: &str) -> Result<Self> {
        let parts = text
            .split_once(':')
            .and_then(|(certificate, key)| Some((hex::decode(certificate)?, hex::decode(key)?)));
        let (certificate, key) = parts.ok_or(Error::Options("the kept certificate is damaged"))?;
        Self::from_der(certificate, key)
    }

    fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self> {
        let der = CertificateDer::from(certificate.clone());
        let fingerprint = fingerprint_of(&der);
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![der], private)?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { certificate, key, config: Arc::new(config), fingerprint })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The donor's side of the handshake, until `deadline`.
pub(crate) fn accept(
    identity: &Identity,
    socket: &mut (impl Read + Write),
    deadline: Instant,
) -> Result<Session> {
    let connection = UnbufferedServerConnection::new(Arc::clone(&identity.config))?;
    Session::new(End::Donor(Box::new(connection))).shake_hands(socket, deadline)
}

/// The recipient's side: proceeds only when the certificate has `fingerprint`.
pub(crate) fn connect(
    fingerprint: Fingerprint,
    socket: &mut (impl Read + Write),
    deadline: Instant,
) -> Result<Session> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, algorithms }))
        .with_no_client_auth();
    config.enable_sni = false;
    // A test forges records.
    config.enable_secret_extraction = cfg!(test);
    config.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from("donor.orchestrator-agent.invalid")
        .map_err(|_| Error::Options("server name"))?;
    let connection = UnbufferedClientConnection::new(Arc::new(config), name)?;
    Session::new(End::Recipient(Box::new(connection))).shake_hands(socket, deadline)
}

/// AES-128-GCM first where the CPU has AES instructions, ChaCha20 where it has not.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let rank = |suite: CipherSuite| match (suite, has_aes()) {
        (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, false) => 0,
        (CipherSuite::TLS13_AES_128_GCM_SHA256, _) => 1,
        (CipherSuite::TLS13_AES_256_GCM_SHA384, _) => 2,
        _ => 3,
    };
    provider.cipher_suites.sort_by_key(|suite| rank(suite.suite()));
    Arc::new(provider)
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

fn fingerprint_of(certificate: &CertificateDer<'_>) -> Fingerprint {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    Fingerprint(out)
}

/// Accepts the one certificate that was offered, whoever signed it.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if fingerprint_of(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
