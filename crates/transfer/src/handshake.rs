//! The first three messages of every connection: who speaks which version, and proof that both know the token.
//!
//! The donor greets, the recipient answers with its choice and its proof, the donor welcomes it with its own proof or
//! refuses. A proof is a BLAKE3 hash, keyed by the token, over all that was said before: the token never travels, a
//! recorded handshake opens nothing, and nobody in between can talk the two ends down to less than both can do.
//! The donor speaks first for the sake of TLS (see `tls`).

use crate::digest::DigestKind;
use crate::frame::{le_u32, le_u64};
use crate::{Error, Result, Token};

/// The versions that this build speaks.
pub(crate) const VERSIONS: Versions = Versions { min: 1, max: 1 };

const MAGIC: &[u8; 8] = b"OASEED\r\n";
pub(crate) const GREETING_LEN: usize = 64;
pub(crate) const HELLO_LEN: usize = 128;
pub(crate) const WELCOME_LEN: usize = 40;
const PROOF_LEN: usize = 32;

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) min: u16,
    pub(crate) max: u16,
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// The highest version that both ends speak.
pub(crate) fn negotiate(ours: Versions, theirs: Versions) -> Option<u16> {
    let version = ours.max.min(theirs.max);
    (version >= ours.min && version >= theirs.min && ours.min <= ours.max && theirs.min <= theirs.max)
        .then_some(version)
}

/// The first of `wanted` that is in `offered` (a set of [`DigestKind::bit`]).
pub(crate) fn choose_digest(wanted: &[DigestKind], offered: u32) -> Option<DigestKind> {
    wanted.iter().copied().find(|kind| offered & kind.bit() != 0)
}

/// Among the donor's features: it paces what it sends by what the path delivers, so that few connections fill it. Beyond those of
/// [`crate::compress::FEATURES`]; who does not know it leaves it out of the answer as it does all that it does not ask for.
pub(crate) const PACED: u32 = 1 << 8;

/// Among the donor's features: it introduces recipients of one tree to one another.
pub(crate) const CIRCLES: u32 = 1 << 9;

/// Among the donor's features: it tells what differs from a tree that the recipient has.
pub(crate) const COMPARES: u32 = 1 << 10;

/// The donor's first words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) versions: Versions,
    pub(crate) features: u32,
    pub(crate) digests: u32,
    pub(crate) nonce: [u8; 32],
}

impl Greeting {
    pub(crate) fn encode(&self) -> [u8; GREETING_LEN] {
        let mut out = [0; GREETING_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&self.versions.min.to_le_bytes());
        out[10..12].copy_from_slice(&self.versions.max.to_le_bytes());
        out[12..16].copy_from_slice(&self.features.to_le_bytes());
        out[16..20].copy_from_slice(&self.digests.to_le_bytes());
        out[32..].copy_from_slice(&self.nonce);
        out
    }

    pub(crate) fn decode(bytes: &[u8; GREETING_LEN]) -> Result<Self> {
        check_magic(bytes)?;
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[32..]);
        Ok(Self {
            versions: versions(bytes),
            features: le_u32(&bytes[12..16]),
            digests: le_u32(&bytes[16..20]),
            nonce,
        })
    }
}

/// The recipient's answer, without its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) features: u32,
    pub(crate) digest: DigestKind,
    /// Which of the donor's tokens this is about; says nothing about the token itself.
    pub(crate) token_id: u64,
    /// The same for all connections of one recipient, also after its restart.
    pub(crate) session: [u8; 16],
    pub(crate) nonce: [u8; 32],
}

impl Hello {
    /// The message with its proof.
    pub(crate) fn encode(&self, token: &Token, greeting: &[u8; GREETING_LEN]) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[10] = self.digest as u8;
        out[12..16].copy_from_slice(&self.features.to_le_bytes());
        out[16..24].copy_from_slice(&self.token_id.to_le_bytes());
        out[24..40].copy_from_slice(&self.session);
        out[40..72].copy_from_slice(&self.nonce);
        let proof = prove(token, b"recipient", &[greeting, &out[..HELLO_LEN - PROOF_LEN]]);
        out[HELLO_LEN - PROOF_LEN..].copy_from_slice(proof.as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self> {
        check_magic(bytes)?;
        let mut hello = Self {
            version: u16::from_le_bytes([bytes[8], bytes[9]]),
            features: le_u32(&bytes[12..16]),
            digest: DigestKind::from_u8(bytes[10]).ok_or(Error::Protocol("unknown digest"))?,
            token_id: le_u64(&bytes[16..24]),
            session: [0; 16],
            nonce: [0; 32],
        };
        hello.session.copy_from_slice(&bytes[24..40]);
        hello.nonce.copy_from_slice(&bytes[40..72]);
        Ok(hello)
    }

    /// Whether who wrote these bytes knows `token`; takes the same time whatever the answer.
    pub(crate) fn is_proven(bytes: &[u8; HELLO_LEN], token: &Token, greeting: &[u8; GREETING_LEN]) -> bool {
        let expected = prove(token, b"recipient", &[greeting, &bytes[..HELLO_LEN - PROOF_LEN]]);
        let mut proof = [0; PROOF_LEN];
        proof.copy_from_slice(&bytes[HELLO_LEN - PROOF_LEN..]);
        expected == blake3::Hash::from_bytes(proof)
    }
}

/// How the donor receives the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    Welcome = 0,
    Version = 1,
    Token = 2,
    Busy = 3,
}

/// The donor's verdict, with its own proof where it knows the token.
pub(crate) fn encode_welcome(
    verdict: Verdict,
    token: Option<(&Token, &[u8; HELLO_LEN])>,
) -> [u8; WELCOME_LEN] {
    let mut out = [0; WELCOME_LEN];
    out[0] = verdict as u8;
    if let Some((token, hello)) = token {
        out[WELCOME_LEN - PROOF_LEN..].copy_from_slice(prove(token, b"donor", &[hello]).as_bytes());
    }
    out
}

/// Reads the donor's verdict; an unproven welcome is refused.
pub(crate) fn decode_welcome(
    bytes: &[u8; WELCOME_LEN],
    token: &Token,
    hello: &[u8; HELLO_LEN],
) -> Result<Verdict> {
    let verdict = match bytes[0] {
        0 => Verdict::Welcome,
        1 => Verdict::Version,
        2 => Verdict::Token,
        3 => Verdict::Busy,
        _ => return Err(Error::Protocol("unknown answer to the handshake")),
    };
    let mut proof = [0; PROOF_LEN];
    proof.copy_from_slice(&bytes[WELCOME_LEN - PROOF_LEN..]);
    if verdict == Verdict::Welcome && prove(token, b"donor", &[hello]) != blake3::Hash::from_bytes(proof) {
        return Err(Error::Token);
    }
    Ok(verdict)
}

/// The donor's word that `root` is the digest of what it has read.
pub(crate) fn prove_root(token: &Token, session: &[u8; 16], root: &[u8; 32]) -> blake3::Hash {
    prove(token, b"root", &[session, root])
}

/// The token of two recipients of one tree: made of the secret of the one that hands on, for the session of the other.
pub(crate) fn token_of_pair(secret: &Token, session: &[u8; 16]) -> Token {
    Token::from_bytes(*prove(secret, b"pair", &[session]).as_bytes())
}

/// A short public name of a token.
pub(crate) fn token_id(token: &Token) -> u64 {
    le_u64(&prove(token, b"id", &[]).as_bytes()[..8])
}

fn prove(token: &Token, role: &[u8], parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(token.bytes());
    hasher.update(b"orchestrator-agent seed ");
    hasher.update(role);
    hasher.update(&[0]);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn check_magic(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(MAGIC) {
        Ok(())
    } else {
        Err(Error::Protocol("it does not speak the seed protocol"))
    }
}

fn versions(bytes: &[u8]) -> Versions {
    Versions {
        min: u16::from_le_bytes([bytes[8], bytes[9]]),
        max: u16::from_le_bytes([bytes[10], bytes[11]]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(min: u16, max: u16) -> Versions {
        Versions { min, max }
    }

    fn hello() -> Hello {
        Hello {
            version: 1,
            features: 0,
            digest: DigestKind::Xxh3,
            token_id: 5,
            session: [6; 16],
            nonce: [7; 32],
        }
    }

    #[test]
    fn the_highest_common_version_wins() {
        assert_eq!(negotiate(range(1, 3), range(2, 9)), Some(3));
        assert_eq!(negotiate(range(2, 9), range(1, 3)), Some(3));
        assert_eq!(negotiate(range(1, 1), range(1, 1)), Some(1));
        assert_eq!(negotiate(range(1, 2), range(3, 4)), None);
        assert_eq!(negotiate(range(3, 4), range(1, 2)), None);
        assert_eq!(negotiate(range(1, 4), range(4, 1)), None);
    }

    #[test]
    fn the_proof_needs_the_token_and_covers_every_byte() {
        let (token, other) = (Token::generate(), Token::generate());
        let greeting = Greeting { versions: VERSIONS, features: 0, digests: 2, nonce: [1; 32] }.encode();
        let message = hello().encode(&token, &greeting);
        assert!(Hello::is_proven(&message, &token, &greeting));
        assert!(!Hello::is_proven(&message, &other, &greeting));
        for at in 0..HELLO_LEN {
            let mut changed = message;
            changed[at] ^= 1;
            assert!(!Hello::is_proven(&changed, &token, &greeting), "byte {at}");
        }
        for at in 0..GREETING_LEN {
            let mut changed = greeting;
            changed[at] ^= 1;
            assert!(!Hello::is_proven(&message, &token, &changed), "byte {at} of the greeting");
        }
    }

    #[test]
    fn a_donor_that_does_not_know_the_token_is_not_believed() {
        let (token, other) = (Token::generate(), Token::generate());
        let message = hello().encode(&token, &[0; GREETING_LEN]);
        let welcome = encode_welcome(Verdict::Welcome, Some((&token, &message)));
        assert_eq!(decode_welcome(&welcome, &token, &message).unwrap(), Verdict::Welcome);
        let forged = encode_welcome(Verdict::Welcome, Some((&other, &message)));
        assert!(matches!(decode_welcome(&forged, &token, &message), Err(Error::Token)));
    }

    proptest! {
        #[test]
        fn versions_agreed_on_are_spoken_by_both(a: (u16, u16), b: (u16, u16)) {
            let (ours, theirs) = (range(a.0, a.1), range(b.0, b.1));
            prop_assert_eq!(negotiate(ours, theirs), negotiate(theirs, ours));
            if let Some(version) = negotiate(ours, theirs) {
                prop_assert!(version >= ours.min && version <= ours.max && version >= theirs.min && version <= theirs.max);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let mut greeting = [0; GREETING_LEN];
            greeting[..32].copy_from_slice(&a);
            greeting[32..].copy_from_slice(&b);
            prop_assert!(Greeting::decode(&greeting).is_err() || greeting.starts_with(MAGIC));
        }
    }
}
