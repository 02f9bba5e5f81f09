//! One scripted agent: what it answers, what it was asked, and how its jobs go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, Denied, Handler, Incoming};
use jiff::{SignedDuration, Timestamp};
use protocol::command::Command;
use protocol::error::{ErrorCode, WireError};
use protocol::event::{Event, EventData, JobStage};
use protocol::heartbeat::{Heartbeat, JobSummary};
use protocol::host::HostLoad;
use protocol::ids::{AgentId, EventId, JobId, OfferId, SnapshotId};
use protocol::job::{JobState, JobView};
use protocol::seed::{
    DonorFacts, Guard, GuardResult, Offer, Secret, SeedPlan, SeedStage, TransferProgress, Transport, Verdict,
};
use protocol::snapshot::{ProviderKind, Snapshot, Validity};
use protocol::subject::Subject;
use serde::Serialize;
use serde_json::{Value, json};

/// How a fake job goes.
#[derive(Debug, Clone)]
pub enum Fate {
    Succeeds,
    FailsAt(SeedStage, WireError),
    /// Stays there until it is aborted.
    HoldsAt(SeedStage),
}

type Answer = Box<dyn Fn(&Command) -> Option<Result<Value, WireError>> + Send + Sync>;

/// One agent: what it answers, and what it was asked.
pub struct Fake {
    this: Weak<Fake>,
    pub agent: AgentId,
    bus: Bus,
    beat: Mutex<Heartbeat>,
    answer: Mutex<Answer>,
    calls: Mutex<Vec<(&'static str, Value)>>,
    jobs: Mutex<HashMap<JobId, JobView>>,
    pub fate: Mutex<Fate>,
    delay: Mutex<Option<(&'static str, Duration)>>,
    sequence: Mutex<u64>,
}

fn value<T: Serialize>(value: &T) -> Result<Value, WireError> {
    Ok(serde_json::to_value(value).unwrap())
}

impl Fake {
    pub fn new(bus: Bus, beat: Heartbeat) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            agent: beat.agent.clone(),
            bus,
            beat: Mutex::new(beat),
            answer: Mutex::new(Box::new(|_| None)),
            calls: Mutex::default(),
            jobs: Mutex::default(),
            fate: Mutex::new(Fate::Succeeds),
            delay: Mutex::default(),
            sequence: Mutex::default(),
        })
    }

    /// What it answers; `None` from `answer` falls back on a good agent's answer.
    pub fn answers(
        &self,
        answer: impl Fn(&Command) -> Option<Result<Value, WireError>> + Send + Sync + 'static,
    ) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn fails(&self, name: &'static str, error: WireError) {
        self.answers(move |command| (command.spec().name == name).then(|| Err(error.clone())));
    }

    pub fn delays(&self, name: &'static str, delay: Duration) {
        *self.delay.lock().unwrap() = Some((name, delay));
    }

    /// Names of the commands that reached it, in order.
    pub fn asked(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().map(|(name, _)| *name).filter(|name| *name != "jobs.show").collect()
    }

    /// Parameters of the first command of that name.
    pub fn params(&self, name: &str) -> Value {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .find(|(asked, _)| *asked == name)
            .unwrap_or_else(|| panic!("{name} was not asked"))
            .1
            .clone()
    }

    pub fn heartbeat_with(&self, change: impl FnOnce(&mut Heartbeat)) {
        change(&mut self.beat.lock().unwrap());
    }

    pub fn job(&self, job: JobId) -> JobView {
        self.jobs.lock().unwrap()[&job].clone()
    }

    /// The job that holds goes on and succeeds.
    pub fn ends_well(&self) {
        let mut jobs = self.jobs.lock().unwrap();
        for view in jobs.values_mut() {
            view.state = JobState::Succeeded;
            view.finished_at = Some(Timestamp::now());
        }
    }

    pub fn any_job(&self) -> Option<JobView> {
        self.jobs.lock().unwrap().values().next().cloned()
    }

    pub async fn publish(&self, data: EventData) {
        let sequence = {
            let mut sequence = self.sequence.lock().unwrap();
            *sequence += 1;
            *sequence
        };
        let (cluster, dc) = {
            let beat = self.beat.lock().unwrap();
            (beat.cluster.clone(), beat.dc.clone())
        };
        let event = Event {
            specversion: "1.0".into(),
            id: EventId::generate(),
            source: format!("/orch/agents/{}", self.agent),
            kind: format!("orch.{}", data.kind()),
            subject: data.about(),
            time: Timestamp::now(),
            datacontenttype: "application/json".into(),
            cluster,
            dc,
            host: self.agent.clone(),
            sequence,
            data: data.clone().into_body(),
        };
        let subject = Subject::Event { agent: self.agent.clone(), kind: data.kind().into() };
        let body = serde_json::to_vec(&event).unwrap();
        self.bus.publish(subject.to_string(), None, body.into()).await.unwrap();
    }

    fn facts(&self, snapshot: Option<&str>) -> DonorFacts {
        let beat = self.beat.lock().unwrap();
        let id = snapshot.map_or_else(|| beat.snapshots[0].id.clone(), |s| s.parse().unwrap());
        DonorFacts {
            agent: self.agent.clone(),
            machine_id: None,
            datadir_identity: None,
            datadir: Some("/var/lib/mysql".into()),
            cluster: beat.cluster.clone(),
            dc: beat.dc.clone(),
            snapshot: Some(Snapshot {
                foreign: None,
                id,
                provider: ProviderKind::Lvm,
                origin: "vg0/mysql".into(),
                created_at: Timestamp::now(),
                size_bytes: None,
                fill_percent: None,
                validity: Validity::Valid,
                mounts: vec![],
                meta: None,
            }),
            bytes: 10 << 30,
            data_bytes: None,
            files: 312,
            version: None,
            layout: None,
            coordinates: None,
            stream: None,
            load: HostLoad::default(),
            gives_plain: None,
            overloaded: vec![],
            outside: Some(Vec::new()),
            volatile: None,
            encrypted_tablespaces: Some(0),
            free_bytes: Some(20 << 30),
            addresses: vec![],
        }
    }

    pub fn plan(&self, donor: &DonorFacts) -> SeedPlan {
        let pass =
            GuardResult { guard: Guard::NotOntoItself, verdict: Verdict::Pass, message: "two hosts".into() };
        SeedPlan {
            plain: false,
            can_relay: false,
            recipient: self.agent.clone(),
            donor: donor.agent.clone(),
            snapshot: donor.snapshot.as_ref().map(|snapshot| snapshot.id.clone()),
            guards: vec![pass],
            bytes: donor.bytes,
            files: donor.files,
            free_before_bytes: 40 << 30,
            free_lowest_bytes: 30 << 30,
            free_after_bytes: 38 << 30,
            donor_free_bytes: Some(20 << 30),
            stream: donor.stream.clone(),
            transport: Transport::Tcp,
            expected_s: Some(90),
            actions: vec!["stop MySQL".into(), "copy 10.0 GiB".into()],
            digest: format!("plan-of-{}", self.agent),
            seal_key: None,
        }
    }

    async fn good_answer(self: &Arc<Self>, call: &Incoming) -> Result<Value, WireError> {
        match &call.command {
            Command::SeedSurvey(p) => value(&self.facts(p.snapshot.as_ref().map(SnapshotId::as_str))),
            Command::SeedPlan(p) => value(&self.plan(&p.donor)),
            Command::SeedOffer(p) => value(&Offer {
                id: OfferId::generate(),
                job: JobId::generate(),
                recipient: p.recipient.clone(),
                facts: self.facts(p.snapshot.as_ref().map(SnapshotId::as_str)),
                addresses: vec!["10.0.0.1:4000".into()],
                store: None,
                fingerprint: None,
                token: Secret::new("planted-secret-token".into()),
                sealed_by: None,
                expires_at: Timestamp::now() + SignedDuration::from_mins(2),
            }),
            Command::SeedStart(p) => {
                let snapshot = p.offer.facts.snapshot.as_ref().unwrap();
                let summary = format!("{} → {} from {}", p.offer.facts.agent, self.agent, snapshot.id);
                Ok(json!({"job": self.begin(call, summary)}))
            }
            Command::SeedRelease(_) | Command::SeedThrottle(_) => Ok(json!({})),
            Command::JobsShow(p) => {
                let jobs = self.jobs.lock().unwrap();
                let missing = || WireError::new(ErrorCode::NotFound, format!("no job {}", p.job));
                value(jobs.get(&p.job).ok_or_else(missing)?)
            }
            Command::JobsList(_) => value(&self.jobs.lock().unwrap().values().cloned().collect::<Vec<_>>()),
            Command::JobsAbort(p) => {
                let mut jobs = self.jobs.lock().unwrap();
                let view =
                    jobs.get_mut(&p.job).ok_or_else(|| WireError::new(ErrorCode::NotFound, "no such job"))?;
                view.state = JobState::Aborted;
                view.finished_at = Some(Timestamp::now());
                view.error = Some(WireError::new(ErrorCode::Aborted, "aborted on request"));
                value(view)
            }
            _ if call.command.spec().class == protocol::command::Class::Job => {
                Ok(json!({"job": self.begin(call, call.command.spec().name.to_owned())}))
            }
            other => Err(WireError::new(ErrorCode::Internal, format!("no script for {}", other.spec().name))),
        }
    }

    fn begin(self: &Arc<Self>, call: &Incoming, summary: String) -> JobId {
        let id = JobId::generate();
        let view = JobView {
            id,
            kind: call.command.spec().name.into(),
            state: JobState::Running,
            stage: None,
            actor: call.actor.name.clone(),
            request: call.request.id,
            summary,
            created_at: Timestamp::now(),
            donor: None,
            finished_at: None,
            progress: None,
            result: None,
            error: None,
        };
        self.jobs.lock().unwrap().insert(id, view);
        tokio::spawn(self.clone().play(id));
        id
    }

    async fn play(self: Arc<Self>, id: JobId) {
        let fate = self.fate.lock().unwrap().clone();
        let seed = self.job(id).kind == "seed.start";
        let stages = if seed { SeedStage::ALL.to_vec() } else { vec![SeedStage::Plan] };
        for stage in stages {
            let progress = TransferProgress {
                bytes_total: 1000,
                bytes_done: 500,
                bytes_moved: 500,
                files_total: 2,
                files_done: 1,
                bytes_per_s: 100,
                silence: None,
            };
            self.change(id, |view| {
                view.stage = Some(stage.as_str().into());
                view.progress = (stage >= SeedStage::Transfer).then_some(progress);
            });
            self.tell(id, "started", None).await;
            match &fate {
                Fate::FailsAt(at, error) if *at == stage => {
                    self.tell(id, "failed", Some(error.clone())).await;
                    self.end(id, JobState::Failed, Some(error.clone())).await;
                    return;
                }
                Fate::HoldsAt(at) if *at == stage => return,
                _ => {}
            }
        }
        self.end(id, JobState::Succeeded, None).await;
    }

    fn change(&self, id: JobId, change: impl FnOnce(&mut JobView)) {
        change(self.jobs.lock().unwrap().get_mut(&id).unwrap());
    }

    async fn end(&self, id: JobId, state: JobState, error: Option<WireError>) {
        self.change(id, |view| {
            view.state = state;
            view.finished_at = Some(Timestamp::now());
            view.result = (state == JobState::Succeeded).then(|| json!({"rows": 7}));
            view.error.clone_from(&error);
        });
        let stage = self.stage(id, "finished", error);
        self.publish(EventData::JobFinished(stage)).await;
    }

    async fn tell(&self, id: JobId, what: &str, error: Option<WireError>) {
        let stage = self.stage(id, what, error);
        self.publish(EventData::JobStage(stage)).await;
    }

    fn stage(&self, id: JobId, what: &str, error: Option<WireError>) -> JobStage {
        let view = self.job(id);
        JobStage {
            job: id,
            kind: view.kind,
            actor: view.actor,
            summary: view.summary,
            state: view.state,
            stage: view.stage,
            what: what.into(),
            detail: json!({}),
            error,
        }
    }

    pub fn busy_with(&self, kind: &str) {
        self.heartbeat_with(|beat| {
            beat.jobs.push(JobSummary {
                id: JobId::generate(),
                kind: kind.into(),
                state: JobState::Running,
                stage: None,
                percent: None,
                moved_at: None,
            });
        });
    }
}

#[async_trait]
impl Handler for Fake {
    async fn handle(&self, call: Incoming) -> Result<Value, WireError> {
        let name = call.command.spec().name;
        self.calls.lock().unwrap().push((name, call.request.params.clone()));
        let delay = *self.delay.lock().unwrap();
        if let Some((slow, delay)) = delay
            && slow == name
        {
            tokio::time::sleep(delay).await;
        }
        let scripted = (self.answer.lock().unwrap())(&call.command);
        match scripted {
            Some(answer) => answer,
            None => self.this.upgrade().unwrap().good_answer(&call).await,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        self.beat.lock().unwrap().clone()
    }

    fn denied(&self, _denied: Denied) {}
}
