//! `autofit watch -- COMMAND` and `autofit watch --pid PID`: what a training does to memory, while it runs.
//!
//! Observing only.  A command is started as it is, with the agent beside it; it writes its files, its exit status is
//! passed on, and signals are its own.  A process that runs already is looked at from outside.

mod pane;
mod record;
pub mod screen;
mod signals;
mod subject;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::terminal;
use crate::exit;
use crate::report::style::{Stream, Style};
use crate::report::watch::{line, summary};
use crate::report::watch_view::View;
use crate::watch::live::{self, End, Reading};
use crate::watch::load::LoadMark;
use crate::watch::{Gpus, Sampler, SamplerOptions};
use record::Records;
use screen::{Key, Screen};
use signals::Signals;
use subject::Subject;
pub use subject::Target;

/// Between two looks at signals, keys and the end.
const TICK: Duration = Duration::from_millis(50);
/// Between two pictures.
const PICTURE: Duration = Duration::from_millis(500);
/// Between two records, unless `--every` says otherwise.
const RECORD: Duration = Duration::from_secs(1);
/// Between two lines.
const LINE: Duration = Duration::from_secs(10);
/// Processors are busy over at least this span: a shorter one is mostly luck.
const LOAD_SPAN: f64 = 2.0;
/// A command without PyTorch never starts the agent; after this long that is said.
const AGENT_PATIENCE: f64 = 15.0;

/// `autofit watch`.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// What is watched.
    pub target: Target,
    /// Records to standard output.
    pub json: bool,
    /// Lines also on a terminal.
    pub plain: bool,
    /// Records to this file.
    pub record: Option<PathBuf>,
    /// Between two records or lines.
    pub every: Option<Duration>,
}

/// The head of a recording.
#[derive(Serialize)]
struct Begin<'a> {
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// Seconds since 1970.
    started: u64,
    autofit: &'static str,
}

/// Watches to the end; the command's exit status, or 0.
///
/// # Errors
/// [`exit::Exit`] with status 2 where there is no such process, 6 where nothing can be recorded, 126 and 127 where the
/// command cannot be executed.
pub fn run(request: WatchRequest) -> anyhow::Result<i32> {
    let mut records = Records::open(request.record.clone(), request.json)?;
    let wants_view = !request.json && !request.plain && Screen::possible();
    let signals = Signals::hold()?;
    let gpus = Gpus::open().ok().map(Arc::new);
    let mut subject = Subject::begin(&request, wants_view, gpus.as_deref())?;
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let begin = Begin {
        what: &subject.what,
        pid: Some(subject.pid),
        started: started.map_or(0, |d| d.as_secs()),
        autofit: env!("CARGO_PKG_VERSION"),
    };
    records.write("begin", &begin);
    let options = SamplerOptions {
        gpus: gpus.clone(),
        baseline: subject.baseline.clone(),
        ..SamplerOptions::default()
    };
    let sampler = Sampler::start(subject.pids(), options)?;
    let screen = if wants_view { Screen::open().ok() } else { None };
    if screen.is_none() {
        subject.show_output();
    }
    let watch = Watch {
        every: request.every.unwrap_or(if records.wanted() { RECORD } else { LINE }),
        line_every: request.every.unwrap_or(LINE),
        lines: !request.json,
        view: View { what: subject.what.clone(), keys: subject.keys().to_owned(), ..View::default() },
        started: Instant::now(),
        marks: Vec::new(),
        sampler,
        gpus,
        records,
        screen,
    };
    watch.until_the_end(&mut subject, &signals)
}

/// A watch that runs.
struct Watch {
    every: Duration,
    line_every: Duration,
    lines: bool,
    view: View,
    started: Instant,
    marks: Vec<LoadMark>,
    sampler: Sampler,
    gpus: Option<Arc<Gpus>>,
    records: Records,
    screen: Option<Screen>,
}

impl Watch {
    fn until_the_end(mut self, subject: &mut Subject, signals: &Signals) -> anyhow::Result<i32> {
        let (mut recorded, mut lined, mut drawn) = (Instant::now(), Instant::now(), Instant::now() - PICTURE);
        let end = loop {
            if let Some(end) = subject.ended()? {
                break end;
            }
            if let Some(came) = signals.next(TICK)
                && let Some(status) = subject.signal(came)
            {
                break subject::Over { status: None, ours: status };
            }
            if let Some(over) = self.keys(subject) {
                break over;
            }
            subject.hear();
            if self.records.wanted() && recorded.elapsed() >= self.every {
                recorded = Instant::now();
                let reading = self.reading(subject);
                self.records.write("reading", &reading);
            }
            if self.screen.is_some() && drawn.elapsed() >= PICTURE {
                drawn = Instant::now();
                self.draw(subject);
            } else if self.screen.is_none() && self.lines && lined.elapsed() >= self.line_every {
                lined = Instant::now();
                say(&line(&self.reading(subject)));
            }
        };
        subject.hear();
        let last = self.reading(subject);
        drop(self.screen.take());
        subject.finish();
        let seen = self.sampler.stop();
        let mut whole = Reading { training: subject.training.overall(), ..last };
        // The sampler has looked once more since.
        whole.host.peak = whole.host.peak.max(seen.host.peak);
        for (device, summary) in whole.devices.iter_mut().zip(&seen.devices) {
            device.peak = device.peak.max(summary.peak);
        }
        let mut notes = seen.notes;
        notes.extend(subject.notes());
        let mut all = End {
            status: end.status,
            whole,
            mean_utilization: seen.devices.iter().map(|d| d.utilization).collect(),
            notes,
        };
        self.records.write("end", &all);
        all.notes.extend(self.records.failed.take());
        terminal::say(&summary(&subject.what, &all, Style::of(Stream::Stderr)));
        Ok(end.ours)
    }

    fn reading(&mut self, subject: &Subject) -> Reading {
        let latest = self.sampler.latest();
        if let Some(mark) = latest.load {
            self.marks.push(mark);
            // One mark is kept that is old enough, and what came after it.
            let old = self.marks.iter().rposition(|m| mark.at - m.at >= LOAD_SPAN).unwrap_or(0);
            self.marks.drain(..old);
        }
        let at = self.started.elapsed().as_secs_f64();
        let training = subject.training.now();
        live::reading(at, &latest, self.marks.first(), self.gpus.as_deref(), subject.cap, training)
    }

    fn draw(&mut self, subject: &Subject) {
        let reading = self.reading(subject);
        let late = reading.at > AGENT_PATIENCE && !subject.training.heard();
        self.view.note = match (subject.is_ours(), late) {
            (false, _) => "seen from outside: steps and the allocator are told of commands that are started with `autofit watch -- COMMAND`",
            (true, true) => "the agent has not started in this command: no figures of its training",
            (true, false) => "waiting for training to begin",
        }
        .to_owned();
        self.view.take(reading);
        self.view.output = subject.lines();
        if let Some(screen) = &mut self.screen {
            screen.show(&self.view);
        }
    }

    /// What was typed at the view.
    fn keys(&mut self, subject: &mut Subject) -> Option<subject::Over> {
        self.screen.as_ref()?;
        match (Screen::key()?, subject.is_ours()) {
            (Key::Interrupt, true) => {
                crate::process::beside::interrupt_group();
                None
            }
            (Key::Quit, true) => {
                self.screen = None;
                subject.show_output();
                None
            }
            (Key::Interrupt, false) => Some(subject::Over { status: None, ours: exit::INTERRUPTED }),
            (Key::Quit, false) => Some(subject::Over { status: None, ours: exit::TUNED }),
        }
    }
}

fn say(text: &str) {
    terminal::say(&format!("autofit: {text}\n"));
}
