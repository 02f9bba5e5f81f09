//! Where updates of jobs appear: bars or a whole screen on a terminal, plain lines in a pipe, JSON lines for programs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::host::HostLoad;
use protocol::ids::{AgentId, JobId};
use protocol::job::JobView;
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use sys::text::line;

use super::board::SeedBoard;
use super::draw;
use super::tracker::{Update, progress_text};
use crate::error::Result;
use crate::full::{self, Left, View};
use crate::lines::{Line, SeedNews};
use crate::output::Out;
use crate::render;

/// One of the ways to show updates.
#[derive(Debug)]
pub struct Screen {
    out: Out,
    how: How,
}

#[derive(Debug)]
enum How {
    Lines,
    Bars(Bars),
    Whole(Whole),
}

/// A board of which the terminal is full, and what is said when it is given back.
#[derive(Debug)]
struct Whole {
    board: Arc<Mutex<SeedBoard>>,
    last_words: Mutex<Vec<String>>,
}

/// The board while updates are written on it.
struct Shown(Arc<Mutex<SeedBoard>>);

impl View for Shown {
    const TICK: Duration = Duration::from_millis(250);

    fn key(&mut self, key: KeyCode) -> Option<Left> {
        self.0.lock().key(key)
    }

    fn draw(&mut self, frame: &mut Frame<'_>, now: Timestamp) {
        draw::seed(&self.0.lock(), frame, now);
    }
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    by_host: HashMap<AgentId, ProgressBar>,
    loads: Mutex<HashMap<AgentId, ProgressBar>>,
}

impl Screen {
    /// A screen for jobs of these hosts.
    pub fn new<'a>(out: Out, hosts: impl Iterator<Item = &'a AgentId>) -> Self {
        let how = if out.is_terminal() { How::Bars(Bars::new(hosts)) } else { How::Lines };
        Self { out, how }
    }

    /// A screen for one seed, which fills a terminal.
    pub fn whole(out: Out, recipient: &AgentId, view: JobView) -> Self {
        let how = if out.is_terminal() {
            let board = Arc::new(Mutex::new(SeedBoard::new(recipient.clone(), view)));
            How::Whole(Whole { board, last_words: Mutex::default() })
        } else {
            How::Lines
        };
        Self { out, how }
    }

    /// Fills the terminal until the person leaves; for ever where it is not to be filled.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub async fn fill(&self) -> Result<Left> {
        match &self.how {
            How::Whole(whole) => full::run(Shown(Arc::clone(&whole.board)), |_| {}).await,
            _ => future::pending().await,
        }
    }

    /// How often progress is worth telling here.
    #[must_use]
    pub fn pace(&self) -> Duration {
        match (&self.how, self.out.json()) {
            (How::Bars(_) | How::Whole(_), _) => Duration::from_millis(200),
            (How::Lines, true) => Duration::from_secs(1),
            (How::Lines, false) => Duration::from_secs(5),
        }
    }

    /// Shows an update of a host's job.
    pub fn show(&self, host: &AgentId, job: JobId, update: &Update) {
        if self.out.json() {
            return self.out.json_line(&Line { host, job: Some(job), news: update });
        }
        let bars = match &self.how {
            How::Lines => return self.out.text(&text(host, update)),
            How::Bars(bars) => bars,
            How::Whole(whole) => {
                if let Update::Finished { .. } = update {
                    whole.last_words.lock().push(text(host, update));
                }
                return whole.board.lock().take(update, Timestamp::now());
            }
        };
        let Some(bar) = bars.by_host.get(host) else { return };
        match update {
            Update::Progress { progress, .. } => {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
                bar.set_message(line(&progress_text(progress)).into_owned());
            }
            Update::Stage { stage, what, .. } if what == "started" => {
                bar.set_prefix(line(&format!("{host} {stage}")).into_owned());
                bar.set_message("");
            }
            Update::Finished { .. } => {
                bar.finish_and_clear();
                bars.all.suspend(|| self.out.text(&text(host, update)));
            }
            _ => bars.all.suspend(|| self.out.text(&text(host, update))),
        }
    }

    /// Tells that a donor does not answer (and why), or answers again.
    pub fn donor(&self, donor: &AgentId, silent: Option<&str>) {
        let news = SeedNews::Donor { answers: silent.is_none(), why: silent };
        let value = Line { host: donor, job: None, news };
        let words = match silent {
            Some(why) => {
                format!("{donor}: the donor's agent cannot be asked ({why}); the seed goes on if it can")
            }
            None => format!("{donor}: the donor's agent answers again"),
        };
        match &self.how {
            How::Whole(whole) => whole.board.lock().note(Timestamp::now(), words),
            _ => self.suspend(|| self.out.result(&value, |_| words)),
        }
    }

    /// Shows how busy a host is: below the bars on a terminal, as a line elsewhere.
    pub fn load(&self, host: &AgentId, load: &HostLoad) {
        if self.out.json() {
            return self.out.json_line(&Line { host, job: None, news: SeedNews::Load { load } });
        }
        let text = format!("{host}: {}", load_text(load));
        let bars = match &self.how {
            How::Lines => return self.out.text(&text),
            How::Bars(bars) => bars,
            How::Whole(whole) => return whole.board.lock().load(host, load_text(load)),
        };
        let mut lines = bars.loads.lock();
        let shown = lines.entry(host.clone()).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.all.add(ProgressBar::new(0).with_style(style))
        });
        shown.set_message(line(&text).into_owned());
    }

    /// Runs `print` with the bars out of the way.
    pub fn suspend(&self, print: impl FnOnce()) {
        match &self.how {
            How::Bars(bars) => bars.all.suspend(print),
            _ => print(),
        }
    }

    /// Takes the bars away, or says the last words of a board that is no longer shown.
    pub fn clear(&self) {
        match &self.how {
            How::Lines => {}
            How::Bars(bars) => _ = bars.all.clear(),
            How::Whole(whole) => whole.last_words.lock().drain(..).for_each(|text| self.out.text(&text)),
        }
    }
}

impl Bars {
    fn new<'a>(hosts: impl Iterator<Item = &'a AgentId>) -> Self {
        let all = MultiProgress::new();
        let (columns, _) = ratatui::crossterm::terminal::size().unwrap_or((80, 24));
        let style =
            ProgressStyle::with_template(bar_for(columns)).unwrap_or_else(|_| ProgressStyle::default_bar());
        let by_host = hosts
            .map(|host| {
                let bar = all.add(
                    ProgressBar::new(0)
                        .with_style(style.clone())
                        .with_prefix(line(host.as_str()).into_owned()),
                );
                bar.enable_steady_tick(Duration::from_millis(200));
                (host.clone(), bar)
            })
            .collect();
        Self { all, by_host, loads: Mutex::default() }
    }
}

/// A line that fits: what is worth least goes first, and the message is cut rather than wrapped, which would leave copies behind.
fn bar_for(columns: u16) -> &'static str {
    match columns {
        100.. => "{spinner} {prefix:24} [{bar:28}] {wide_msg}",
        60.. => "{spinner} {prefix:16!} [{bar:12}] {wide_msg}",
        _ => "{prefix:12!} {wide_msg}",
    }
}

/// A host's load in words; what is not known is left out.
fn load_text(load: &HostLoad) -> String {
    let parts = [
        load.io_pressure_percent.map(|percent| format!("disks waited for {percent:.0} %")),
        load.load_1m.map(|load_1m| format!("load {load_1m:.1} on {} processors", load.cpus)),
        load.threads_running.map(|threads| format!("{threads} statements")),
        load.lag_seconds.map(|lag| format!("{lag} s behind")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn text(host: &AgentId, update: &Update) -> String {
    let mut text = format!("{host}: {}", line(&update.line()));
    if let Update::Finished { view } = update
        && let Some(result) = &view.result
    {
        text.push('\n');
        text.push_str(&render::result(result));
    }
    text
}
