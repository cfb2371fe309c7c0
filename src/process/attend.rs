//! The threads beside a running trial: two read its output, one samples its memory, one follows its life to the end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::helper::protocol::{Order, Report};
use super::limits::Group;
use super::orphans;
use super::output::{Output, Stream};
use super::running::{Containment, Ended, Running, Shared, State};
use super::tree;
use crate::model::observation::{Cap, ProcessEnd};
use crate::sandbox::{
    Kind,
    scratch::{Scratch, free},
};

/// How long output may stay open after the command's end before somebody is said to hold it.
const DRAIN: Duration = Duration::from_millis(500);
/// How long processes may take to die of SIGKILL (the kernel frees tens of GB first).
const DEATH: Duration = Duration::from_secs(30);
/// Between two looks at a cgroup's memory: one small file.
const SAMPLE_GROUP: Duration = Duration::from_millis(50);
/// Between two looks at every process of the tree.
const SAMPLE_TREE: Duration = Duration::from_millis(500);
/// Between two looks at things that have no event to wait for.
const TICK: Duration = Duration::from_millis(5);

/// A helper that was started, and what belongs to it.
pub(super) struct Attended {
    pub child: Child,
    pub output: Output,
    pub group: Option<Group>,
    pub pid: i32,
    pub cap: Cap,
    pub containment: Containment,
    pub grace: Duration,
    pub scratch: Option<Scratch>,
    pub kind: Kind,
}

/// The means to end a trial and to see its processes.
#[derive(Debug, Clone)]
pub(super) struct Control(Arc<Means>);

#[derive(Debug)]
struct Means {
    socket: UnixStream,
    helper: i32,
    group: Mutex<Option<Group>>,
    /// The helper is reaped: its number may mean somebody else.
    gone: AtomicBool,
    /// When KILL is due; later requests can only bring it forward.
    kill_at: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Control {
    fn order(&self, order: Order) {
        let _ = (&self.0.socket).write_all(&[order.byte()]);
    }

    fn is_gone(&self) -> bool {
        self.0.gone.load(SeqCst)
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        if self.is_gone() {
            return Vec::new();
        }
        // The helper, and in a PID namespace its first process, are ours and not the trial's.
        let ours = |pid: &i32| *pid == self.0.helper || is_helper(*pid);
        let found = match &*lock(&self.0.group) {
            Some(group) => group.pids(),
            None => tree::descendants(self.0.helper),
        };
        found.into_iter().filter(|pid| !ours(pid)).collect()
    }

    /// A process that sees what the script sees, and lives as long as the trial: the helper, or the first process of
    /// its PID namespace.
    pub(super) fn first(&self) -> Option<i32> {
        if self.is_gone() {
            return None;
        }
        let found = tree::descendants(self.0.helper).into_iter().find(|pid| is_helper(*pid));
        Some(found.unwrap_or(self.0.helper))
    }

    /// TERM now, KILL after the grace, from a thread of its own: callers may be anywhere.
    pub(super) fn end(&self, grace: Duration) {
        let due = Instant::now() + grace;
        {
            let mut kill_at = lock(&self.0.kill_at);
            match *kill_at {
                Some(earlier) => {
                    *kill_at = Some(earlier.min(due));
                    return;
                }
                None => *kill_at = Some(due),
            }
        }
        if !grace.is_zero() {
            self.order(Order::Term);
        }
        let control = self.clone();
        spawn(move || {
            control.sleep_until(|| (*lock(&control.0.kill_at)).unwrap_or(due));
            control.order(Order::Finish);
            control.sleep_until(|| due + DEATH);
            // The helper does not answer: without it its namespace ends, too.
            if !control.is_gone() {
                tree::kill(control.0.helper);
                if let Some(group) = &*lock(&control.0.group) {
                    group.kill_all(DEATH);
                }
            }
        });
    }

    fn sleep_until(&self, due: impl Fn() -> Instant) {
        while !self.is_gone() && Instant::now() < due() {
            sleep(TICK);
        }
    }
}

/// Whether a process is this program as helper: its arguments say so (the script's never do, the helper's name is
/// the first argument after the program).
fn is_helper(pid: i32) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|b| *b == 0).nth(1) == Some(super::helper::ARGUMENT.as_bytes())
}

/// Waits for the helper's word; then the threads take over.  On failure everything is removed and the helper's last
/// report comes back.
pub(super) fn begin(
    mut attended: Attended,
    socket: UnixStream,
    trial_dir: PathBuf,
    notes: &mut Vec<String>,
) -> Result<Running, Option<Report>> {
    let readers = [
        attended.child.stdout.take().map(|pipe| reader(&attended.output, Stream::Out, pipe)),
        attended.child.stderr.take().map(|pipe| reader(&attended.output, Stream::Err, pipe)),
    ];
    let Ok(incoming) = socket.try_clone() else { return Err(None) };
    let mut reports = BufReader::new(incoming).lines().map_while(Result::ok);
    let mut last = None;
    let started = loop {
        let Some(report) = reports.next().and_then(|line| serde_json::from_str(&line).ok()) else {
            break false;
        };
        match report {
            Report::Ready { .. } => {}
            Report::Started => break true,
            other => {
                last = Some(other);
                break false;
            }
        }
    };
    let Attended { mut child, output, group, pid, cap, containment, grace, scratch, kind } = attended;
    if !started {
        drop(reports);
        drop(socket);
        let _ = child.wait();
        if let Some(group) = group {
            group.kill_all(DEATH);
            group.remove();
        }
        orphans::forget(&trial_dir);
        return Err(last);
    }
    let began = Instant::now();
    let shared = Arc::new(Shared {
        output,
        memory_now: AtomicU64::new(0),
        memory_peak: AtomicU64::new(0),
        requested: Mutex::new(None),
        state: watch::Sender::new(State::Runs),
    });
    let group_dir = group.as_ref().map(|g| g.dir().to_owned());
    let control = Control(Arc::new(Means {
        socket,
        helper: pid,
        group: Mutex::new(group),
        gone: AtomicBool::new(false),
        kill_at: Mutex::new(None),
    }));
    let running = Running {
        shared: Arc::clone(&shared),
        control: control.clone(),
        containment,
        kind,
        cap: cap.clone(),
        grace,
        began,
        notes: std::mem::take(notes),
        group_dir,
    };
    {
        let (shared, control) = (Arc::clone(&shared), control.clone());
        spawn(move || sample(&shared, &control));
    }
    spawn(move || {
        let (end, seconds, held) = follow(&mut reports, &readers, &shared, &control, began);
        let ended = clean_up(child, readers, &control, &trial_dir);
        let room_left = scratch.as_ref().and_then(|s| free(s.path()));
        drop(scratch);
        let peak = shared.memory_peak.load(SeqCst);
        shared.state.send_replace(State::Over(Arc::new(Ended {
            end,
            oom_kills: ended.oom_kills,
            limit_hits: ended.limit_hits,
            peak_bytes: (peak > 0).then_some(peak),
            containment,
            cap,
            seconds,
            pipes_held: held,
            cleaned: ended.cleaned,
            room_left,
        })));
    });
    Ok(running)
}

type Readers = [Option<JoinHandle<()>>; 2];

fn reader(output: &Output, stream: Stream, pipe: impl std::io::Read + Send + 'static) -> JoinHandle<()> {
    let output = output.clone();
    spawn(move || output.drain(stream, pipe))
}

/// Until the command has ended and its output is read.
fn follow(
    reports: &mut impl Iterator<Item = String>,
    readers: &Readers,
    shared: &Shared,
    control: &Control,
    began: Instant,
) -> (ProcessEnd, f64, bool) {
    let status = reports.find_map(|line| match serde_json::from_str(&line) {
        Ok(Report::Ended { status }) => Some(status),
        _ => None,
    });
    let seconds = began.elapsed().as_secs_f64();
    let requested = shared.requested().clone();
    let end = match (requested, status) {
        (Some(why), _) => why,
        (None, Some(status)) if libc::WIFSIGNALED(status) => {
            ProcessEnd::Signaled { signal: libc::WTERMSIG(status) }
        }
        (None, Some(status)) => ProcessEnd::Exited { code: libc::WEXITSTATUS(status) },
        // The helper itself was killed, and the command with it.
        (None, None) => ProcessEnd::Signaled { signal: libc::SIGKILL },
    };
    let until = Instant::now() + DRAIN;
    let open = || readers.iter().flatten().any(|reader| !reader.is_finished());
    while open() && Instant::now() < until {
        sleep(TICK);
    }
    let held = status.is_some() && open();
    control.order(Order::Finish);
    (end, seconds, held)
}

struct Cleaned {
    oom_kills: u64,
    limit_hits: u64,
    cleaned: bool,
}

/// Until no process is left and everything that was made is removed.
fn clean_up(mut child: Child, readers: Readers, control: &Control, trial_dir: &Path) -> Cleaned {
    let until = Instant::now() + DEATH;
    let mut left = true;
    while left && Instant::now() < until {
        left = matches!(child.try_wait(), Ok(None));
        if left {
            sleep(TICK);
        }
    }
    if left {
        let _ = child.kill();
    }
    control.0.gone.store(true, SeqCst);
    let group = lock(&control.0.group).take();
    let (mut oom_kills, mut limit_hits, mut empty) = (0, 0, !left);
    if let Some(group) = group {
        empty &= group.kill_all(DEATH);
        (oom_kills, limit_hits) = (group.oom_kills(), group.limit_hits());
        empty &= group.remove();
    }
    if empty {
        // Every writer is dead, so the pipes end; a process that could not be killed may still hold them.
        for reader in readers.into_iter().flatten() {
            let _ = reader.join();
        }
        orphans::forget(trial_dir);
    }
    Cleaned { oom_kills, limit_hits, cleaned: empty }
}

fn sample(shared: &Shared, control: &Control) {
    while !control.is_gone() {
        let (bytes, pause) = match &*lock(&control.0.group) {
            Some(group) => (group.memory_now(), SAMPLE_GROUP),
            None => (Some(tree::memory(&tree::descendants(control.0.helper))), SAMPLE_TREE),
        };
        if let Some(bytes) = bytes {
            shared.saw_memory(bytes);
        }
        sleep(pause);
    }
}
