//! What a kind of job is. Each has one definition, whole in its own file; `table` lists them.

use job::Steps;
use protocol::error::WireError;
use protocol::ids::AgentId;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::admission::{Claims, EVERYTHING};
use crate::host::Host;

/// One kind of job.
pub(crate) trait Kind: Send + Sync + 'static {
    /// What a job of it is asked to do; its journal keeps it, so it holds no secrets.
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The command that makes it; journalled, so renaming it breaks jobs that are under way.
    const NAME: &'static str;

    /// What it claims of the host while it runs.
    fn claims(params: &Self::Params) -> Claims;

    /// Refuses at once what a step would refuse, so that the caller hears it in the reply.
    fn check(_host: &Host, _params: &Self::Params) -> Result<(), WireError> {
        Ok(())
    }

    /// What it is about, for people.
    fn summary(_params: &Self::Params) -> String {
        String::new()
    }

    /// Who gives the data.
    fn donor(_params: &Self::Params) -> Option<AgentId> {
        None
    }

    /// What the name of its hold on a snapshot contains, where that is not the job's id.
    fn holder(_params: &Self::Params) -> Option<String> {
        None
    }

    /// What it does, in order.
    fn steps() -> Steps<Host>;
}

/// What a job's parameters tell of it.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// See [`Kind::claims`].
    pub(crate) claims: Claims,
    /// See [`Kind::summary`].
    pub(crate) summary: String,
    /// See [`Kind::donor`].
    pub(crate) donor: Option<AgentId>,
    /// See [`Kind::holder`].
    pub(crate) holder: Option<String>,
}

impl About {
    /// What a job with these parameters is.
    pub(crate) fn of<K: Kind>(params: &K::Params) -> Self {
        Self {
            claims: K::claims(params),
            summary: K::summary(params),
            donor: K::donor(params),
            holder: K::holder(params),
        }
    }

    /// Of a job that this build cannot read, nothing is known but that nothing may run beside it.
    pub(crate) fn unknown() -> Self {
        Self { claims: EVERYTHING, summary: String::new(), donor: None, holder: None }
    }
}

/// A kind of job for those who have only what the journal says.
pub(crate) struct Definition {
    /// See [`Kind::NAME`].
    pub(crate) name: &'static str,
    /// See [`Kind::steps`].
    pub(crate) steps: fn() -> Steps<Host>,
    about: fn(&Value) -> About,
}

impl Definition {
    pub(crate) const fn of<K: Kind>() -> Self {
        Self { name: K::NAME, steps: K::steps, about: read::<K> }
    }

    /// What a job with these parameters is.
    pub(crate) fn about(&self, params: &Value) -> About {
        (self.about)(params)
    }
}

fn read<K: Kind>(params: &Value) -> About {
    match K::Params::deserialize(params) {
        Ok(params) => About::of::<K>(&params),
        Err(_) => About::unknown(),
    }
}
