//! The serving end of a handshake: somebody has connected, and must prove itself within a time and a quota for strangers.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::handshake::{
    Greeting, HELLO_LEN, Hello, PACED, VERSIONS, Verdict, Versions, encode_welcome, negotiate,
};
use crate::link::{Bare, Link, suit_path, tune};
use crate::strangers::{PROOF_LIMIT, Strangers};
use crate::tls::Identity;
use crate::{Cancel, Error, Progress, Result, Token, tls};

/// What a serving end is to whoever connects.
pub(crate) struct Door<'a> {
    pub(crate) identity: Option<&'a Arc<Identity>>,
    pub(crate) strangers: &'a Arc<Strangers>,
    /// Shuts the sockets down.
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: &'a Arc<Progress>,
    /// How long nothing may move once they know each other.
    pub(crate) stall: Duration,
    /// Send by what a long path delivers, where the kernel lets us.
    pub(crate) paces: bool,
    pub(crate) features: u32,
    /// A set of [`crate::DigestKind::bit`].
    pub(crate) digests: u32,
}

/// Whom a serving end lets in.
pub(crate) trait Porter {
    /// The token that who says this would have to know.
    fn token(&self, hello: &Hello) -> Option<Token>;

    /// Who has proven to know its token may come in.
    fn admit(&self, hello: &Hello) -> bool;
}

/// Who has proven itself.
pub(crate) struct Met {
    pub(crate) link: Link,
    pub(crate) hello: Hello,
    pub(crate) token: Token,
}

/// The handshake with whoever it is; the verdict when it was refused and told so.
pub(crate) fn meet(
    socket: TcpStream,
    door: &Door<'_>,
    porter: &impl Porter,
) -> Result<std::result::Result<Met, Verdict>> {
    let nowhere = Error::network("ask who has connected");
    let peer = socket.peer_addr().map_err(nowhere)?;
    socket.set_nonblocking(false).map_err(Error::network("set up the socket"))?;
    let socket = Arc::new(socket);
    door.cancel.watch(&socket);
    tune(&socket, door.stall)?;
    let visit = door.strangers.admit(peer.ip(), &socket);
    let tls = match door.identity {
        Some(identity) => Some(tls::accept(identity, &mut Bare(&socket), visit.deadline)?),
        None => None,
    };
    let mut link = Link::new(Arc::clone(&socket), tls, PROOF_LIMIT, Arc::clone(door.progress));
    link.set_deadline(Some(visit.deadline));
    let pacing = if door.paces && suit_path(&socket) { PACED } else { 0 };
    let (verdict, hello, token) = greet(&mut link, door, porter, pacing)?;
    let (Verdict::Welcome, Some(token)) = (verdict, token) else {
        link.close_gently(Duration::from_secs(1));
        return Ok(Err(verdict));
    };
    link.set_deadline(None);
    link.set_stall(door.stall);
    Ok(Ok(Met { link, hello, token }))
}

fn greet(
    link: &mut Link,
    door: &Door<'_>,
    porter: &impl Porter,
    pacing: u32,
) -> Result<(Verdict, Hello, Option<Token>)> {
    let greeting = Greeting {
        versions: VERSIONS,
        features: door.features | pacing,
        digests: door.digests,
        nonce: rand::random(),
    };
    let greeting = greeting.encode();
    link.queue(&greeting)?;
    link.flush(false)?;
    let message: [u8; HELLO_LEN] = link.take_array()?;
    let hello = Hello::decode(&message)?;
    let chosen = Versions { min: hello.version, max: hello.version };
    let token = porter.token(&hello);
    let verdict = match &token {
        _ if negotiate(VERSIONS, chosen).is_none() => Verdict::Version,
        Some(token)
            if Hello::is_proven(&message, token, &greeting)
                && door.digests & hello.digest.bit() != 0
                && porter.admit(&hello) =>
        {
            Verdict::Welcome
        }
        _ => Verdict::Token,
    };
    let proof = token.as_ref().filter(|_| verdict == Verdict::Welcome);
    link.queue(&encode_welcome(verdict, proof.map(|token| (token, &message))))?;
    link.flush(false)?;
    Ok((verdict, hello, token))
}
