//! Records of one connection, in buffers of the caller's, by rustls' unbuffered API.
//!
//! It keeps places within what it was given and has not used up: the same bytes must come first in the next call, and after a
//! failure there must be none (rustls 0.23 may panic otherwise).

use std::io::{self, Read, Write};
use std::time::Instant;

use rustls::CertificateError;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};

use crate::{Error, Result};

/// Longest content of one record.
const RECORD_CONTENT_MAX: usize = 16 * 1024;
const RECORD_HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;
/// What a record adds: header, content type, tag.
const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + 1 + TAG_LEN;
/// Longest record on the wire; longer ones are refused (RFC 8446 section 5.2).
pub(crate) const RECORD_LEN_MAX: usize = RECORD_HEADER_LEN + RECORD_CONTENT_MAX + 256;
/// For the messages by which keys are changed.
const KEY_UPDATE_ROOM: usize = 1024;

/// One connection's TLS, from the handshake on.
pub(crate) struct Session {
    end: End,
    /// What TLS itself has to say, and was not sent yet.
    unsent: Vec<u8>,
    /// It has failed: rustls must not be asked again.
    is_broken: bool,
}

pub(super) enum End {
    Donor(Box<UnbufferedServerConnection>),
    Recipient(Box<UnbufferedClientConnection>),
}

/// Whether a socket only reached its poll interval.
pub(crate) fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// What [`Session::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// `content` more bytes of content; `wire` bytes used up.
    Content { content: usize, wire: usize },
    /// The record is not complete yet.
    Partial,
    /// The other end said that it closes, or why.
    Closed,
}

/// What one record, or the lack of one, led to.
enum Turn {
    Content(usize),
    /// There is something to be sent.
    Answer,
    /// The handshake needs more from the other end.
    Blocked,
    /// Nothing is left to do but to send content.
    Idle,
    Closed,
}

impl Session {
    pub(super) fn new(end: End) -> Self {
        Self { end, unsent: Vec::new(), is_broken: false }
    }

    /// Until `deadline`.
    pub(super) fn shake_hands(mut self, socket: &mut (impl Read + Write), deadline: Instant) -> Result<Self> {
        let mut wire = vec![0; 2 * RECORD_LEN_MAX];
        let mut len = 0;
        loop {
            let (used, turn) = self.turn(&mut wire[..len], &mut []);
            wire.copy_within(used..len, 0);
            len -= used;
            match turn {
                Ok(Turn::Answer) => {}
                Ok(Turn::Idle) if !self.is_handshaking() => break,
                Ok(Turn::Idle | Turn::Blocked) => {
                    self.send(socket, deadline)?;
                    let room = &mut wire[len..];
                    len += patiently(deadline, || socket.read(room))?;
                }
                Ok(Turn::Content(_) | Turn::Closed) => {
                    return Err(Error::Protocol("content before the end of the handshake"));
                }
                Err(error) => {
                    // The alert tells the other end why. One more step gives it; rustls must not be asked for more.
                    let _ = self.turn(&mut wire[..len], &mut []);
                    let _ = self.send(socket, deadline);
                    return Err(refused(error));
                }
            }
        }
        self.send(socket, deadline)?;
        // The donor greets first, once it has heard that the recipient is through.
        if len == 0 { Ok(self) } else { Err(Error::Protocol("content before the greeting")) }
    }

    fn is_handshaking(&self) -> bool {
        match &self.end {
            End::Donor(connection) => connection.is_handshaking(),
            End::Recipient(connection) => connection.is_handshaking(),
        }
    }

    fn send(&mut self, socket: &mut impl Write, deadline: Instant) -> Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            sent += patiently(deadline, || socket.write(&self.unsent[sent..]))?;
        }
        self.unsent.clear();
        Ok(())
    }

    /// One step: gives how much of `wire` is used up, and what it led to. Content goes to the beginning of `content`.
    fn turn(&mut self, wire: &mut [u8], content: &mut [u8]) -> (usize, Result<Turn, rustls::Error>) {
        match &mut self.end {
            End::Donor(connection) => turn(connection.process_tls_records(wire), content, &mut self.unsent),
            End::Recipient(connection) => {
                turn(connection.process_tls_records(wire), content, &mut self.unsent)
            }
        }
    }

    /// Opens the next record of `wire` and lays its content at the beginning of `content`, which must have room for as much
    /// as `wire` has.
    pub(crate) fn open(&mut self, wire: &mut [u8], content: &mut [u8]) -> Result<Opened> {
        if self.is_broken {
            return Ok(Opened::Closed);
        }
        let mut used = 0;
        loop {
            let (step, turn) = self.turn(&mut wire[used..], content);
            used += step;
            self.is_broken = turn.is_err();
            return match turn {
                Ok(Turn::Answer) => continue,
                Ok(Turn::Content(content)) => Ok(Opened::Content { content, wire: used }),
                Ok(Turn::Idle | Turn::Blocked) if used > 0 => Ok(Opened::Content { content: 0, wire: used }),
                Ok(Turn::Idle | Turn::Blocked) => Ok(Opened::Partial),
                Ok(Turn::Closed) | Err(rustls::Error::AlertReceived(_)) => Ok(Opened::Closed),
                Err(error) => {
                    tracing::debug!(%error, "a record that TLS refuses");
                    Err(Error::Protocol("a TLS record was damaged or forged"))
                }
            };
        }
    }

    /// Lays `content` into `wire` as records; gives their length, at most [`Session::sealed_len`]. `partial`: what
    /// [`Session::open`] has not used up, which TLS may have taken note of already.
    pub(crate) fn seal(&mut self, content: &[u8], partial: &mut [u8], wire: &mut [u8]) -> Result<usize> {
        while !self.is_broken {
            match self.turn(partial, &mut []) {
                (0, Ok(Turn::Answer)) => {}
                (0, Ok(Turn::Idle)) => break,
                _ => self.is_broken = true,
            }
        }
        if self.is_broken {
            return Err(closed("send: the connection is broken"));
        }
        let before = self.unsent.len();
        let (first, rest) =
            wire.split_at_mut_checked(before).ok_or(Error::Protocol("no room for records"))?;
        first.copy_from_slice(&self.unsent);
        self.unsent.clear();
        let sealed = match &mut self.end {
            End::Donor(connection) => encrypt(connection.process_tls_records(partial), content, rest),
            End::Recipient(connection) => encrypt(connection.process_tls_records(partial), content, rest),
        };
        Ok(before + sealed?)
    }

    /// Room that `content_len` bytes take as records, a change of keys included.
    pub(crate) fn sealed_len(content_len: usize) -> usize {
        content_len + content_len.div_ceil(RECORD_CONTENT_MAX) * RECORD_OVERHEAD + KEY_UPDATE_ROOM
    }
}

fn turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    content: &mut [u8],
    unsent: &mut Vec<u8>,
) -> (usize, Result<Turn, rustls::Error>) {
    let turn = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut len = 0;
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        content[len..][..record.payload.len()].copy_from_slice(record.payload);
                        len += record.payload.len();
                    }
                    Err(error) => return (status.discard, Err(error)),
                }
            }
            Ok(Turn::Content(len))
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            append(&mut data, unsent);
            Ok(Turn::Answer)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Turn::Answer)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Turn::Idle),
        Ok(_) => Ok(Turn::Closed),
        Err(error) => Err(error),
    };
    (status.discard, turn)
}

fn append<Data>(data: &mut EncodeTlsData<'_, Data>, unsent: &mut Vec<u8>) {
    let start = unsent.len();
    // The first call tells the room that it takes.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut [])
    {
        unsent.resize(start + required_size, 0);
        let _ = data.encode(&mut unsent[start..]);
    }
}

fn encrypt<Data>(status: UnbufferedStatus<'_, '_, Data>, content: &[u8], wire: &mut [u8]) -> Result<usize> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            traffic.encrypt(content, wire).map_err(|_| Error::Protocol("cannot seal a record"))
        }
        _ => Err(closed("send: the other end closed the connection")),
    }
}

/// Tries again at a socket that only reached its poll interval.
fn patiently(deadline: Instant, mut act: impl FnMut() -> io::Result<usize>) -> Result<usize> {
    loop {
        match act() {
            Ok(0) => {
                return Err(closed("shake hands: the other end closed the connection"));
            }
            Ok(len) => return Ok(len),
            Err(error) if is_tick(&error) => {
                if Instant::now() >= deadline {
                    let late = io::Error::new(io::ErrorKind::TimedOut, "the other end does not answer");
                    return Err(Error::network("shake hands over TLS")(late));
                }
            }
            Err(error) => return Err(Error::network("shake hands over TLS")(error)),
        }
    }
}

fn closed(what: &'static str) -> Error {
    Error::network(what)(io::ErrorKind::UnexpectedEof.into())
}

fn refused(error: rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            Error::Fingerprint
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
