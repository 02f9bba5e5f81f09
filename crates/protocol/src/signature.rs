//! Signed commands and replies: what is signed, and with what.
//!
//! Subject permissions do not authenticate a command: an agent with ordinary permissions can make the server deliver a
//! payload of its choice to another agent's command subject through a JetStream reply or deliver subject. So the
//! sender's nkey (ed25519) signs the subject and the exact body, in which request id and deadline stand.
//!
//! The other way it is the same: whoever may publish on the asker's inbox can answer in a host's name. So a host signs its reply
//! together with the exact request that it answers: a captured reply proves nothing of another question. The first bytes
//! of what is signed say which of both it is.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

use crate::subject::Subject;

/// Why a signature does not hold.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The header is not base64url.
    #[error("the signature is not base64url")]
    Encoding,
    /// The key is no public nkey.
    #[error("the signer's key is not a public nkey")]
    Key,
    /// Signed by another key, or subject or body are not what was signed.
    #[error("the signature does not match subject and body")]
    Mismatch,
    /// The key pair cannot sign (it has no seed).
    #[error("the key cannot sign; a seed file is needed")]
    NoSeed,
}

/// Signs a request body for its subject. Durable commands are signed for the command subject that they stand for.
pub fn sign(key: &KeyPair, subject: &Subject, body: &[u8]) -> Result<String, SignatureError> {
    let signature = key.sign(&signed_bytes(subject, body)).map_err(|_| SignatureError::NoSeed)?;
    Ok(BASE64URL_NOPAD.encode(&signature))
}

/// Signs the reply to one request.
///
/// # Errors
/// [`SignatureError::NoSeed`].
pub fn sign_reply(
    key: &KeyPair,
    subject: &Subject,
    request: &[u8],
    reply: &[u8],
) -> Result<String, SignatureError> {
    let signature = key.sign(&replied_bytes(subject, request, reply)).map_err(|_| SignatureError::NoSeed)?;
    Ok(BASE64URL_NOPAD.encode(&signature))
}

/// Checks that `public_key` signed this body for this subject.
pub fn verify(
    public_key: &str,
    signature: &str,
    subject: &Subject,
    body: &[u8],
) -> Result<(), SignatureError> {
    Verifier::new(public_key)?.verify(signature, subject, body)
}

/// A public key that was read once: reading it is a good part of the cost of a check.
#[derive(Clone)]
pub struct Verifier(KeyPair);

impl Verifier {
    /// Reads a public nkey (`U…`).
    ///
    /// # Errors
    /// [`SignatureError::Key`] when it is none.
    pub fn new(public_key: &str) -> Result<Self, SignatureError> {
        KeyPair::from_public_key(public_key).map(Self).map_err(|_| SignatureError::Key)
    }

    /// Checks that this key signed this body for this subject.
    ///
    /// # Errors
    /// [`SignatureError::Encoding`] or [`SignatureError::Mismatch`].
    pub fn verify(&self, signature: &str, subject: &Subject, body: &[u8]) -> Result<(), SignatureError> {
        self.holds(signature, &signed_bytes(subject, body))
    }

    /// Checks that this key signed this reply to this request.
    ///
    /// # Errors
    /// [`SignatureError::Encoding`] or [`SignatureError::Mismatch`].
    pub fn verify_reply(
        &self,
        signature: &str,
        subject: &Subject,
        request: &[u8],
        reply: &[u8],
    ) -> Result<(), SignatureError> {
        self.holds(signature, &replied_bytes(subject, request, reply))
    }

    fn holds(&self, signature: &str, bytes: &[u8]) -> Result<(), SignatureError> {
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| SignatureError::Encoding)?;
        self.0.verify(bytes, &signature).map_err(|_| SignatureError::Mismatch)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Verifier").field(&self.0.public_key()).finish()
    }
}

fn signed_bytes(subject: &Subject, body: &[u8]) -> Vec<u8> {
    let subject = match subject {
        Subject::DurableCommand { agent, command } => {
            Subject::Command { agent: agent.clone(), command: command.clone() }.to_string()
        }
        other => other.to_string(),
    };
    let mut bytes = Vec::with_capacity(subject.len() + body.len() + 24);
    bytes.extend_from_slice(b"orch-command-v1\0");
    bytes.extend_from_slice(subject.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(body);
    bytes
}

fn replied_bytes(subject: &Subject, request: &[u8], reply: &[u8]) -> Vec<u8> {
    let subject = subject.to_string();
    let mut bytes = Vec::with_capacity(subject.len() + request.len() + reply.len() + 32);
    bytes.extend_from_slice(b"orch-reply-v1\0");
    bytes.extend_from_slice(subject.as_bytes());
    bytes.push(0);
    // Its length, so that no byte of the reply passes for one of the request.
    bytes.extend_from_slice(&(request.len() as u64).to_be_bytes());
    bytes.extend_from_slice(request);
    bytes.extend_from_slice(reply);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(host: &str) -> Subject {
        Subject::Command { agent: host.parse().unwrap(), command: "seed.start".into() }
    }

    #[test]
    fn a_signature_holds_for_its_subject_and_body_only() {
        let key = KeyPair::new_user();
        let public = key.public_key();
        let signature = sign(&key, &subject("db1"), b"body").unwrap();
        verify(&public, &signature, &subject("db1"), b"body").unwrap();
        assert!(verify(&public, &signature, &subject("db2"), b"body").is_err(), "another host");
        assert!(verify(&public, &signature, &subject("db1"), b"Body").is_err(), "an altered body");
        assert!(verify(&KeyPair::new_user().public_key(), &signature, &subject("db1"), b"body").is_err());
        assert!(verify(&public, "%%%", &subject("db1"), b"body").is_err());
        assert!(verify("nonsense", &signature, &subject("db1"), b"body").is_err());
    }

    #[test]
    fn a_durable_command_is_signed_as_the_command_it_stands_for() {
        let key = KeyPair::new_user();
        let signature = sign(&key, &subject("db1"), b"x").unwrap();
        let durable = Subject::DurableCommand { agent: "db1".parse().unwrap(), command: "seed.start".into() };
        verify(&key.public_key(), &signature, &durable, b"x").unwrap();
    }

    #[test]
    fn a_signed_reply_answers_one_request_and_is_no_command() {
        let key = KeyPair::new_user();
        let host = Verifier::new(&key.public_key()).unwrap();
        let signature = sign_reply(&key, &subject("db1"), b"ask", b"answer").unwrap();
        host.verify_reply(&signature, &subject("db1"), b"ask", b"answer").unwrap();
        for (of, request, reply) in [
            ("db2", &b"ask"[..], &b"answer"[..]),
            ("db1", b"asked", b"answer"),
            ("db1", b"ask", b"answers"),
            ("db1", b"aska", b"nswer"),
        ] {
            assert!(host.verify_reply(&signature, &subject(of), request, reply).is_err(), "{of}");
        }
        assert!(host.verify(&signature, &subject("db1"), b"answer").is_err());
        let stranger = Verifier::new(&KeyPair::new_user().public_key()).unwrap();
        assert!(stranger.verify_reply(&signature, &subject("db1"), b"ask", b"answer").is_err());
    }
}
