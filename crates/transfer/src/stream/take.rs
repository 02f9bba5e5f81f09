//! The recipient's end of a stream.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::{ready, set_nonblocking};
use crate::frame::{Header, PIECE_MAX, bounded_text, kind};
use crate::handshake::prove_root;
use crate::link::Link;
use crate::progress::Phase;
use crate::recipient::pieces::{Journal, connect, donor_failure, donor_should_know, retrying};
use crate::{Error, RecipientOptions, Result};

/// How long a failed recipient tries to tell the donor.
const TELL_LIMIT: Duration = Duration::from_millis(500);

/// A stream that has arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Bytes read from sockets, with framing and encryption.
    pub bytes_wire: u64,
    /// BLAKE3 of the stream, the same on both ends.
    pub digest: [u8; 32],
    /// How long it took.
    pub elapsed: Duration,
}

/// Receives one stream into `sink`, the standard input of the program that unpacks it; closes it after the last byte.
///
/// Of `options` the staging directory, connections and delta are not used. A stream that breaks is not resumed: the caller
/// begins anew with an empty place to unpack into.
pub fn take(options: &RecipientOptions, sink: OwnedFd) -> Result<Taken> {
    let taken = run(options, sink);
    match taken {
        Err(_) if options.cancel.is_cancelled() => Err(Error::Cancelled),
        other => other,
    }
}

fn run(options: &RecipientOptions, sink: OwnedFd) -> Result<Taken> {
    let began = Instant::now();
    let stop = options.cancel.child();
    let session = Journal::open(&options.journal)?.session;
    options.progress.enter(Phase::Connecting);
    let mut link = retrying(options, &stop, || connect(options, session, &stop, 0))?.link;
    options.progress.enter(Phase::Transfer);
    let received = receive(options, session, &mut link, sink);
    if let Err(error) = &received
        && donor_should_know(error)
    {
        let text = sys::error::line(error);
        let bytes = bounded_text(&text);
        let header = Header { len: bytes.len() as u32, ..Header::new(kind::GIVE_UP) };
        if link.queue(&header.encode()).is_ok() && link.queue(bytes).is_ok() {
            link.close_gently(TELL_LIMIT);
        }
    }
    let (bytes, digest) = received?;
    options.progress.enter(Phase::Done);
    let bytes_wire = options.progress.snapshot().bytes_wire;
    Ok(Taken { bytes, bytes_wire, digest, elapsed: began.elapsed() })
}

fn receive(
    options: &RecipientOptions,
    session: [u8; 16],
    link: &mut Link,
    sink: OwnedFd,
) -> Result<(u64, [u8; 32])> {
    set_nonblocking(sink.as_fd())?;
    link.queue(&Header::new(kind::WANT_STREAM).encode())?;
    link.flush(false)?;
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    loop {
        let header = link.read_header()?;
        match header.kind {
            kind::KEEP_ALIVE => {}
            kind::STREAM if header.value <= PIECE_MAX as u64 => {
                let len = header.value as usize;
                options.throttle.acquire(len, &options.cancel);
                piece(options, link, &sink, len, &mut hasher)?;
                total += header.value;
            }
            kind::STREAM_END if header.value == total => break,
            kind::STREAM_END => return Err(Error::Protocol("the stream has another length than it says")),
            kind::FAILURE => return Err(donor_failure(link, header.len as usize)),
            _ => return Err(Error::Protocol("a frame that belongs to no stream")),
        }
    }
    // The unpacking program sees the end, and may take its time while the digests are compared.
    drop(sink);
    let digest = *hasher.finalize().as_bytes();
    link.queue(&Header { len: 32, ..Header::new(kind::PROVE) }.encode())?;
    link.queue(&digest)?;
    link.flush(false)?;
    let header = link.read_header()?;
    if header.kind == kind::FAILURE {
        return Err(donor_failure(link, header.len as usize));
    }
    let proof: [u8; 32] = link.take_array()?;
    if header.kind != kind::PROOF
        || prove_root(&options.token, &session, &digest) != blake3::Hash::from_bytes(proof)
    {
        return Err(Error::RootDigest);
    }
    Ok((total, digest))
}

/// Hands one piece to the unpacking program as it arrives.
fn piece(
    options: &RecipientOptions,
    link: &mut Link,
    sink: &OwnedFd,
    len: usize,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    let mut left = len;
    while left > 0 {
        link.need(1)?;
        let part = link.received().len().min(left);
        let bytes = &link.received()[..part];
        hasher.update(bytes);
        write_all(options, sink, bytes)?;
        link.consume(part);
        left -= part;
        options.progress.add_done(part as u64);
    }
    Ok(())
}

fn write_all(options: &RecipientOptions, sink: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    let mut moved_at = Instant::now();
    while !rest.is_empty() {
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match nix::unistd::write(sink, rest) {
            Ok(count) => {
                rest = &rest[count..];
                moved_at = Instant::now();
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                ready(sink, PollFlags::POLLOUT).map_err(Error::network("wait for the unpacking program"))?;
                if moved_at.elapsed() > options.stall_timeout {
                    let seconds = options.stall_timeout.as_secs();
                    return Err(Error::RecipientFailed(format!(
                        "the unpacking program took no byte for {seconds} s"
                    )));
                }
            }
            Err(errno) => {
                return Err(Error::RecipientFailed(format!(
                    "the unpacking program takes no more bytes: {errno}"
                )));
            }
        }
    }
    Ok(())
}
