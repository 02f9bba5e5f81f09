//! What happened in the fleet.

use std::collections::VecDeque;

use bus::events::{EventFilter, Since};
use futures_util::StreamExt;

use crate::args::EventsArgs;
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::render;
use crate::session::Session;

pub(super) async fn run(session: &Session, args: EventsArgs) -> Result<()> {
    let filter = EventFilter {
        since: match (args.since, args.follow) {
            (Some(since), _) => Since::Time(since),
            (None, true) => Since::New,
            (None, false) => Since::All,
        },
        cluster: args.cluster,
        host: args.host,
        kind: args.kind.map(whole_family),
        until_end: !args.follow,
    };
    let failed = |source| CtlError::bus("cannot read the events", source);
    if let Err(why) = session.event_stream().await {
        session.out.note(&why);
    }
    let mut events = session.client.events(filter).await.map_err(failed)?;
    let mut interrupt = Interrupt::listen()?;
    let mut last = VecDeque::new();
    loop {
        let next = tokio::select! {
            next = events.next() => next,
            () = interrupt.wait() => return Err(CtlError::Told(Exit::Interrupted)),
        };
        match next {
            Some(Ok(stored)) => match args.limit {
                None => session.out.result(&stored.event, render::event),
                Some(limit) => {
                    last.push_back(stored.event);
                    last.drain(..last.len().saturating_sub(limit as usize));
                }
            },
            Some(Err(error)) if args.follow => session.out.note(&format!("reading events: {error}; I go on")),
            Some(Err(error)) => return Err(failed(error)),
            None => {
                last.iter().for_each(|event| session.out.result(event, render::event));
                return Ok(());
            }
        }
        if session.out.is_closed() {
            return Ok(());
        }
    }
}

/// `job` means every kind of that family.
fn whole_family(kind: String) -> String {
    if kind.contains(['.', '*']) { kind } else { format!("{kind}.*") }
}
