//! Whether a recipient reaches a donor: tried for real, before there is an offer.
//!
//! The donor listens for a few seconds after a survey, where its offers will; who connects is let go without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::error::WireError;
use protocol::ids::SnapshotId;
use protocol::seed::DonorFacts;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::offer;
use super::seed::facts::Reach;
use crate::host::Host;
use crate::owned::Foreign;

/// So long a donor may be tried after a survey.
const OPEN: Duration = Duration::from_secs(15);
/// Most addresses of a donor that are tried: a request must not make this host knock at a whole network.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// A donor that does not answer within this is not reached.
const PATIENCE: Duration = Duration::from_secs(3);

/// `seed.survey`: what this donor would send, and where it can be tried.
pub(crate) async fn survey(
    host: &Arc<Host>,
    wanted: Option<&SnapshotId>,
    foreign: Foreign,
    stream: Option<&str>,
) -> Result<DonorFacts, WireError> {
    let mut facts = offer::survey(host, wanted, foreign, stream).await?;
    facts.addresses = listen(host).await;
    Ok(facts)
}

/// Listens for a while; where.
async fn listen(host: &Host) -> Vec<String> {
    host.probe.end().await;
    let wanted = host.config.seed.listen;
    let listener = match TcpListener::bind(wanted).await {
        Ok(listener) => listener,
        // An offer listens there, and serves as well to be tried.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return offer::addresses(host, wanted),
        Err(error) => {
            tracing::warn!(%error, %wanted, "cannot listen for recipients (seed.listen)");
            return Vec::new();
        }
    };
    let Ok(address) = listener.local_addr() else { return Vec::new() };
    let task = tokio::spawn(async move {
        let _ = timeout(OPEN, async {
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await;
    });
    // With a port for each there may be several; with a fixed one the last is the only one.
    if wanted.port() != 0 {
        host.probe.keep(task).await;
    }
    offer::addresses(host, address)
}

/// Tries a donor's addresses, all at once.
pub(crate) async fn reach(addresses: &[String]) -> Reach {
    if addresses.is_empty() {
        return Reach::NotTried;
    }
    if addresses.len() > ADDRESSES_MAX {
        let named = addresses.len();
        return Reach::Failed(format!("{named} addresses are named, and at most {ADDRESSES_MAX} are tried"));
    }
    let mut tries = tokio::task::JoinSet::new();
    for address in addresses {
        let address = address.clone();
        tries.spawn(async move { (try_one(&address).await, address) });
    }
    let mut why = String::new();
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok((Ok(()), address)) => return Reach::Reached(address),
            Ok((Err(reason), address)) => why = format!("{address}: {reason}"),
            Err(error) => why = error.to_string(),
        }
    }
    Reach::Failed(why)
}

async fn try_one(address: &str) -> Result<(), String> {
    let connecting = async {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host(address).await.map_err(|error| error.to_string())?.collect();
        let mut last = "it has no address".to_owned();
        for address in found {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    };
    let silent = || format!("no answer within {} s", PATIENCE.as_secs());
    timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_cannot_have_a_network_tried() {
        let many: Vec<String> = (1..=9).map(|port| format!("127.0.0.1:{port}")).collect();
        let Reach::Failed(why) = reach(&many).await else { panic!("tried") };
        assert!(why.contains("9 addresses are named"), "{why}");
        let Reach::Failed(why) = reach(&many[..1]).await else { panic!("port 1 answers") };
        assert!(why.contains("127.0.0.1:1"), "{why}");
    }
}
