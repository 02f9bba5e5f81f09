use std::fs;
use std::path::Path;

use bus::outbox::{EventSource, OutboxLimits};
use job::{JobSpec, Options, Runner};
use protocol::event::EventsDropped;
use serde_json::json;

use super::*;

fn outbox(dir: &Path) -> Outbox {
    let source = EventSource { agent: "db1".parse().unwrap(), cluster: "shop".into(), dc: "dc1".into() };
    Outbox::open(dir, source, OutboxLimits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_before_the_clock_was_set_back_is_not_told_again_and_what_was_not_is() {
    let dir = tempfile::tempdir().unwrap();
    // Its first event is older than all that the job does, as by a clock that was wrong then; what it had of the job has been sent and
    // is gone.
    let later = outbox(&dir.path().join("later"));
    later.publish(EventData::EventsDropped(EventsDropped { count: 1, first_sequence: 1 })).await.unwrap();
    let (publisher, _, _) = Publisher::new(outbox(&dir.path().join("earlier")));
    let options = Options { observer: Some(publisher), ..Options::default() };
    let runner = Runner::open(&dir.path().join("jobs"), options).unwrap();
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "snapshot.create", json!({}))).await.unwrap();

    let (publisher, _, _) = Publisher::new(later.clone());
    publisher.tell_missed(&runner).await.unwrap();
    assert_eq!(later.events().unwrap().len(), 1, "it was told");
    // A crash before it was heard, or a journal of the release before.
    fs::remove_file(dir.path().join("jobs").join(id.to_string()).join("heard")).unwrap();
    publisher.tell_missed(&runner).await.unwrap();
    assert_eq!(later.events().unwrap().len(), 2, "it was not");
    publisher.tell_missed(&runner).await.unwrap();
    assert_eq!(later.events().unwrap().len(), 2, "and only once");
}
