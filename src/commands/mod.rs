//! One file a subcommand; each reads like a table of contents.

pub mod bench;
mod cap;
pub mod cluster;
pub mod demo;
pub mod diagnose;
pub mod doctor;
pub mod emit;
pub mod environment;
mod finish;
pub mod inspect;
pub mod lookup;
pub mod node;
pub mod nodes;
pub mod plan;
pub mod profile;
pub mod recipe;
mod recipe_python;
pub mod report;
pub mod run;
mod signals;
mod terminal;
pub mod try_one;
pub mod tune;
pub mod watch;
pub mod workplace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::model::BatchPolicy;
use crate::model::{Configuration, NumericsClass};
use crate::recipe::Executor;

/// What the user asked for.
#[derive(Debug)]
pub enum Request {
    /// `autofit -- COMMAND`
    Tune(Job),
    /// `autofit plan -- COMMAND`
    Plan(Job),
    /// `autofit try --set ... -- COMMAND`
    Try(TryRequest),
    /// `autofit profile --set ... -- COMMAND`
    Profile(profile::ProfileRequest),
    /// `autofit inspect -- COMMAND`
    Inspect(Job),
    /// `autofit run -- COMMAND`
    Run(RunRequest),
    /// `autofit diagnose FILE`
    Diagnose(DiagnoseRequest),
    /// `autofit doctor [-- PYTHON]`
    Doctor {
        /// Starts the interpreter to ask; empty for the one on `PATH`.
        python: Vec<OsString>,
        /// JSON instead of text.
        json: bool,
    },
    /// `autofit watch -- COMMAND`, `autofit watch --pid PID`
    Watch(watch::WatchRequest),
    /// `autofit recipe check FILE`
    RecipeCheck(String),
    /// `autofit recipe list`
    RecipeList,
    /// `autofit emit --form sbatch -- COMMAND`
    Emit(emit::EmitRequest),
    /// `autofit __node ORDER`, hidden: what a job of SLURM consists of.
    Node(PathBuf),
    /// `autofit report [DIR [DIR]]`
    Report(report::ReportRequest),
    /// `autofit demo`
    Demo {
        /// Do not ask before downloading.
        yes: bool,
        /// Where it works.
        keep: Option<PathBuf>,
    },
}

/// Where training happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one.
    #[default]
    Auto,
    /// A GPU.
    Cuda,
    /// The processor.
    Cpu,
}

/// How trials are kept from changing the user's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IsolationChoice {
    /// The strongest that works here.
    #[default]
    Auto,
    /// overlayfs in a namespace.
    Overlay,
    /// Landlock.
    Landlock,
    /// A copy of the working directory.
    Copy,
    /// None at all.
    None,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors and the result.
    Quiet,
    /// Progress too.
    #[default]
    Normal,
    /// Everything.
    Verbose,
}

/// What `tune`, `plan`, `try` and `inspect` have in common.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The command as typed after `--`; empty when the recipe carries it.
    pub command: Vec<OsString>,
    /// The whole command line, program first, for commands that are suggested.
    pub invocation: Vec<String>,
    /// File or name.
    pub recipe: Option<String>,
    /// Where training happens.
    pub device: DeviceChoice,
    /// Bytes.
    pub memory_cap: Option<u64>,
    /// Share of the limit that is kept free, 0 to 0.9; `None`: as the recipe says.
    pub margin: Option<f64>,
    /// Launch the winner once more under its own peak, even if the recipe does not say so.
    pub prove_peak: bool,
    /// What may happen to the effective batch; `None`: as the recipe says.
    pub batch: Option<BatchPolicy>,
    /// Largest effective batch.
    pub max_batch: Option<u64>,
    /// How far numerics may move; `None`: as the recipe says.
    pub numerics: Option<NumericsClass>,
    /// For the whole search.
    pub budget: Option<Duration>,
    /// Launches at most.
    pub max_trials: Option<u32>,
    /// For one trial.
    pub trial_timeout: Option<Duration>,
    /// How the user's files are kept.
    pub isolate: IsolationChoice,
    /// Left out of the isolation.
    pub share: Vec<PathBuf>,
    /// Where trials are launched; `None`: as the recipe says.
    pub executor: Option<Executor>,
    /// Options for `sbatch` and `srun`, after the recipe's.
    pub slurm: Vec<String>,
    /// Jobs at a time.
    pub jobs: Option<u32>,
    /// Start anew.
    pub fresh: bool,
    /// Where results go.
    pub out: Option<PathBuf>,
    /// result.json to standard output.
    pub json: bool,
    /// Accept what fits only one bound further.
    pub yes: bool,
    /// How much is said.
    pub verbosity: Verbosity,
}

/// `autofit try`.
#[derive(Debug, Clone)]
pub struct TryRequest {
    /// What is measured.
    pub settings: Configuration,
    /// What it is compared with.
    pub against: Configuration,
    /// Launches of each.
    pub repeat: u32,
    /// What is measured in turns with `settings` in one launch, each in full; then nothing is repeated.
    pub windows: Vec<Configuration>,
    /// The rest.
    pub job: Job,
}

/// `autofit run`.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The file that tuning wrote.
    pub env: PathBuf,
    /// Bytes.
    pub memory_cap: Option<u64>,
    /// The command.
    pub command: Vec<OsString>,
}

/// `autofit diagnose`.
#[derive(Debug, Clone)]
pub struct DiagnoseRequest {
    /// A path, or `-`.
    pub file: String,
    /// JSON instead of text.
    pub json: bool,
}

/// Carries a request out; the program's exit status.
///
/// # Errors
/// [`crate::exit::Exit`] for what the user can mend.
pub fn run(request: Request) -> anyhow::Result<i32> {
    match request {
        Request::Tune(job) => block_on(tune::run(job)),
        Request::Plan(job) => plan::run(&job),
        Request::Try(request) => block_on(try_one::run(request)),
        Request::Profile(request) => block_on(profile::run(request)),
        Request::Inspect(job) => block_on(inspect::run(job)),
        Request::Diagnose(request) => diagnose::run(&request.file, request.json),
        Request::Watch(request) => watch::run(request),
        Request::Doctor { python, json } => doctor::run(&python, json),
        Request::RecipeCheck(file) => Ok(recipe::check(&file)?),
        Request::RecipeList => Ok(recipe::list()),
        Request::Run(request) => run::run(&request),
        Request::Report(request) => report::run(&request),
        Request::Emit(request) => emit::run(&request),
        Request::Node(order) => block_on(node::run(&order)),
        Request::Demo { yes, keep } => demo::run(yes, keep),
    }
}

/// One thread is enough: the launcher waits, samplers have threads of their own.
fn block_on(work: impl Future<Output = anyhow::Result<i32>>) -> anyhow::Result<i32> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
