//! TLS 1.3 on a blocking socket: rustls makes the handshake, the records are sealed and opened here, in place.
//!
//! rustls' own record layer copies every byte twice and allocates per record, whatever API is used. Taking the traffic
//! secrets out after the handshake, as one does for kernel TLS, leaves one pass over the data: a record is opened to where the
//! previous one's content ends, so that a buffer full of records becomes one run of content. What travels is
//! TLS 1.3 to the letter (RFC 8446 section 5); there are no tickets, no key updates and no early data.
//!
//! Taking the secrets out is only sound when no record of the application was read during the handshake: hence the donor, which
//! ends the handshake last, is also the one to speak first (see `handshake`).

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets,
    DigitallySignedStruct, ExtractedSecrets, ServerConfig, ServerConnection, SignatureScheme,
};

use crate::secret::{hex, unhex};
use crate::{Error, Fingerprint, Result};

/// Longest content of one record.
const RECORD_CONTENT_MAX: usize = 16 * 1024;
const RECORD_HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;
/// What a record adds: header, content type, tag.
const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + 1 + TAG_LEN;
/// Longest record on the wire; longer ones are refused (RFC 8446 section 5.2).
pub(crate) const RECORD_LEN_MAX: usize = RECORD_HEADER_LEN + RECORD_CONTENT_MAX + 256;
/// AES-GCM keys are good for 2^24.5 full records (RFC 8446 section 5.5); a new connection takes new keys before that.
const RECORDS_PER_KEY: u64 = 1 << 24;

const TYPE_ALERT: u8 = 21;
const TYPE_APPLICATION: u8 = 23;

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
        format!("{}:{}", hex(&self.certificate), hex(&self.key))
    }

    /// The identity that [`Identity::expose`] gave.
    pub fn from_exposed(text: &str) -> Result<Self> {
        let parts =
            text.split_once(':').and_then(|(certificate, key)| Some((unhex(certificate)?, unhex(key)?)));
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
        config.enable_secret_extraction = true;
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

/// What both directions of a connection are protected with.
pub(crate) struct Keys {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

/// The donor's side of the handshake, until `deadline`.
pub(crate) fn accept(
    identity: &Identity,
    socket: &mut (impl Read + Write),
    deadline: Instant,
) -> Result<Keys> {
    let mut connection = ServerConnection::new(Arc::clone(&identity.config))?;
    shake_hands(&mut connection, socket, deadline)?;
    Keys::new(connection.dangerous_extract_secrets()?)
}

/// The recipient's side: proceeds only when the certificate has `fingerprint`.
pub(crate) fn connect(
    fingerprint: Fingerprint,
    socket: &mut (impl Read + Write),
    deadline: Instant,
) -> Result<Keys> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, algorithms }))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from("donor.orchestrator-agent.invalid")
        .map_err(|_| Error::Options("server name"))?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    shake_hands(&mut connection, socket, deadline)?;
    Keys::new(connection.dangerous_extract_secrets()?)
}

fn shake_hands<Data>(
    connection: &mut rustls::ConnectionCommon<Data>,
    socket: &mut (impl Read + Write),
    deadline: Instant,
) -> Result<()> {
    while connection.is_handshaking() || connection.wants_write() {
        let moved =
            if connection.wants_write() { connection.write_tls(socket) } else { connection.read_tls(socket) };
        match moved {
            Ok(0) => {
                return Err(Error::network("shake hands: the other end closed the connection")(
                    io::ErrorKind::UnexpectedEof.into(),
                ));
            }
            Ok(_) => {}
            Err(error) if is_tick(&error) && Instant::now() < deadline => continue,
            Err(error) => return Err(Error::network("shake hands over TLS")(error)),
        }
        if let Err(error) = connection.process_new_packets() {
            // The alert tells the other end why.
            let _ = connection.write_tls(socket);
            return Err(match error {
                rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                    Error::Fingerprint
                }
                other => other.into(),
            });
        }
    }
    Ok(())
}

/// Whether a socket only reached its poll interval.
pub(crate) fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
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

impl Keys {
    fn new(secrets: ExtractedSecrets) -> Result<Self> {
        let (tx, rx) = (secrets.tx, secrets.rx);
        Ok(Self {
            sealer: Sealer(Direction::new(tx.0, &tx.1)?),
            opener: Opener(Direction::new(rx.0, &rx.1)?),
        })
    }
}

/// One direction's key, and how many records it has seen.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Direction {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::Protocol("unexpected cipher")),
        };
        let key =
            UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::Protocol("unexpected key length"))?;
        let mut fixed = [0; 12];
        fixed.copy_from_slice(iv.as_ref());
        Ok(Self { key: LessSafeKey::new(key), iv: fixed, sequence })
    }

    fn next_nonce(&mut self) -> Result<Nonce> {
        if self.sequence >= RECORDS_PER_KEY {
            return Err(Error::network("go on: the connection's key is used up")(
                io::ErrorKind::ConnectionAborted.into(),
            ));
        }
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Makes records.
pub(crate) struct Sealer(Direction);

impl Sealer {
    /// Appends `content` to `out` as records.
    pub(crate) fn seal(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<()> {
        for part in content.chunks(RECORD_CONTENT_MAX) {
            let length = (part.len() + 1 + TAG_LEN) as u16;
            let header = [TYPE_APPLICATION, 3, 3, (length >> 8) as u8, length as u8];
            out.extend_from_slice(&header);
            let start = out.len();
            out.extend_from_slice(part);
            out.push(TYPE_APPLICATION);
            let nonce = self.0.next_nonce()?;
            let tag = self
                .0
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..])
                .map_err(|_| Error::Protocol("cannot seal a record"))?;
            out.extend_from_slice(tag.as_ref());
        }
        Ok(())
    }

    /// Room that `content_len` bytes take as records.
    pub(crate) fn sealed_len(content_len: usize) -> usize {
        content_len + content_len.div_ceil(RECORD_CONTENT_MAX) * RECORD_OVERHEAD
    }
}

/// What [`Opener::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// `content` more bytes of content; `wire` bytes used up.
    Content { content: usize, wire: usize },
    /// The record is not complete yet.
    Partial,
    /// The other end said that it closes.
    Closed,
}

/// Opens records.
pub(crate) struct Opener(Direction);

impl Opener {
    /// Opens the record at `buffer[at..]` and lays its content at `buffer[to..]`, `to <= at`.
    pub(crate) fn open(&mut self, buffer: &mut [u8], to: usize, at: usize) -> Result<Opened> {
        const BAD: Error = Error::Protocol("a TLS record was damaged or forged");
        let Some(header) = buffer.get(at..at + RECORD_HEADER_LEN) else {
            return Ok(Opened::Partial);
        };
        let header: [u8; RECORD_HEADER_LEN] = [header[0], header[1], header[2], header[3], header[4]];
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != TYPE_APPLICATION || length <= TAG_LEN || RECORD_HEADER_LEN + length > RECORD_LEN_MAX {
            return Err(BAD);
        }
        let body = at + RECORD_HEADER_LEN;
        let Some(record) = buffer.get_mut(to..body + length) else {
            return Ok(Opened::Partial);
        };
        let nonce = self.0.next_nonce()?;
        let plain = self.0.key.open_within(nonce, Aad::from(header), record, body - to..).map_err(|_| BAD)?;
        let typed_len = plain.iter().rposition(|&byte| byte != 0).ok_or(BAD)?;
        match plain[typed_len] {
            TYPE_APPLICATION => Ok(Opened::Content { content: typed_len, wire: RECORD_HEADER_LEN + length }),
            TYPE_ALERT => Ok(Opened::Closed),
            _ => Err(BAD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let direction = || Direction {
            key: LessSafeKey::new(UnboundKey::new(&aead::AES_128_GCM, &[7; 16]).unwrap()),
            iv: [9; 12],
            sequence: 0,
        };
        (Sealer(direction()), Opener(direction()))
    }

    #[test]
    fn records_open_into_one_run_of_content() {
        let (mut sealer, mut opener) = pair();
        let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let mut wire = Vec::new();
        sealer.seal(&content, &mut wire).unwrap();
        assert_eq!(wire.len(), Sealer::sealed_len(content.len()));
        let (mut to, mut at) = (0, 0);
        while let Opened::Content { content, wire: used } = opener.open(&mut wire, to, at).unwrap() {
            to += content;
            at += used;
        }
        assert_eq!(at, wire.len());
        assert!(wire[..to] == content);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_record_is_refused() {
        for at in [0, 1, 6, 500, 1021] {
            let (mut sealer, mut opener) = pair();
            let mut wire = Vec::new();
            sealer.seal(&[3; 1000], &mut wire).unwrap();
            wire[at] ^= 1;
            assert!(opener.open(&mut wire, 0, 0).is_err(), "byte {at}");
        }
    }

    #[test]
    fn records_out_of_order_are_refused() {
        let (mut sealer, mut opener) = pair();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        sealer.seal(b"first", &mut first).unwrap();
        sealer.seal(b"second", &mut second).unwrap();
        assert!(opener.open(&mut second, 0, 0).is_err());
    }
}
