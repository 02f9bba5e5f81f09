//! Recipients that receive one tree at the same time and hand it on to one another: how the donor introduces them.
//!
//! Each shows the donor its [`Card`]; the donor tells each of the others as a [`Member`], with a token made for that
//! pair alone. What a member hands on is believed for the donor's digest only (see `recipient::peers`).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::frame::{CARD_LEN, MEMBER_LEN};
use crate::{Error, Fingerprint, Result, Token, handshake};

/// How others reach a recipient that hands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    /// Of its certificate.
    pub(crate) fingerprint: Fingerprint,
    /// What the tokens of the others are made of.
    pub(crate) secret: Token,
}

impl Card {
    pub(crate) fn encode(&self) -> [u8; CARD_LEN] {
        let mut out = [0; CARD_LEN];
        out[..32].copy_from_slice(&self.fingerprint.0);
        out[32..].copy_from_slice(self.secret.bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; CARD_LEN]) -> Self {
        Self { fingerprint: Fingerprint(array(bytes, 0)), secret: Token::from_bytes(array(bytes, 32)) }
    }

    /// The token with which the recipient of this session comes.
    pub(crate) fn token_for(&self, session: &[u8; 16]) -> Token {
        handshake::token_of_pair(&self.secret, session)
    }
}

/// One of those who receive the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) session: [u8; 16],
    pub(crate) addr: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) token: Token,
}

impl Member {
    pub(crate) fn encode(&self) -> [u8; MEMBER_LEN] {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut out = [0; MEMBER_LEN];
        out[..16].copy_from_slice(&self.session);
        out[16..32].copy_from_slice(&ip.octets());
        out[32..34].copy_from_slice(&self.addr.port().to_le_bytes());
        out[36..68].copy_from_slice(&self.fingerprint.0);
        out[68..].copy_from_slice(self.token.bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; MEMBER_LEN]) -> Result<Self> {
        if bytes[34..36] != [0; 2] {
            return Err(Error::Protocol("reserved bytes of a member are set"));
        }
        let ip = Ipv6Addr::from(array::<16>(bytes, 16)).to_canonical();
        Ok(Self {
            session: array(bytes, 0),
            addr: SocketAddr::new(ip, u16::from_le_bytes(array(bytes, 32))),
            fingerprint: Fingerprint(array(bytes, 36)),
            token: Token::from_bytes(array(bytes, 68)),
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_members_survive_the_wire() {
        let card = Card { fingerprint: Fingerprint([7; 32]), secret: Token::generate() };
        assert_eq!(Card::decode(&card.encode()), card);
        for addr in ["10.1.2.3:4567", "[2001:db8::1]:9"] {
            let member = Member {
                session: [3; 16],
                addr: addr.parse().unwrap(),
                fingerprint: Fingerprint([9; 32]),
                token: card.token_for(&[3; 16]),
            };
            assert_eq!(Member::decode(&member.encode()).unwrap(), member);
        }
    }

    #[test]
    fn each_pair_has_a_token_of_its_own() {
        let card = Card { fingerprint: Fingerprint([7; 32]), secret: Token::generate() };
        assert_ne!(card.token_for(&[1; 16]), card.token_for(&[2; 16]));
        assert_ne!(card.token_for(&[1; 16]), card.secret);
    }
}
