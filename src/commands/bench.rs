//! A place to launch trials in: scratch room, agent, reporter, signals, executor.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::signals::Signals;
use super::workplace::Workplace;
use super::{Job, finish};
use crate::agent::AgentFiles;
use crate::exit::{self, Exit};
use crate::journal::DeviceLock;
use crate::model::size::Bytes;
use crate::model::{Observation, Progress};
use crate::process::end_orphans;
use crate::report::result::Isolation;
use crate::report::{Mode, Reporter, words};
use crate::sandbox::scratch::{self, Scratch};
use crate::trial::any::AnyExecutor;
use crate::trial::local::LocalExecutor;

/// Takes what there is to show.
pub(super) type Tell = Box<dyn FnMut(Progress)>;

/// Everything that launching needs; leaves nothing behind when dropped.
pub struct Bench {
    /// Launches trials.
    pub executor: AnyExecutor<Tell>,
    /// Ctrl-C and the like.
    pub signals: Signals,
    /// Time spent.
    pub clock: Clock,
    /// How the user's files are kept, for reports.
    pub isolation: Isolation,
    reporter: Arc<Mutex<Reporter>>,
    // Dropped last: devices are free only when nothing of ours uses them.
    _scratch: Option<Scratch>,
    _locks: Vec<DeviceLock>,
}

impl Bench {
    /// Locks the devices, makes room, ends what a killed search left behind, unpacks the agent, listens to signals.
    /// `history` is what an earlier run of the same search observed.
    ///
    /// # Errors
    /// [`Exit`] with status 6 when the place cannot be used.
    pub fn open(place: &Workplace, job: &Job, history: &[Observation]) -> anyhow::Result<Self> {
        let reporter = Arc::new(Mutex::new(Reporter::new(Mode::detect(job.verbosity))));
        let noted = Arc::clone(&reporter);
        let signals = Signals::listen(move |text| handle(&noted, &Progress::Note(text.to_owned())))?;
        let clock = Clock::start(place, history);
        let (left, told) = (clock.clone(), Arc::clone(&reporter));
        let left = Box::new(move || left.left());
        let tell: Tell = Box::new(move |progress| handle(&told, &progress));
        if let Some(cluster) = &place.cluster {
            let executor =
                AnyExecutor::Slurm(cluster.executor(place, history, signals.receiver(), left, tell));
            let isolation = cluster.isolation.clone();
            return Ok(Self {
                executor,
                signals,
                clock,
                isolation,
                reporter,
                _scratch: None,
                _locks: vec![],
            });
        }
        let locks = lock_devices(place)?;
        let (scratch, orphans) = open_scratch()?;
        let isolation = finish::isolation(&Workplace::sandbox(job)?);
        let agent = AgentFiles::unpack(&scratch.path().join("agent")).map_err(|e| full_or(&scratch, e))?;
        let site = place.site(job, scratch.path().to_owned());
        let local = LocalExecutor::new(site, agent, history, signals.receiver(), left, tell);
        let executor = AnyExecutor::local(local);
        let _scratch = Some(scratch);
        let bench = Self { executor, signals, clock, isolation, reporter, _scratch, _locks: locks };
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
