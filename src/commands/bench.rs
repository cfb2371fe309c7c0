//! A place to launch trials in: scratch room, agent, reporter, signals, executor.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Job;
use super::signals::Signals;
use super::workplace::Workplace;
use crate::agent::AgentFiles;
use crate::exit::{self, Exit};
use crate::journal::DeviceLock;
use crate::model::size::Bytes;
use crate::model::{Observation, Progress};
use crate::process::end_orphans;
use crate::report::{Mode, Reporter, words};
use crate::sandbox::SandboxPlan;
use crate::sandbox::scratch::{self, Scratch};
use crate::trial::local::LocalExecutor;

type Tell = Box<dyn FnMut(Progress)>;

/// Everything that launching needs; leaves nothing behind when dropped.
pub struct Bench {
    /// Launches trials.
    pub executor: LocalExecutor<Tell>,
    /// Ctrl-C and the like.
    pub signals: Signals,
    /// Time spent.
    pub clock: Clock,
    /// How the user's files are kept.
    pub sandbox: SandboxPlan,
    reporter: Arc<Mutex<Reporter>>,
    // Dropped last: devices are free only when nothing of ours uses them.
    _scratch: Scratch,
    _locks: Vec<DeviceLock>,
}

impl Bench {
    /// Locks the devices, makes room, ends what a killed search left behind, unpacks the agent, listens to signals.
    /// `history` is what an earlier run of the same search observed.
    ///
    /// # Errors
    /// [`Exit`] with status 6 when the place cannot be used.
    pub fn open(place: &Workplace, job: &Job, history: &[Observation]) -> anyhow::Result<Self> {
        let locks = lock_devices(place)?;
        let reporter = Arc::new(Mutex::new(Reporter::new(Mode::detect(job.verbosity))));
        let noted = Arc::clone(&reporter);
        let signals = Signals::listen(move |text| handle(&noted, &Progress::Note(text.to_owned())))?;
        let (scratch, orphans) = open_scratch()?;
        let sandbox = place.sandbox(job)?;
        let agent = AgentFiles::unpack(&scratch.path().join("agent")).map_err(|e| full_or(&scratch, e))?;
        let clock = Clock::start(place, history);
        let (left, told) = (clock.clone(), Arc::clone(&reporter));
        let executor = LocalExecutor::new(
            place.site(job, scratch.path().to_owned()),
            agent,
            history,
            signals.receiver(),
            Box::new(move || left.left()),
            Box::new(move |progress| handle(&told, &progress)) as Tell,
        );
        let bench = Self { executor, signals, clock, sandbox, reporter, _scratch: scratch, _locks: locks };
        for note in bench._locks.iter().filter_map(DeviceLock::note) {
            bench.tell(&Progress::Note(note.to_owned()));
        }
        if orphans > 0 {
            let ended = words::count(orphans as u64, "process", "processes");
            bench.tell(&Progress::Note(format!("ended {ended} of a search that was killed")));
        }
        Ok(bench)
    }

    /// Shows something.
    pub fn tell(&self, progress: &Progress) {
        handle(&self.reporter, progress);
    }

    /// What an earlier run of the same search has shown.
    pub fn recall(&self, history: &[Observation]) {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner).recall(history);
    }

    /// Nothing more will be shown: the live line goes.
    pub fn finish_reporting(&self) {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner).finish();
    }
}

fn handle(reporter: &Mutex<Reporter>, progress: &Progress) {
    reporter.lock().unwrap_or_else(PoisonError::into_inner).handle(progress);
}

fn open_scratch() -> Result<(Scratch, usize), Exit> {
    let no_place = |e| {
        let variable = scratch::VARIABLE;
        Exit::new(exit::PLACE, format!("there is no place for trials: {e}; name one with {variable}=DIR"))
    };
    let base = scratch::base().map_err(no_place)?;
    let orphans = end_orphans(&base);
    scratch::sweep();
    match scratch::free(&base) {
        Some(free) if free < scratch::NEEDED => Err(Exit::new(exit::PLACE, no_room(&base, free))),
        _ => Ok((Scratch::create().map_err(no_place)?, orphans)),
    }
}

fn no_room(place: &Path, free: u64) -> String {
    let (place, variable) = (place.display(), scratch::VARIABLE);
    format!(
        "no space left in {place} for what trials write ({} left); free some, or name another place with {variable}=DIR",
        Bytes(free)
    )
}

/// Somebody else may have filled the place meanwhile.
fn full_or(scratch: &Scratch, error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            let free = scratch::free(scratch.path()).unwrap_or_default();
            Exit::new(exit::PLACE, no_room(scratch.path(), free)).into()
        }
        _ => anyhow::Error::from(error).context("the agent cannot be unpacked"),
    }
}

fn lock_devices(place: &Workplace) -> Result<Vec<DeviceLock>, Exit> {
    let lock =
        |uuid: &String| DeviceLock::take(uuid, uuid).map_err(|e| Exit::new(exit::PLACE, e.to_string()));
    place.uuids().iter().map(lock).collect()
}

/// Time spent, earlier parts of a resumed search included.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    before: f64,
    budget: Option<f64>,
}

impl Clock {
    fn start(place: &Workplace, history: &[Observation]) -> Self {
        let before = history.iter().map(|o| o.seconds).sum();
        Self { started: Instant::now(), before, budget: place.recipe.limits.budget }
    }

    /// Seconds so far.
    pub fn spent(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Seconds of the budget that are left.
    pub fn left(&self) -> Option<f64> {
        Some((self.budget? - self.spent()).max(0.0))
    }
}
