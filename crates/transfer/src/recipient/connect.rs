//! Reaches the donor and shakes hands.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RecipientOptions;
use crate::digest::DigestKind;
use crate::frame::Header;
use crate::handshake::{
    CIRCLES, COMPARES, GREETING_LEN, Greeting, Hello, PACED, VERSIONS, Verdict, WELCOME_LEN, choose_digest,
    decode_welcome, negotiate, token_id,
};
use crate::link::{Bare, Link, dial};
use crate::{Cancel, Error, Result, tls};

const DIAL_LIMIT: Duration = Duration::from_secs(5);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is given up for a new one, if the whole transfer may wait longer.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A connection on which both ends have proven themselves.
pub(crate) struct Connected {
    pub(crate) link: Link,
    pub(crate) digest: DigestKind,
    /// How long the donor took to answer.
    pub(super) delay: Duration,
    /// Whether the donor paces what it sends by what the path delivers.
    pub(super) is_paced: bool,
    /// Whether the donor introduces recipients of its tree to one another.
    pub(super) introduces: bool,
    /// Whether the donor tells what differs from a tree that is here.
    pub(super) compares: bool,
}

/// A TCP connection to a donor, on which nothing was said.
pub(super) struct Reached {
    socket: Arc<TcpStream>,
    /// How long the donor's host took to answer: one round trip.
    pub(super) rtt: Duration,
}

/// Connects to the first of the donor's addresses that answers; `number` spreads connections over them.
pub(crate) fn connect(
    options: &RecipientOptions,
    session: [u8; 16],
    stop: &Cancel,
    number: usize,
) -> Result<Connected> {
    reach(options, stop, number).and_then(|reached| shake_hands(options, session, reached, None))
}

/// Opens a connection, without a word.
pub(super) fn reach(options: &RecipientOptions, stop: &Cancel, number: usize) -> Result<Reached> {
    // Who refuses each connection is as silent as who does not answer.
    try_each(options, stop, number).inspect_err(|_| options.progress.heard_nothing())
}

fn try_each(options: &RecipientOptions, stop: &Cancel, number: usize) -> Result<Reached> {
    let mut last = Error::Options("the donor has no address");
    for nth in 0..options.donor.len() {
        let addr = options.donor[(nth + number) % options.donor.len()];
        let limit = options.stall_timeout.min(DIAL_LIMIT);
        let dialled_at = Instant::now();
        match dial(addr, limit, options.stall_timeout, stop) {
            Ok(socket) => return Ok(Reached { socket, rtt: dialled_at.elapsed() }),
            Err(error) => last = error,
        }
    }
    Err(if stop.is_cancelled() { Error::Cancelled } else { last })
}

/// Both ends prove themselves. A question may go along with our part, so that its answer need not wait for the donor's.
pub(super) fn shake_hands(
    options: &RecipientOptions,
    session: [u8; 16],
    reached: Reached,
    question: Option<Header>,
) -> Result<Connected> {
    prove_each_other(options, session, reached.socket, question)
        .inspect_err(|_| options.progress.heard_nothing())
}

fn prove_each_other(
    options: &RecipientOptions,
    session: [u8; 16],
    socket: Arc<TcpStream>,
    question: Option<Header>,
) -> Result<Connected> {
    let limit = options.stall_timeout.min(HANDSHAKE_LIMIT);
    let tls = match options.fingerprint {
        Some(fingerprint) => Some(tls::connect(fingerprint, &mut Bare(&socket), Instant::now() + limit)?),
        None => None,
    };
    let mut link = Link::new(socket, tls, limit, Arc::clone(&options.progress));
    let greeting_bytes: [u8; GREETING_LEN] = link.take_array()?;
    let greeting = Greeting::decode(&greeting_bytes)?;
    let mismatch = || Error::Version { ours: VERSIONS.to_string(), theirs: greeting.versions.to_string() };
    let version = negotiate(VERSIONS, greeting.versions).ok_or_else(mismatch)?;
    let digest = choose_digest(&options.digests, greeting.digests)
        .ok_or(Error::Options("donor and recipient allow no common digest"))?;
    let hello = Hello {
        version,
        features: options.compression.ask(greeting.features),
        digest,
        token_id: token_id(&options.token),
        session,
        nonce: rand::random(),
    };
    let hello = hello.encode(&options.token, &greeting_bytes);
    link.queue(&hello)?;
    if let Some(question) = question {
        link.queue(&question.encode())?;
    }
    link.flush(false)?;
    let asked_at = Instant::now();
    let welcome: [u8; WELCOME_LEN] = link.take_array()?;
    match decode_welcome(&welcome, &options.token, &hello)? {
        Verdict::Welcome => {}
        Verdict::Version => return Err(mismatch()),
        Verdict::Token => return Err(Error::Token),
        Verdict::Busy => return Err(Error::Protocol("the donor has no free place")),
    }
    let delay = asked_at.elapsed();
    let has = |feature| greeting.features & feature != 0;
    link.set_stall(options.stall_timeout.min(SILENCE_MAX));
    let (is_paced, introduces, compares) = (has(PACED), has(CIRCLES), has(COMPARES));
    Ok(Connected { link, digest, delay, is_paced, introduces, compares })
}
