//! Who listens where the agent is about to log in: a password goes to the server and to nobody who has taken its place.
//!
//! The server runs as root or as the owner of its data. Anybody else may make a socket where options or a default say that it
//! is, or listen on its port while it is down.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::Uid;
use tokio::net::UnixStream;

use crate::client::Address;
use crate::error::{Error, Result};

/// State of a listening socket in the kernel's table.
const LISTENING: &str = "0A";

/// A socket whose listener was proven. It is held open, so that no other can take its name meanwhile.
#[derive(Debug)]
pub(crate) struct ProvenSocket {
    held: File,
    path: PathBuf,
}

impl ProvenSocket {
    pub(crate) fn address(&self) -> Address {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        Address::Held { held, path: self.path.clone() }
    }
}

/// Opens a socket and asks the kernel who listens on it.
///
/// # Errors
/// [`Error::Socket`] when nobody does, [`Error::Stranger`] when it is neither root nor `owner`.
pub(crate) async fn socket_of(path: &Path, owner: Option<u32>, limit: Duration) -> Result<ProvenSocket> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    let held = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path).map_err(failed)?;
    let proven = ProvenSocket { held, path: path.to_owned() };
    let Address::Held { held, .. } = proven.address() else { unreachable!("a proven socket is held") };
    let peer = match tokio::time::timeout(limit, UnixStream::connect(held)).await {
        Ok(peer) => peer.map_err(failed)?,
        Err(_) => {
            return Err(Error::Timeout { action: format!("connect at {}", path.display()), limit });
        }
    };
    let uid = peer.peer_cred().map_err(failed)?.uid();
    if is_the_servers(uid, owner) {
        return Ok(proven);
    }
    Err(Error::Stranger { place: path.display().to_string(), uid, owner: told(owner) })
}

/// Looks who listens on a port of the loopback.
///
/// # Errors
/// [`Error::Stranger`] when somebody does who is neither root nor `owner`.
pub(crate) fn check_port(port: u16, owner: Option<u32>) -> Result<()> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    match tables.iter().flat_map(|table| listeners(table, port)).find(|uid| !is_the_servers(*uid, owner)) {
        None => Ok(()),
        Some(uid) => Err(Error::Stranger { place: format!("port {port}"), uid, owner: told(owner) }),
    }
}

fn is_the_servers(uid: u32, owner: Option<u32>) -> bool {
    uid == 0 || Some(uid) == owner || uid == Uid::effective().as_raw()
}

fn told(owner: Option<u32>) -> String {
    owner.map_or_else(|| "nobody knows whom".to_owned(), |uid| format!("user {uid}"))
}

/// The users that listen on a port where 127.0.0.1 reaches them, by a table of the kernel.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let (address, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let uid = fields.nth(3)?.parse().ok()?;
        let is_there = u16::from_str_radix(local_port, 16).ok()? == port && reaches_loopback(address);
        (state == LISTENING && is_there).then_some(uid)
    })
}

/// Words of 32 bits in the byte order of this machine, as hexadecimal digits.
fn reaches_loopback(address: &str) -> bool {
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let Some(words) = words.collect::<Option<Vec<[u8; 4]>>>() else { return true };
    match words.concat().as_slice() {
        &[a, b, c, d] => Ipv4Addr::new(a, b, c, d).is_loopback() || [a, b, c, d] == [0; 4],
        bytes => {
            let Ok(bytes) = <[u8; 16]>::try_from(bytes) else { return true };
            let address = Ipv6Addr::from(bytes);
            address.is_unspecified() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_read_from_the_kernels_table() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let me = Uid::effective().as_raw();
        assert_eq!(listeners(&table, port).collect::<Vec<_>>(), [me]);
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1007        0 4711 1\n\
             1: 0500000A:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1008        0 4712 1\n\
             2: 0100007F:0CEA 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1009        0 4713 1\n";
        assert_eq!(
            listeners(table, 3306).collect::<Vec<_>>(),
            [1007],
            "not on another address, not a connection"
        );
        assert!(check_port(port, None).is_ok());
    }

    #[tokio::test]
    async fn a_socket_is_held_under_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let limit = Duration::from_secs(10);
        assert!(matches!(socket_of(&path, None, limit).await, Err(Error::Socket { .. })));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let proven = socket_of(&path, None, limit).await.unwrap();
        // Another one takes the name: the proven one is reached all the same.
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let Address::Held { held, .. } = proven.address() else { panic!() };
        listener.set_nonblocking(true).unwrap();
        let _ = listener.accept().unwrap();
        std::os::unix::net::UnixStream::connect(held).unwrap();
        listener.accept().unwrap();
    }
}
