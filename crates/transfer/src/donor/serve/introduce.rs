//! Introduces recipients of one tree to one another, and tells them the digests of what they hand on.

use std::net::SocketAddr;

use super::Serving;
use crate::circle::Card;
use crate::frame::{CARD_LEN, Header, MEMBER_LEN, READ_LEN, WANT_MAX, kind};
use crate::{Error, Result};

impl Serving<'_> {
    /// Takes this recipient among those that hand on, and names the others.
    pub(super) fn introduce(&mut self, header: Header) -> Result<()> {
        let card = Card::decode(&self.link.take_array::<CARD_LEN>()?);
        let port = u16::try_from(header.value).map_err(|_| Error::Protocol("no such port"))?;
        let manifest = self.manifest()?;
        let circle = self.shared.circle(&manifest, self.guest.digest);
        if self.membership.is_none() {
            self.shared.tell_circle(circle);
            // Others are sent to where this connection comes from, and nowhere else.
            let addr = SocketAddr::new(self.guest.peer.ip(), port);
            self.membership = circle.join(self.guest.session, addr, card);
        }
        let (members, own) = circle.members(&self.guest.session);
        let len = (members.len() * MEMBER_LEN) as u32;
        self.link.queue(&Header { chunk: own, len, ..Header::new(kind::CIRCLE) }.encode())?;
        members.iter().try_for_each(|member| self.link.queue(&member.encode()))?;
        self.link.flush(false)
    }

    /// What was asked for and read here for anybody since the last time, with its digests.
    pub(super) fn tell_digests(&mut self, from: u64) -> Result<()> {
        let manifest = self.manifest()?;
        let read = self.shared.circle(&manifest, self.guest.digest).news_since(from, WANT_MAX);
        let header = Header {
            value: from.saturating_add(read.len() as u64),
            len: (read.len() * READ_LEN) as u32,
            ..Header::new(kind::DIGESTS)
        };
        self.link.queue(&header.encode())?;
        for (chunk, digest) in read {
            self.link.queue(&chunk.to_le_bytes())?;
            self.link.queue(&digest.unwrap_or_default())?;
        }
        self.link.flush(false)
    }
}
