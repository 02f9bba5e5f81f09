//! Listeners and connections: bounded in number, in what they send and in how long they take for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::admit::{Admission, Serves};
use super::answer::Break;
use super::count::Requests;
use crate::address::{self, Network};

/// The head of a request is read into so much at the most; what is longer is answered by 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A connection in use is closed after so long, so that none is held for ever.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// An accept that failed is tried again after so long: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("broken, since an answer would be taken for success")]
struct Broken;

/// What all listeners of one section of the configuration share.
pub(crate) struct Server {
    /// The section.
    pub(crate) section: &'static str,
    pub(crate) admission: Admission,
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) clients: Vec<Network>,
    pub(crate) header_timeout: Duration,
    pub(crate) connections: Connections,
    pub(crate) requests: Arc<Requests>,
}

/// Counts connections, over all and by address.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// One more from that address, unless there are too many; a single address gets half of them.
    pub(crate) fn enter(&self, address: IpAddr) -> bool {
        let mut open = self.open.lock();
        let (all, by_address) = &mut *open;
        let of_address = by_address.entry(address).or_default();
        if *all >= self.max || *of_address >= self.max.div_ceil(2) {
            if *of_address == 0 {
                by_address.remove(&address);
            }
            return false;
        }
        *of_address += 1;
        *all += 1;
        true
    }

    /// One of that address less.
    pub(crate) fn leave(&self, address: IpAddr) {
        let mut open = self.open.lock();
        let (all, by_address) = &mut *open;
        *all -= 1;
        if let Some(of_address) = by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// Leaves when dropped.
struct Seat {
    server: Arc<Server>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.server.connections.leave(self.address);
    }
}

/// Takes connections until `stop`.
pub(crate) async fn accept(
    server: Arc<Server>,
    listener: TcpListener,
    serves: Serves,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => take(&server, stream, from, &serves, &stop),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take(
    server: &Arc<Server>,
    stream: TcpStream,
    from: SocketAddr,
    serves: &Serves,
    stop: &CancellationToken,
) {
    let address = from.ip().to_canonical();
    let section = server.section;
    if !address::allows(&server.clients, address) {
        tracing::warn!(client = %address, "a connection from outside {section}.clients was closed");
        return;
    }
    if !server.connections.enter(address) {
        tracing::warn!(client = %address, "too many connections to {section}: one was closed; see listen.max_connections");
        return;
    }
    let seat = Seat { server: server.clone(), address };
    let (serves, stop) = (serves.clone(), stop.clone());
    tokio::spawn(async move {
        let _ = stream.set_nodelay(true);
        match &seat.server.tls {
            None => converse(&seat, stream, serves, stop).await,
            Some(tls) => {
                let greeted = tokio::time::timeout(seat.server.header_timeout, tls.accept(stream)).await;
                match greeted {
                    Ok(Ok(stream)) => converse(&seat, stream, serves, stop).await,
                    Ok(Err(error)) => tracing::debug!(client = %address, %error, "no TLS"),
                    Err(_) => tracing::debug!(client = %address, "no TLS in time"),
                }
            }
        }
    });
}

async fn converse<S>(seat: &Seat, stream: S, serves: Serves, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let server = &seat.server;
    let service = service_fn(|request| respond(server.clone(), request, &serves, seat.address));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(server.header_timeout).max_buf_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(MAX_AGE) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(MAX_AGE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client = %seat.address, error = %sys::error::line(&error), "a connection ended");
    }
}

fn respond(
    server: Arc<Server>,
    request: Request<Incoming>,
    serves: &Serves,
    client: IpAddr,
) -> impl Future<Output = Result<Response<Body>, Broken>> + use<> {
    let admitted = server.admission.admit(request.map(Body::new), serves, client);
    async move {
        let response = match admitted {
            Err(response) => *response,
            Ok(request) => {
                let answered: Result<_, Infallible> = server.router.clone().call(request).await;
                answered.unwrap_or_else(|never| match never {})
            }
        };
        server.requests.count(&response);
        match response.extensions().get::<Break>() {
            Some(Break) => Err(Broken),
            None => Ok(response),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_over_all_and_by_address() {
        let connections = Connections::new(4);
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert!(connections.enter(a) && connections.enter(a) && !connections.enter(a));
        assert!(connections.enter(b) && connections.enter(c) && !connections.enter(b));
        connections.leave(a);
        assert!(connections.enter(b), "one has left");
        for address in [a, b, b, c] {
            connections.leave(address);
        }
        assert_eq!(*connections.open.lock(), (0, HashMap::new()));
    }
}
