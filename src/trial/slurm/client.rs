//! SLURM's own programs: `sbatch`, `srun`, `squeue`, `scancel`.
//!
//! No accounting database is assumed: `sacct` is not asked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::order::{ORDER, OUTPUT};
use super::state::{self, End, JobState};
use crate::exit::{self, Exit};
use crate::process::beside::{self, Beside, Streams};
use crate::process::tool::{self, Tool, ToolEnd};

/// The hidden subcommand that a job consists of.
pub const SUBCOMMAND: &str = "__node";

/// What `srun` itself says, in an order's folder.
const SRUN: &str = "srun.out";

/// Set by SLURM inside an allocation.
const ALLOCATION: &str = "SLURM_JOB_ID";

/// How long cancelled jobs may take to end: SLURM itself waits 30 s between TERM and KILL.
const CANCELLING: Duration = Duration::from_secs(45);

/// Between two looks for them.
const AGAIN: Duration = Duration::from_millis(500);

/// Submits jobs of one name, and asks for them.
#[derive(Debug, Clone)]
pub struct Client {
    /// Of every job.
    name: String,
    /// Options of the user's.
    words: Vec<String>,
    /// Where the user stands, which is where the script runs.
    cwd: PathBuf,
    /// The allocation that this process runs in.
    allocation: Option<String>,
}

/// A job, or a step of the allocation.
#[derive(Debug, Clone)]
pub enum Launched {
    /// A job of its own.
    Job(String),
    /// A step of the allocation.
    Step(Arc<Step>),
}

/// A step, which is over when its `srun` is.
#[derive(Debug)]
pub struct Step {
    srun: Mutex<Beside>,
    /// Takes what `srun` itself says.
    said: PathBuf,
}

impl Step {
    /// Whether it ended with status 0, once it has ended.
    fn ended(&self) -> Option<bool> {
        let mut srun = self.srun.lock().unwrap_or_else(PoisonError::into_inner);
        srun.ended().ok().flatten().map(|status| status == 0)
    }

    /// Also one that still waits for room in the allocation.
    fn end(&self) {
        self.srun.lock().unwrap_or_else(PoisonError::into_inner).signal(libc::SIGTERM);
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

/// Why SLURM gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{program} {what}")]
pub struct Refused {
    program: &'static str,
    what: String,
}

impl Client {
    /// For jobs of this name, with these options.
    pub fn new(name: &str, words: Vec<String>, cwd: &Path) -> Self {
        Self { name: name.to_owned(), words, cwd: cwd.to_owned(), allocation: allocation() }
    }

    /// Launches the order in `dir`, on `nodes` nodes.
    ///
    /// # Errors
    /// [`Exit`] with SLURM's own words when it refuses.
    pub fn launch(&self, dir: &Path, nodes: u32) -> anyhow::Result<Launched> {
        let program = std::env::current_exe()?;
        let order = dir.join(ORDER);
        let node = [program.as_os_str(), SUBCOMMAND.as_ref(), order.as_os_str()];
        let node: Vec<String> = node.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        if self.allocation.is_some() {
            return Ok(Launched::Step(Arc::new(self.step(dir, nodes, &node)?)));
        }
        let mut words = self.options(dir, nodes);
        // What is preempted is launched again by the launcher, which then knows of it.
        words.extend(["--parsable".to_owned(), "--no-requeue".to_owned()]);
        // The shell's place is taken, so that SLURM's signals reach autofit itself.
        let node = if nodes > 1 { [&["srun".to_owned()], &on_each(nodes)[..], &node].concat() } else { node };
        words.extend(["--wrap".to_owned(), format!("exec {}", shell_words::join(node))]);
        let said = call("sbatch", words).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
        // `12`, or `12;cluster`.
        let id = said.trim().split(';').next().unwrap_or_default().to_owned();
        anyhow::ensure!(!id.is_empty(), "sbatch told no job");
        Ok(Launched::Job(id))
    }

    fn step(&self, dir: &Path, nodes: u32, node: &[String]) -> anyhow::Result<Step> {
        let said = dir.join(SRUN);
        // The shell only gives `srun` a place to speak to.
        let shell = ["sh", "-c", "said=$1; shift; exec srun \"$@\" 2>\"$said\"", "sh"].map(str::to_owned);
        let mut options = self.options(dir, nodes);
        if nodes > 1 {
            options.extend(on_each(nodes));
        }
        let words = [&shell[..], &[said.display().to_string()], &options, node].concat();
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let (srun, _) = beside::start(&words, std::env::vars_os().collect(), Streams::ToStderr)?;
        Ok(Step { srun: Mutex::new(srun), said })
    }

    /// What is asked for with a job on `nodes` nodes.
    pub fn asks(&self, nodes: u32) -> Vec<String> {
        let mut words = self.words.clone();
        if nodes > 1 {
            // Else what the user's options say of it need not go with one task.
            words.push("--ntasks-per-node=1".to_owned());
        }
        words.extend([format!("--nodes={nodes}"), format!("--ntasks={nodes}")]);
        words
    }

    /// When and where such a job would start, in SLURM's words; nothing is submitted.
    ///
    /// # Errors
    /// SLURM would refuse it.
    pub fn would_start(&self, nodes: u32) -> Result<String, Refused> {
        let ours = ["--test-only", "--wrap", "exit"].map(str::to_owned);
        let end = run("sbatch", [self.asks(nodes), ours.to_vec()].concat())?;
        let said = end.tail.iter().rev().find(|line| line.contains("to start"));
        Ok(said.map(|line| line.trim_start_matches("sbatch: ").to_owned()).unwrap_or_default())
    }

    fn options(&self, dir: &Path, nodes: u32) -> Vec<String> {
        let mut words = self.asks(nodes);
        words.extend([
            format!("--job-name={}", self.name),
            format!("--output={}", dir.join(OUTPUT).display()),
            format!("--chdir={}", self.cwd.display()),
        ]);
        words
    }

    /// Where each of these stands.
    ///
    /// # Errors
    /// SLURM does not answer.
    pub fn states(&self, launched: &[Launched]) -> Result<Vec<JobState>, Refused> {
        let jobs: Vec<&str> = launched.iter().filter_map(Launched::job).collect();
        let known = if jobs.is_empty() { BTreeMap::new() } else { squeue(&jobs)? };
        let state = |l: &Launched| match l {
            Launched::Job(id) => known.get(id).cloned().unwrap_or(JobState::Ended(End::Forgotten)),
            Launched::Step(step) => match step.ended() {
                None => JobState::Running(String::new()),
                Some(true) => JobState::Ended(End::Completed),
                Some(false) => JobState::Ended(End::Failed),
            },
        };
        Ok(launched.iter().map(state).collect())
    }

    /// Ends these, and whatever else has their name, and waits until all are gone.
    pub fn cancel_all(&self, launched: &[Launched]) {
        for step in launched.iter().filter_map(Launched::step) {
            step.end();
        }
        cancel_all(&self.name);
    }
}

/// The allocation that this process runs in, and that trials then are steps of.
pub fn allocation() -> Option<String> {
    std::env::var(ALLOCATION).ok().filter(|id| !id.is_empty())
}

/// Options of the `srun` that starts one process on each node of a job.
fn on_each(nodes: u32) -> [String; 5] {
    [
        format!("--nodes={nodes}"),
        format!("--ntasks={nodes}"),
        "--ntasks-per-node=1".to_owned(),
        // The nodes themselves end the trial everywhere where it fails on one, and say why.
        "--kill-on-bad-exit=0".to_owned(),
        // It may use all that the job has there; a task by itself would be tied to one processor.
        "--cpu-bind=none".to_owned(),
    ]
}

/// Ends a job if it still waits.
pub fn cancel_waiting(launched: &Launched) {
    if let Launched::Job(id) = launched {
        // One that has begun meanwhile goes on.
        let _ = call("scancel", vec!["--state=PENDING".to_owned(), id.clone()]);
    }
}

impl Launched {
    fn job(&self) -> Option<&str> {
        match self {
            Self::Job(id) => Some(id),
            Self::Step(_) => None,
        }
    }

    fn step(&self) -> Option<&Step> {
        match self {
            Self::Step(step) => Some(step),
            Self::Job(_) => None,
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        self.job().map_or_else(|| "a step".to_owned(), |id| format!("job {id}"))
    }

    /// What `srun` itself has said.
    pub fn said(&self) -> String {
        self.step().map(Step::said).unwrap_or_default()
    }
}

/// Ends every job and step of this user that has this name, and waits until they are gone; how many there were.
pub fn cancel_all(name: &str) -> usize {
    let until = Instant::now() + CANCELLING;
    let first = living(name);
    if first.is_empty() {
        return 0;
    }
    let _ = call("scancel", first.clone());
    while Instant::now() < until && !living(name).is_empty() {
        std::thread::sleep(AGAIN);
    }
    first.len()
}

/// Jobs and steps of this user with this name that are not over.
fn living(name: &str) -> Vec<String> {
    let user = format!("--user={}", nix::unistd::geteuid());
    let named = |format: &str, more: &[&str]| {
        let mut words = vec!["--noheader".to_owned(), user.clone(), format!("--format={format}")];
        words.extend(more.iter().map(|w| (*w).to_owned()));
        call("squeue", words).unwrap_or_default()
    };
    let mine = |text: String| -> Vec<String> {
        let lines = text.lines().filter_map(|l| l.trim().split_once('|'));
        lines.filter(|(_, n)| *n == name).map(|(id, _)| id.to_owned()).collect()
    };
    let jobs = mine(named("%i|%j", &[]));
    // The steps of a job end with it.
    if jobs.is_empty() { mine(named("%i|%j", &["--steps"])) } else { jobs }
}

fn squeue(jobs: &[&str]) -> Result<BTreeMap<String, JobState>, Refused> {
    let words = vec![
        "--noheader".to_owned(),
        "--states=all".to_owned(),
        format!("--jobs={}", jobs.join(",")),
        format!("--format={}", state::FORMAT),
    ];
    match call("squeue", words) {
        Ok(text) => Ok(state::read(&text)),
        // Of jobs that it has forgotten it only says that.
        Err(e) if e.what.contains("Invalid job id") => Ok(BTreeMap::new()),
        Err(e) => Err(e),
    }
}

/// Runs one of SLURM's programs; its standard output.
fn call(program: &'static str, words: Vec<String>) -> Result<String, Refused> {
    run(program, words).map(|end| end.stdout)
}

fn run(program: &'static str, words: Vec<String>) -> Result<ToolEnd, Refused> {
    let refused = |what: String| Refused { program, what };
    let end = tool::run(Tool::new(program).args(words), |_| ()).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            refused("is not there; --executor slurm needs SLURM's programs".to_owned())
        }
        _ => refused(format!("cannot be started: {e}")),
    })?;
    match end.status.success() {
        true => Ok(end),
        false => Err(refused(format!("failed: {}", end.tail.join("; ")))),
    }
}
