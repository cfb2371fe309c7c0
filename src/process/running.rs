//! A trial that runs, and how it ended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::attend::Control;
use super::output::Output;
use crate::model::observation::{Cap, ProcessEnd};
use crate::sandbox::Kind;

/// What keeps the processes of a trial together, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// The kernel kills whatever is left, also when this program is killed.
    PidNamespace,
    /// Everything in the trial's cgroup is killed at its end; what a killed autofit leaves is ended at its next start.
    Cgroup,
    /// What descends from the trial is killed as far as it can be found.
    ProcessGroup,
}

/// How a trial ended; everything is read after its last process was gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The command's own end, or why we ended it.
    pub end: ProcessEnd,
    /// Processes that the kernel killed because the cap was reached.
    pub oom_kills: u64,
    /// How often the kernel counted that the cap was reached: page cache is then given back, so this alone is no
    /// failure; some kernels count nothing, so 0 proves nothing.
    pub limit_hits: u64,
    /// Highest anonymous + shared memory of the whole tree that was sampled, bytes.
    pub peak_bytes: Option<u64>,
    /// What kept the processes together.
    pub containment: Containment,
    /// What limited the memory.
    pub cap: Cap,
    /// From the start of the command to its end.
    pub seconds: f64,
    /// Something that the command had started still held its output when it had ended.
    pub pipes_held: bool,
    /// No process is left, and what was made for the trial is removed.
    pub cleaned: bool,
    /// Free in the place where it wrote, before that was removed, bytes.
    pub room_left: Option<u64>,
}

/// Stages of a trial's life.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// The command runs.
    Runs,
    /// All over.
    Over(Arc<Ended>),
}

/// What several threads look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub output: Output,
    pub memory_now: AtomicU64,
    pub memory_peak: AtomicU64,
    /// Why we end it, once we do.
    pub requested: Mutex<Option<ProcessEnd>>,
    pub state: watch::Sender<State>,
}

impl Shared {
    pub(super) fn requested(&self) -> MutexGuard<'_, Option<ProcessEnd>> {
        self.requested.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn saw_memory(&self, bytes: u64) {
        self.memory_now.store(bytes, Ordering::Relaxed);
        self.memory_peak.fetch_max(bytes, Ordering::Relaxed);
    }
}

/// A trial that runs.  Dropping it ends it at once, without grace.
#[derive(Debug)]
pub struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) control: Control,
    pub(super) containment: Containment,
    pub(super) kind: Kind,
    pub(super) cap: Cap,
    pub(super) grace: Duration,
    pub(super) began: Instant,
    pub(super) notes: Vec<String>,
    pub(super) group_dir: Option<PathBuf>,
}

impl Running {
    /// The last `n` lines of both streams.
    pub fn tail(&self, n: usize) -> Vec<String> {
        self.shared.output.tail(n)
    }

    /// How many lines there were so far, and those after the first `seen` that are still in memory: pass the number
    /// back to get each line once.
    pub fn lines_since(&self, seen: u64) -> (u64, Vec<String>) {
        self.shared.output.since(seen)
    }

    /// Every process of the trial, as this process numbers them (inside the trial they have other numbers).
    pub fn pids(&self) -> Vec<i32> {
        self.control.pids()
    }

    /// Anonymous and shared memory of the tree at the latest sample, bytes; 0 before the first.
    pub fn memory_now(&self) -> u64 {
        self.shared.memory_now.load(Ordering::Relaxed)
    }

    /// Highest sample so far, bytes.
    pub fn memory_peak(&self) -> u64 {
        self.shared.memory_peak.load(Ordering::Relaxed)
    }

    /// What keeps its processes together.
    pub fn containment(&self) -> Containment {
        self.containment
    }

    /// What keeps the user's files as they are.
    pub fn isolation(&self) -> Kind {
        self.kind
    }

    /// What limits its memory.
    pub fn cap(&self) -> &Cap {
        &self.cap
    }

    /// Weaker ways that had to be taken, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The trial's memory cgroup, if it has one.
    pub fn cgroup(&self) -> Option<&std::path::Path> {
        self.group_dir.as_deref()
    }

    /// The trial's `/dev/shm` as this process can look at it: in a sandbox it has its own.
    pub fn shared_memory(&self) -> Option<PathBuf> {
        let first = self.control.first()?;
        let path = PathBuf::from(format!("/proc/{first}/root/dev/shm"));
        path.is_dir().then_some(path)
    }

    /// Since the command was started.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends the trial: TERM to all of it, KILL after the grace.  The first reason given is the one that is reported,
    /// and none is if the command has ended by itself before.  Returns at once.
    pub fn end(&self, why: ProcessEnd) {
        self.request(why, self.grace);
    }

    /// Ends the trial without grace.
    pub fn kill(&self, why: ProcessEnd) {
        self.request(why, Duration::ZERO);
    }

    fn request(&self, why: ProcessEnd, grace: Duration) {
        self.shared.requested().get_or_insert(why);
        self.control.end(grace);
    }

    /// Waits until nothing of the trial is left.
    pub async fn wait(&self) -> Ended {
        let mut state = self.shared.state.subscribe();
        let over = state.wait_for(|s| matches!(s, State::Over(_))).await;
        match over.as_deref() {
            Ok(State::Over(ended)) => Ended::clone(ended),
            // The sender lives in `shared`, which we hold.
            Ok(State::Runs) | Err(_) => unreachable!("the state of a trial outlives those who watch it"),
        }
    }

    /// The end, if it has come.
    pub fn ended(&self) -> Option<Ended> {
        match &*self.shared.state.borrow() {
            State::Over(ended) => Some(Ended::clone(ended)),
            State::Runs => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill(ProcessEnd::Interrupted);
        }
    }
}
