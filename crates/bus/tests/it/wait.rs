//! Waiting for a job while the bus and the agent go away and come back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bus::{Authority, BusError, JobUpdate};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::job::{JobState, JobView};
use tokio::sync::mpsc;

use crate::kit::*;

on_each_server!(a_job_is_followed_through_outages_to_its_end);

async fn a_job_is_followed_through_outages_to_its_end(program: Option<PathBuf>) {
    let mut server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let job = JobId::generate();
    let request = RequestId::generate();
    let done = Arc::new(AtomicBool::new(false));
    let handler = || {
        let done = done.clone();
        TestHandler::new(&id, move |call| {
            if call.request.params["job"] != serde_json::json!(job) {
                return Err(WireError::new(ErrorCode::NotFound, "no such job"));
            }
            let ended = done.load(Ordering::SeqCst);
            let view = JobView {
                id: job,
                kind: "seed.start".into(),
                state: if ended { JobState::Succeeded } else { JobState::Running },
                stage: None,
                actor: "tester".into(),
                request,
                summary: "db1".into(),
                created_at: jiff::Timestamp::now(),
                donor: None,
                finished_at: None,
                progress: None,
                result: None,
                error: None,
            };
            Ok(serde_json::to_value(view).unwrap())
        })
    };
    let bus = connect(&server).await;
    let db1 = TestAgent::start(&bus, &id, &dir, handler(), Authority::accept_all()).await;
    let client = client(&server, None).await;
    let error = client.wait_job(&id, JobId::generate(), |_| {}).await.unwrap_err();
    assert!(matches!(&error, BusError::Agent(e) if e.code == ErrorCode::NotFound), "{error}");

    let (told, mut updates) = mpsc::unbounded_channel();
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move {
            client
                .wait_job(&id, job, move |update| {
                    told.send(matches!(update, JobUpdate::View(_))).unwrap();
                })
                .await
        }
    });
    assert!(updates.recv().await.unwrap(), "it is asked for at once");
    db1.stop().await;
    while updates.recv().await.unwrap() {}
    server.kill9();
    server.restart().unwrap();
    done.store(true, Ordering::SeqCst);
    let _db1 = TestAgent::start(&bus, &id, &dir, handler(), Authority::accept_all()).await;
    let view = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(view.state, JobState::Succeeded);
}
