//! Any command with parameters as JSON: what the agent says of them is the point.

use std::time::Duration;

use bus::CallOptions;
use bus::client::Answer;
use serde_json::Value;

use crate::args::RawArgs;
use crate::error::{CtlError, Result};
use crate::session::Session;

pub(super) async fn run(session: &Session, args: RawArgs) -> Result<()> {
    let params: Value = serde_json::from_str(&args.params).map_err(|error| {
        CtlError::usage(
            format!("the parameters are no JSON: {error}"),
            "give one object, for example '{\"lines\": 5}'",
        )
    })?;
    let queue = session.global.queue.map(Duration::from_secs);
    let options = CallOptions { queue, ..session.options() };
    match session.client.raw(&args.host, &args.command, params, &options).await {
        Ok(Answer::Result(value)) => {
            session.out.result(&value, |value| serde_json::to_string_pretty(value).unwrap_or_default());
            Ok(())
        }
        Ok(Answer::Queued(queued)) => {
            session.show_queued(&args.host, &queued).await;
            Ok(())
        }
        Err(error) => {
            let mut failure = session.explain(&args.host, &args.command, error).await;
            add_near_command(&mut failure, &args.command);
            Err(failure)
        }
    }
}

fn add_near_command(failure: &mut CtlError, command: &str) {
    let names = protocol::command::Command::SPECS.iter().map(|spec| spec.name);
    if let CtlError::Call { source, hint, .. } = failure
        && let bus::BusError::Agent(error) = &**source
        && error.code == protocol::error::ErrorCode::UnknownCommand
    {
        *hint = crate::suggest::hint(command, names);
    }
}
