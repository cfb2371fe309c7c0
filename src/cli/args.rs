//! What can be typed, as clap reads it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::values::{Words, parse_time, parse_words};
use crate::model::size::{parse_bytes, parse_share};

pub(super) const AFTER_HELP: &str = "\
Exit status: 0 tuned; 2 usage or recipe error; 3 nothing fits within the bounds; 4 the script fails for a reason that
is not memory; 5 the agent could not start in the script; 6 the place cannot be used (read-only, no space, locked by
another search, no torch); 130 and 143 interrupted (the best so far is written if there is one).
`autofit run` ends with the script's own status; 125 autofit's own failure, 126 and 127 could not execute.";

pub(super) const REPORT_HELP: &str = "\
One search: report.html (whole in itself, to be opened in a browser) and report.md (for pull requests), from its journal.
Two searches: comparison.html and comparison.md, and the latter on standard output.
Exit status: 0 written; 2 no search there; 6 its journal cannot be read, or the files cannot be written.";

/// The fastest configuration of an unmodified PyTorch script that fits in memory, proved by real launches.
#[derive(Debug, Parser)]
#[command(name = "autofit", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true,
    override_usage = "autofit [OPTIONS] -- COMMAND...\n       autofit --recipe FILE|NAME [-- COMMAND...]\n       autofit <SUBCOMMAND>")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) sub: Option<Sub>,
    #[command(flatten)]
    pub(super) tune: JobArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sub {
    /// Find the fastest configuration that fits (what `autofit -- COMMAND` does)
    Tune(JobArgs),
    /// Write a job script that trains with what was tuned
    Emit(EmitArgs),
    /// What a job of SLURM consists of
    #[command(name = "__node", hide = true)]
    Node {
        /// Written by the launcher
        order: PathBuf,
    },
    /// Say what would be launched, for how long, and what is isolated, and launch nothing
    Plan(JobArgs),
    /// Measure one configuration, or compare two: `autofit try --set amp=bf16,checkpoint=all -- COMMAND`
    Try(TryArgs),
    /// Profile a steady step: operators, and what the memory at the peak is for
    Profile(ProfileArgs),
    /// Launch once, briefly, and print which knobs can be turned and how
    Inspect(JobArgs),
    /// Run the command in production with what was tuned
    Run(RunArgs),
    /// Read a failure's output: what happened and what would help
    Diagnose(DiagnoseArgs),
    /// Watch a command or a process while it trains: memory, load, steps, the allocator
    Watch(WatchArgs),
    /// Look at the machine: driver, PyTorch, memory, limits; what is wrong and what to type
    Doctor(DoctorArgs),
    /// Check a recipe, or list those that are shipped
    Recipe {
        #[command(subcommand)]
        what: RecipeSub,
    },
    /// Write the report of a search again, or compare two searches
    Report(ReportArgs),
    /// Tune an example for real: finds or makes a private Python environment, then tunes under a limit
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum RecipeSub {
    /// Check a recipe file
    Check {
        /// The file, or the name of a shipped recipe
        file: String,
    },
    /// List the shipped recipes
    List,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DeviceArg {
    Auto,
    Cuda,
    Cpu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum BatchArg {
    /// The effective batch stays as it is
    Keep,
    /// It may become smaller
    Lower,
    /// It may become larger or smaller
    Max,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum NumericsArg {
    Exact,
    Distribution,
    Precision,
    Dynamics,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ExecutorArg {
    /// On this machine
    Local,
    /// As jobs of SLURM; inside an allocation, as its steps
    Slurm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FormArg {
    /// For `sbatch`
    Sbatch,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum IsolateArg {
    Auto,
    Overlay,
    Landlock,
    Copy,
    None,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// A recipe file, or the name of a shipped recipe
    #[arg(long, value_name = "FILE|NAME")]
    pub(super) recipe: Option<String>,
    /// Where training happens
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) device: DeviceArg,
    /// Memory that may be used: device memory on a GPU, memory of the process tree on the CPU (24GiB, 700MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(super) memory_cap: Option<u64>,
    /// Part of this limit that is kept free: trials run under what is left (5%, 0.05) [default: 0%, since a winner leaves
    /// room by itself]
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub(super) margin: Option<f64>,
    /// Launch the winner once more under its own peak as the limit, so that what it needs at most is enforced, not only seen
    #[arg(long)]
    pub(super) prove_peak: bool,
    /// What may happen to the effective batch size
    #[arg(long, value_enum)]
    pub(super) batch: Option<BatchArg>,
    /// The largest effective batch that may be tried (implies --batch max)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_batch: Option<u64>,
    /// How far the numerics may move [default: precision]
    #[arg(long, value_enum)]
    pub(super) numerics: Option<NumericsArg>,
    /// Time for the whole search (90s, 10m, 1h)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) budget: Option<Duration>,
    /// Launches at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_trials: Option<u32>,
    /// Time for one trial (90s, 10m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) trial_timeout: Option<Duration>,
    /// How trials are kept from changing your files
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) isolate: IsolateArg,
    /// Leave this place out of the isolation: trials really write there
    #[arg(long, value_name = "PATH")]
    pub(super) share: Vec<PathBuf>,
    /// Where trials are launched [default: local]
    #[arg(long, value_enum)]
    pub(super) executor: Option<ExecutorArg>,
    /// Options of sbatch for each job of a trial, in one word: "--partition=gpu --gres=gpu:1"
    #[arg(long, value_name = "OPTIONS", value_parser = parse_words, allow_hyphen_values = true)]
    pub(super) slurm: Option<Words>,
    /// Jobs of SLURM at a time [default: 1; inside an allocation one a node]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) jobs: Option<u32>,
    /// Start anew instead of going on with, showing or learning from an earlier search
    #[arg(long)]
    pub(super) fresh: bool,
    /// Where autofit.env and .autofit/ go [default: here]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Print result.json's content to standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Accept what fits only one bound further, without asking
    #[arg(long)]
    pub(super) yes: bool,
    /// Say less
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say more
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct TryArgs {
    /// Settings, as knob=value, separated by commas
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    pub(super) set: Vec<String>,
    /// Compare with this configuration instead of the script as it is
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    pub(super) against: Vec<String>,
    /// Launch both this often, in turns, and say how sure the ratio is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) repeat: u32,
    /// Measure these in turns with the settings, all in one launch; a `;` stands between two of them
    #[arg(long, value_name = "KNOB=VALUE,...;...", action = ArgAction::Append, conflicts_with_all = ["against", "repeat"])]
    pub(super) sweep: Vec<String>,
    #[command(flatten)]
    pub(super) job: JobArgs,
}

#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    /// Settings, as knob=value, separated by commas [default: the script as it is]
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    pub(super) set: Vec<String>,
    #[command(flatten)]
    pub(super) job: JobArgs,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The file that tuning wrote
    #[arg(long, value_name = "FILE", default_value = "autofit.env")]
    pub(super) env: PathBuf,
    /// Run under this memory limit
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(super) memory_cap: Option<u64>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct EmitArgs {
    /// What for
    #[arg(long, value_enum)]
    pub(super) form: FormArg,
    /// The file that tuning wrote
    #[arg(long, value_name = "FILE", default_value = "autofit.env")]
    pub(super) env: PathBuf,
    /// Nodes; with several the command must be torchrun [default: as trials had]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) nodes: Option<u32>,
    /// Options of sbatch, in one word, after those that trials had: "--time=24:00:00"
    #[arg(long, value_name = "OPTIONS", value_parser = parse_words, allow_hyphen_values = true)]
    pub(super) slurm: Option<Words>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct DiagnoseArgs {
    /// The log, - for standard input, or a search's folder: its latest launch that failed
    #[arg(value_name = "FILE|-|DIR", default_value = "-")]
    pub(super) file: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing is broken (warnings included); 1 something is broken; 2 usage error."
)]
pub(super) struct DoctorArgs {
    /// Print JSON: findings and the facts that they follow from
    #[arg(long)]
    pub(super) json: bool,
    /// The Python that training has, after `--` [default: python, else python3, on PATH]
    #[arg(last = true, value_name = "PYTHON")]
    pub(super) python: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "autofit watch [OPTIONS] -- COMMAND...\n       autofit watch [OPTIONS] --pid PID",
    after_help = "The command runs as it is: nothing is isolated, limited or turned, and it writes its files.\n\n\
    Exit status: the command's own (128+n for a signal); with --pid 0, 130 after Ctrl-C; 2 usage error; 6 the \
    record cannot be written; 126 and 127 could not execute."
)]
pub(super) struct WatchArgs {
    /// Watch this process and those below it, from outside
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pid: Option<u32>,
    /// Print records as JSON lines to standard output; what the command prints goes to standard error
    #[arg(long)]
    pub(super) json: bool,
    /// Print lines also on a terminal, and leave it to the command
    #[arg(long)]
    pub(super) plain: bool,
    /// Write records as JSON lines to this file, too
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Time between two records [default: 1s] or lines [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) every: Option<Duration>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(super) struct ReportArgs {
    /// Where a search was started, or its folder .autofit/ID; two of them are compared [default: here]
    #[arg(value_name = "DIR", num_args = 0..=2)]
    pub(super) dirs: Vec<PathBuf>,
    /// Where the files go [default: beside the journal; of a comparison: here]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Do not ask before downloading
    #[arg(long)]
    pub(super) yes: bool,
    /// Where the demo works [default: ./autofit-demo]
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}
