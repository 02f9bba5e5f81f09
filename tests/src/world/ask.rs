//! Questions to an agent over the bus.

use std::time::Duration;

use bus::{Bus, BusConfig, BusError, CallOptions, Client};
use protocol::command::Call;
use protocol::error::WireError;
use protocol::ids::AgentId;
use protocol::params::AgentStatusParams;
use testkit::poll;

use super::{Host, PATIENCE};

/// A client of the bus; of several servers the addresses have commas in between.
///
/// # Panics
/// When there is no connection.
pub async fn client(url: &str) -> Client {
    let servers = url.split(',').map(str::to_owned).collect();
    let bus = Bus::connect(&BusConfig { servers, ..BusConfig::default() }, "e2e").await.unwrap();
    bus.connected(PATIENCE).await.unwrap();
    Client::new(bus, None, "tester")
}

/// Waits until an agent answers.
pub async fn serving(client: &Client, host: &AgentId) {
    let options = CallOptions { timeout: Duration::from_secs(5), ..CallOptions::default() };
    poll::until_async(PATIENCE, format!("{host} to serve"), || async {
        client.call(host, AgentStatusParams {}, &options).await.ok().map(|_| ())
    })
    .await;
}

/// The result of a command.
///
/// # Panics
/// When it is refused or fails.
pub async fn call<C: Call>(client: &Client, host: &Host, params: C) -> C::Reply {
    let reply = try_call(client, host, params).await;
    reply.unwrap_or_else(|error| panic!("{} on {}: {error}", C::SPEC.name, host.id()))
}

/// The result of a command, or the agent's error.
///
/// # Errors
/// What the agent answered.
///
/// # Panics
/// When there is no answer.
pub async fn try_call<C: Call>(client: &Client, host: &Host, params: C) -> Result<C::Reply, WireError> {
    let options = CallOptions { timeout: Duration::from_secs(30), ..CallOptions::default() };
    match client.call(&host.id(), params, &options).await {
        Ok(reply) => Ok(reply),
        Err(BusError::Agent(error)) => Err(error),
        Err(error) => panic!("{} on {}: {error}", C::SPEC.name, host.id()),
    }
}
