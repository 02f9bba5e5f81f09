//! Ports that stay a test's own while nobody listens on them, so that a server that goes down finds its port again.
//!
//! They lie below those that the kernel gives out by itself. Tests of other processes keep off by the name of a socket
//! that the kernel frees with its process; another network namespace has names, and ports, of its own.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context as _, Result};

const FIRST: u16 = 12_000;
/// The kernel gives out ports from 32768 on.
const COUNT: u16 = 20_000;

/// A port that no other test takes.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims a free one.
    ///
    /// # Errors
    /// When there is none.
    pub fn claim() -> Result<Self> {
        let start = RandomState::new().build_hasher().finish() % u64::from(COUNT);
        let start = u16::try_from(start).unwrap_or_default();
        (0..COUNT).find_map(|step| Self::take(FIRST + (start + step) % COUNT)).context("no port is free")
    }

    fn take(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("testkit-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("0.0.0.0", number)).ok()?;
        Some(Self { number, _claim: claim })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_until_it_is_dropped() {
        let port = Port::claim().unwrap();
        let number = port.number();
        assert!(Port::take(number).is_none(), "claimed though nobody listens");
        drop(port);
        let _listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        assert!(Port::take(number).is_none(), "somebody listens");
    }
}
