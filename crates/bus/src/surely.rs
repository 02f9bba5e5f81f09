//! Calls that are repeated once under the same request id, so that they have one effect and their caller knows which.

use protocol::command::Call;
use protocol::ids::{AgentId, RequestId};

use crate::client::{CallOptions, Client};
use crate::error::{BusError, Result};

impl Client {
    /// As [`Client::call`], and asks again once, under the same request id, when no answer came in time: the command
    /// has one effect and the second answer tells what became of it.
    ///
    /// # Errors
    /// As [`Client::call`]; [`BusError::TimedOut`] where it may have run.
    pub async fn call_surely<C: Call + Clone>(
        &self,
        agent: &AgentId,
        params: C,
        options: &CallOptions,
    ) -> Result<C::Reply> {
        let request_id = Some(options.request_id.unwrap_or_else(RequestId::generate));
        let options = CallOptions { request_id, ..options.clone() };
        let late = match self.call(agent, params.clone(), &options).await {
            Err(late @ BusError::TimedOut { .. }) => late,
            other => return other,
        };
        match self.call(agent, params, &options).await {
            Ok(reply) => Ok(reply),
            Err(BusError::Agent(error)) => Err(BusError::Agent(error)),
            // Whatever stands in the way now, the first one may have been heard.
            Err(_) => Err(late),
        }
    }
}
