//! Commands for a host that is down.

use std::path::PathBuf;
use std::time::Duration;

use bus::{Answer, Authority, BusError, CallOptions};
use protocol::ids::JobId;
use protocol::params::{AgentInfoParams, MysqlStartParams};
use serde_json::json;

use crate::kit::*;

on_each_server!(a_queued_command_runs_once_when_the_host_is_back);

async fn a_queued_command_runs_once_when_the_host_is_back(program: Option<PathBuf>) {
    let server = start(program);
    let bus = connect(&server).await;
    let client = client(&server, None).await;
    let options = |expiry| CallOptions { timeout: LIMIT, queue: Some(expiry), ..CallOptions::default() };
    let hour = Duration::from_secs(3600);
    let mut queued = Vec::new();
    // Other hosts' commands lie in between in the stream.
    for n in 0..4 {
        for host in ["db1", "db2"] {
            let expiry = if n == 3 { Duration::from_millis(1) } else { hour };
            let answer =
                client.call_or_queue(&agent(host), MysqlStartParams {}, &options(expiry)).await.unwrap();
            let Answer::Queued(command) = answer else { panic!("nobody is there") };
            if host == "db1" {
                queued.push(command.request);
            }
        }
    }
    let error = client.call_or_queue(&agent("db1"), AgentInfoParams {}, &options(hour)).await.unwrap_err();
    assert!(matches!(error, BusError::NoAgent(_)), "a query is not queued: {error}");

    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let handler = || TestHandler::new(&id, |_| Ok(json!({"job": JobId::generate()})));
    let db1 = TestAgent::start(&bus, &id, &dir, handler(), Authority::accept_all()).await;
    testkit::poll::until_async(LIMIT, "the queued commands to run", || async {
        (db1.handler.calls() == 3 && db1.handler.denied.lock().unwrap().len() == 1).then_some(())
    })
    .await;
    let ran: Vec<_> = db1.handler.calls.lock().unwrap().iter().map(|c| c.request.id).collect();
    assert_eq!(ran, queued[..3], "in order; the expired one is refused");
    let info = bus.jetstream().get_stream("orch_commands").await.unwrap();
    testkit::poll::until_async(LIMIT, "the queue to hold db2's commands only", || async {
        (info.get_info().await.ok()?.state.messages == 4).then_some(())
    })
    .await;
    db1.stop().await;
    let db1 = TestAgent::start(&bus, &id, &dir, handler(), Authority::accept_all()).await;
    let Answer::Result(_) = client.call_or_queue(&id, MysqlStartParams {}, &options(hour)).await.unwrap()
    else {
        panic!("it is there");
    };
    let calls = db1.handler.calls.lock().unwrap();
    let started = calls.iter().filter(|call| call.request.command == "mysql.start").count();
    assert_eq!(started, 1, "nothing runs a second time");
}
