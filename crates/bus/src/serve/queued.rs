//! Commands that waited for this host: taken from their stream, one after the other.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Intake;
use crate::conn::ConnState;
use crate::durable::{ACK_WAIT, COMMAND_STREAM, consumer_of};
use crate::error::BusError;
use crate::streams;

/// One pull waits so long for commands.
const PULL: Duration = Duration::from_secs(20);
/// Without a consumer (nothing was ever queued for this host) it is looked for again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Where the permissions forbid to look (the strict profile), it is tried again after so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(3_600);

/// Takes this agent's durable commands until `shutdown`.
pub(super) async fn take_commands(intake: Arc<Intake>, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = Box::pin(pull_for_ever(&intake, &shutdown)) => {}
    }
}

async fn pull_for_ever(intake: &Intake, shutdown: &CancellationToken) {
    let bus = &intake.bus;
    let name = consumer_of(&intake.config.agent);
    let mut state = bus.state();
    loop {
        if state.wait_for(|s| *s == ConnState::Connected).await.is_err() {
            return;
        }
        let mut pause = LOOK_AGAIN;
        match streams::find_consumer(bus, COMMAND_STREAM, &name).await {
            Ok(Some(consumer)) => while pull(intake, &consumer, shutdown).await {},
            Ok(None) => {}
            Err(BusError::NotPermitted { .. }) => {
                tracing::info!("this agent's account may not take queued commands");
                pause = REFUSED_PAUSE;
            }
            Err(error) => tracing::debug!(%error, "cannot look for durable commands"),
        }
        state.mark_unchanged();
        let wait = pause.mul_f64(rand::random_range(0.8..=1.2));
        // A new connection is a reason to look at once.
        timeout(wait, state.changed()).await.ok();
    }
}

/// One pull; false when the consumer or the connection is lost.
async fn pull(intake: &Intake, consumer: &PullConsumer, shutdown: &CancellationToken) -> bool {
    let limit = intake.bus.config().request_timeout();
    // One at a time: what is fetched waits for nothing else, so its time to be acknowledged is its own. Of many with a limit of bytes a
    // cluster of 2.15 says "Batch Completed" before it sends them, which ends the pull: they came again a minute later, after younger ones.
    let pull = consumer.batch().max_messages(1).expires(PULL).messages();
    let Ok(Ok(mut messages)) = timeout(limit, pull).await else { return false };
    let mut state = intake.bus.state();
    loop {
        let message = tokio::select! {
            message = timeout(PULL + Duration::from_secs(2), messages.next()) => message,
            _ = state.wait_for(|s| *s != ConnState::Connected) => return false,
        };
        match message {
            Ok(Some(Ok(message))) => {
                if shutdown.is_cancelled() {
                    return false;
                }
                serve(intake, &message, limit).await;
            }
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "pulling durable commands was interrupted");
                return false;
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

async fn serve(intake: &Intake, message: &Message, limit: Duration) {
    let working = intake.process(&message.subject, message.headers.as_ref(), &message.payload);
    tokio::pin!(working);
    let handled = loop {
        tokio::select! {
            handled = &mut working => break handled,
            () = tokio::time::sleep(ACK_WAIT / 3) => {
                timeout(limit, message.ack_with(AckKind::Progress)).await.ok();
            }
        }
    };
    let acknowledged = async {
        if handled.settled {
            message.double_ack().await
        } else {
            message.ack_with(AckKind::Nak(Some(LOOK_AGAIN))).await
        }
    };
    if !matches!(timeout(limit, acknowledged).await, Ok(Ok(()))) {
        tracing::debug!("a durable command could not be acknowledged; it comes again and is known then");
    }
}
