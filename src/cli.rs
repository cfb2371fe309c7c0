//! Arguments -> [`Request`].
//!
//! **Architecture invariant:** the only file that knows clap.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands::emit::EmitRequest;
use crate::commands::profile::ProfileRequest;
use crate::commands::report::ReportRequest;
use crate::commands::watch::{Target, WatchRequest};
use crate::commands::{
    BatchPolicy, DeviceChoice, DiagnoseRequest, IsolationChoice, Job, Request, RunRequest, TryRequest,
    Verbosity,
};
use crate::exit::{self, Exit};
use crate::model::size::parse_bytes;
use crate::model::{Configuration, Knob, NumericsClass};
use crate::recipe::Executor;

const AFTER_HELP: &str = "\
Exit status: 0 tuned; 2 usage or recipe error; 3 nothing fits within the bounds; 4 the script fails for a reason that
is not memory; 5 the agent could not start in the script; 6 the place cannot be used (read-only, no space, locked by
another search, no torch); 130 and 143 interrupted (the best so far is written if there is one).
`autofit run` ends with the script's own status; 125 autofit's own failure, 126 and 127 could not execute.";

const REPORT_HELP: &str = "\
One search: report.html (whole in itself, to be opened in a browser) and report.md (for pull requests), from its journal.
Two searches: comparison.html and comparison.md, and the latter on standard output.
Exit status: 0 written; 2 no search there; 6 its journal cannot be read, or the files cannot be written.";

/// The fastest configuration of an unmodified PyTorch script that fits in memory, proved by real launches.
#[derive(Debug, Parser)]
#[command(name = "autofit", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true,
    override_usage = "autofit [OPTIONS] -- COMMAND...\n       autofit --recipe FILE|NAME [-- COMMAND...]\n       autofit <SUBCOMMAND>")]
struct Cli {
    #[command(subcommand)]
    sub: Option<Sub>,
    #[command(flatten)]
    tune: JobArgs,
}

#[derive(Debug, Subcommand)]
enum Sub {
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
enum RecipeSub {
    /// Check a recipe file
    Check {
        /// The file, or the name of a shipped recipe
        file: String,
    },
    /// List the shipped recipes
    List,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceArg {
    Auto,
    Cuda,
    Cpu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BatchArg {
    /// The effective batch stays as it is
    Keep,
    /// It may become smaller
    Lower,
    /// It may become larger or smaller
    Max,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NumericsArg {
    Exact,
    Distribution,
    Precision,
    Dynamics,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExecutorArg {
    /// On this machine
    Local,
    /// As jobs of SLURM; inside an allocation, as its steps
    Slurm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormArg {
    /// For `sbatch`
    Sbatch,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IsolateArg {
    Auto,
    Overlay,
    Landlock,
    Copy,
    None,
}

#[derive(Debug, Args)]
struct JobArgs {
    /// A recipe file, or the name of a shipped recipe
    #[arg(long, value_name = "FILE|NAME")]
    recipe: Option<String>,
    /// Where training happens
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Memory that may be used: device memory on a GPU, memory of the process tree on the CPU (24GiB, 700MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_cap: Option<u64>,
    /// What may happen to the effective batch size
    #[arg(long, value_enum)]
    batch: Option<BatchArg>,
    /// The largest effective batch that may be tried (implies --batch max)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_batch: Option<u64>,
    /// How far the numerics may move [default: precision]
    #[arg(long, value_enum)]
    numerics: Option<NumericsArg>,
    /// Time for the whole search (90s, 10m, 1h)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    budget: Option<Duration>,
    /// Launches at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_trials: Option<u32>,
    /// Time for one trial (90s, 10m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    trial_timeout: Option<Duration>,
    /// How trials are kept from changing your files
    #[arg(long, value_enum, default_value = "auto")]
    isolate: IsolateArg,
    /// Leave this place out of the isolation: trials really write there
    #[arg(long, value_name = "PATH")]
    share: Vec<PathBuf>,
    /// Where trials are launched [default: local]
    #[arg(long, value_enum)]
    executor: Option<ExecutorArg>,
    /// Options of sbatch for each job of a trial, in one word: "--partition=gpu --gres=gpu:1"
    #[arg(long, value_name = "OPTIONS", value_parser = parse_words, allow_hyphen_values = true)]
    slurm: Option<Words>,
    /// Jobs of SLURM at a time [default: 1; inside an allocation one a node]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Start anew instead of going on with, or showing, an earlier search
    #[arg(long)]
    fresh: bool,
    /// Where autofit.env and .autofit/ go [default: here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print result.json's content to standard output
    #[arg(long)]
    json: bool,
    /// Accept what fits only one bound further, without asking
    #[arg(long)]
    yes: bool,
    /// Say less
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more
    #[arg(short, long)]
    verbose: bool,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct TryArgs {
    /// Settings, as knob=value, separated by commas
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    set: Vec<String>,
    /// Compare with this configuration instead of the script as it is
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    against: Vec<String>,
    /// Launch both this often, in turns, and say how sure the ratio is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Measure these in turns with the settings, all in one launch; a `;` stands between two of them
    #[arg(long, value_name = "KNOB=VALUE,...;...", action = ArgAction::Append, conflicts_with_all = ["against", "repeat"])]
    sweep: Vec<String>,
    #[command(flatten)]
    job: JobArgs,
}

#[derive(Debug, Args)]
struct ProfileArgs {
    /// Settings, as knob=value, separated by commas [default: the script as it is]
    #[arg(long, value_name = "KNOB=VALUE,...", action = ArgAction::Append)]
    set: Vec<String>,
    #[command(flatten)]
    job: JobArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The file that tuning wrote
    #[arg(long, value_name = "FILE", default_value = "autofit.env")]
    env: PathBuf,
    /// Run under this memory limit
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_cap: Option<u64>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct EmitArgs {
    /// What for
    #[arg(long, value_enum)]
    form: FormArg,
    /// The file that tuning wrote
    #[arg(long, value_name = "FILE", default_value = "autofit.env")]
    env: PathBuf,
    /// Nodes; with several the command must be torchrun
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Options of sbatch, in one word, after those that trials had: "--time=24:00:00"
    #[arg(long, value_name = "OPTIONS", value_parser = parse_words, allow_hyphen_values = true)]
    slurm: Option<Words>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct DiagnoseArgs {
    /// The log, - for standard input, or a search's folder: its latest launch that failed
    #[arg(value_name = "FILE|-|DIR", default_value = "-")]
    file: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing is broken (warnings included); 1 something is broken; 2 usage error."
)]
struct DoctorArgs {
    /// Print JSON: findings and the facts that they follow from
    #[arg(long)]
    json: bool,
    /// The Python that training has, after `--` [default: python, else python3, on PATH]
    #[arg(last = true, value_name = "PYTHON")]
    python: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "autofit watch [OPTIONS] -- COMMAND...\n       autofit watch [OPTIONS] --pid PID",
    after_help = "The command runs as it is: nothing is isolated, limited or turned, and it writes its files.\n\n\
    Exit status: the command's own (128+n for a signal); with --pid 0, 130 after Ctrl-C; 2 usage error; 6 the \
    record cannot be written; 126 and 127 could not execute."
)]
struct WatchArgs {
    /// Watch this process and those below it, from outside
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Print records as JSON lines to standard output; what the command prints goes to standard error
    #[arg(long)]
    json: bool,
    /// Print lines also on a terminal, and leave it to the command
    #[arg(long)]
    plain: bool,
    /// Write records as JSON lines to this file, too
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Time between two records [default: 1s] or lines [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    every: Option<Duration>,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
struct ReportArgs {
    /// Where a search was started, or its folder .autofit/ID; two of them are compared [default: here]
    #[arg(value_name = "DIR", num_args = 0..=2)]
    dirs: Vec<PathBuf>,
    /// Where the files go [default: beside the journal; of a comparison: here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Do not ask before downloading
    #[arg(long)]
    yes: bool,
    /// Where the demo works [default: ./autofit-demo]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Reads the command line.
///
/// # Errors
/// [`Exit`] with status 2 and one sentence on what to type instead; help and version are an `Exit` with status 0.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, Exit> {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = Cli::try_parse_from(&args).map_err(|e| explain(&e, &args))?;
    let line: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let job = |args| job(args, line.clone());
    match cli.sub {
        None => Ok(Request::Tune(job(cli.tune)?)),
        Some(Sub::Tune(args)) => Ok(Request::Tune(job(args)?)),
        Some(Sub::Plan(args)) => Ok(Request::Plan(job(args)?)),
        Some(Sub::Inspect(args)) => Ok(Request::Inspect(job(args)?)),
        Some(Sub::Try(args)) => {
            let TryArgs { set, against, repeat, sweep, job: args } = args;
            let windows = windows(&set, &sweep)?;
            let (settings, against) = (settings("--set", &set)?, settings("--against", &against)?);
            Ok(Request::Try(TryRequest { settings, against, repeat, windows, job: job(args)? }))
        }
        Some(Sub::Profile(args)) => {
            let settings = settings("--set", &args.set)?;
            Ok(Request::Profile(ProfileRequest { settings, job: job(args.job)? }))
        }
        Some(Sub::Run(args)) => {
            Ok(Request::Run(RunRequest { env: args.env, memory_cap: args.memory_cap, command: args.command }))
        }
        Some(Sub::Emit(EmitArgs { form: FormArg::Sbatch, env, nodes, slurm, command })) => {
            let slurm = slurm.map(|w| w.0).unwrap_or_default();
            Ok(Request::Emit(EmitRequest { env, nodes, slurm, command }))
        }
        Some(Sub::Node { order }) => Ok(Request::Node(order)),
        Some(Sub::Diagnose(args)) => {
            Ok(Request::Diagnose(DiagnoseRequest { file: args.file, json: args.json }))
        }
        Some(Sub::Watch(args)) => Ok(Request::Watch(watch(args)?)),
        Some(Sub::Doctor(args)) => Ok(Request::Doctor { python: args.python, json: args.json }),
        Some(Sub::Recipe { what: RecipeSub::Check { file } }) => Ok(Request::RecipeCheck(file)),
        Some(Sub::Recipe { what: RecipeSub::List }) => Ok(Request::RecipeList),
        Some(Sub::Report(args)) => Ok(Request::Report(ReportRequest { places: args.dirs, out: args.out })),
        Some(Sub::Demo(args)) => Ok(Request::Demo { yes: args.yes, keep: args.keep }),
    }
}

fn job(args: JobArgs, invocation: Vec<String>) -> Result<Job, Exit> {
    if args.command.is_empty() && args.recipe.is_none() {
        return Err(Exit::new(
            exit::USAGE,
            "there is no command to tune; type it after `--`, for example: autofit -- python train.py",
        ));
    }
    Ok(Job {
        command: args.command,
        invocation,
        recipe: args.recipe,
        device: match args.device {
            DeviceArg::Auto => DeviceChoice::Auto,
            DeviceArg::Cuda => DeviceChoice::Cuda,
            DeviceArg::Cpu => DeviceChoice::Cpu,
        },
        memory_cap: args.memory_cap,
        batch: match (args.batch, args.max_batch) {
            (None, None) => None,
            (None, Some(_)) | (Some(BatchArg::Max), _) => Some(BatchPolicy::Max),
            (Some(BatchArg::Keep), _) => Some(BatchPolicy::Keep),
            (Some(BatchArg::Lower), _) => Some(BatchPolicy::Lower),
        },
        max_batch: args.max_batch,
        numerics: args.numerics.map(|n| match n {
            NumericsArg::Exact => NumericsClass::Exact,
            NumericsArg::Distribution => NumericsClass::Distribution,
            NumericsArg::Precision => NumericsClass::Precision,
            NumericsArg::Dynamics => NumericsClass::Dynamics,
        }),
        budget: args.budget,
        max_trials: args.max_trials,
        trial_timeout: args.trial_timeout,
        isolate: match args.isolate {
            IsolateArg::Auto => IsolationChoice::Auto,
            IsolateArg::Overlay => IsolationChoice::Overlay,
            IsolateArg::Landlock => IsolationChoice::Landlock,
            IsolateArg::Copy => IsolationChoice::Copy,
            IsolateArg::None => IsolationChoice::None,
        },
        share: args.share,
        executor: args.executor.map(|e| match e {
            ExecutorArg::Local => Executor::Local,
            ExecutorArg::Slurm => Executor::Slurm,
        }),
        slurm: args.slurm.map(|w| w.0).unwrap_or_default(),
        jobs: args.jobs,
        fresh: args.fresh,
        out: args.out,
        json: args.json,
        yes: args.yes,
        verbosity: match (args.quiet, args.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        },
    })
}

fn watch(args: WatchArgs) -> Result<WatchRequest, Exit> {
    let target = match (args.pid, args.command.is_empty()) {
        (Some(pid), true) => Target::Pid(pid),
        (None, false) => Target::Command(args.command),
        (Some(_), false) => {
            return Err(Exit::new(
                exit::USAGE,
                "--pid and a command after `--` are two things; give one of them",
            ));
        }
        (None, true) => {
            let message =
                "there is nothing to watch; type a command after `--`, or name a process with --pid";
            return Err(Exit::new(exit::USAGE, message));
        }
    };
    let WatchArgs { json, plain, record, every, .. } = args;
    Ok(WatchRequest { target, json, plain, record, every })
}

fn settings(option: &str, sets: &[String]) -> Result<Configuration, Exit> {
    let wrong = |e: String| Exit::new(exit::USAGE, format!("{option}: {e}"));
    let mut settings = Configuration::baseline();
    for part in sets.iter().flat_map(|s| split_settings(s)) {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            Exit::new(
                exit::USAGE,
                format!("{option} takes knob=value, as in {option} amp=bf16; `{part}` has no `=`"),
            )
        })?;
        let knob: Knob = name.trim().parse().map_err(wrong)?;
        let value = knob.parse_value(value.trim()).map_err(wrong)?;
        settings = settings.with(knob, value);
    }
    Ok(settings)
}

/// `amp=bf16;checkpoint=all`: each is joined to what `--set` says.
fn windows(sets: &[String], sweeps: &[String]) -> Result<Vec<Configuration>, Exit> {
    let own = settings("--set", sets)?;
    let texts = sweeps.iter().flat_map(|s| s.split(';')).map(str::trim).filter(|s| !s.is_empty());
    texts
        .map(|text| {
            let other = settings("--sweep", &[text.to_owned()])?;
            let window = Configuration(own.0.clone().into_iter().chain(other.0).collect());
            if own.turns_into(&window) {
                return Ok(window);
            }
            let message =
                format!("--sweep: `{text}` cannot be turned between two steps of a launch; use `--set`");
            Err(Exit::new(exit::USAGE, message))
        })
        .collect()
}

/// Splits at commas, but only where a `knob=` follows: allocator settings have commas of their own.
fn split_settings(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match parts.last_mut() {
            Some(last) if !piece.contains('=') => {
                last.push(',');
                last.push_str(piece);
            }
            _ => parts.push(piece.to_owned()),
        }
    }
    parts.retain(|p| !p.trim().is_empty());
    parts
}

/// Words of another program, as typed in a shell.
#[derive(Debug, Clone)]
struct Words(Vec<String>);

fn parse_words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|e| format!("`{text}`: {e}"))?;
    match words.iter().find(|w| !w.starts_with('-')) {
        Some(word) => Err(format!("`{word}` is no option; write each as one word, as in --partition=gpu")),
        None => Ok(Words(words)),
    }
}

/// Reads `90`, `500ms`, `90s`, `10m`, `1.5h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is not a time; write it like 90s, 10m or 1h")),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(Duration::from_secs_f64(n * factor)),
        _ => Err(format!("`{text}` is not a time; write it like 90s, 10m or 1h")),
    }
}

/// One sentence on what to type instead.
fn explain(error: &clap::Error, args: &[OsString]) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::new(exit::TUNED, error.to_string()),
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => misplaced_word(args)
            .map_or_else(|| Exit::new(exit::USAGE, plain(error)), |m| Exit::new(exit::USAGE, m)),
        ErrorKind::InvalidUtf8 => Exit::new(exit::USAGE, not_utf8(args)),
        _ => Exit::new(exit::USAGE, plain(error)),
    }
}

/// Names the word of autofit's own that cannot be read.
fn not_utf8(args: &[OsString]) -> String {
    let word = args.iter().take_while(|a| *a != "--").find(|a| a.to_str().is_none());
    format!("the word {} is not UTF-8", word.map_or_else(String::new, |w| w.display().to_string()))
}

/// A first word that is no subcommand: a typo of one, or a command without its `--`.
fn misplaced_word(args: &[OsString]) -> Option<String> {
    let at = args.iter().skip(1).position(|a| !a.to_string_lossy().starts_with('-'))? + 1;
    let word = args[at].to_string_lossy();
    let subcommands = Cli::command();
    let names: Vec<_> = subcommands.get_subcommands().map(clap::Command::get_name).collect();
    if names.iter().any(|n| *n == word) {
        return None;
    }
    if let Some(near) =
        names.iter().find(|n| !word.contains(['.', '/']) && strsim::damerau_levenshtein(n, &word) <= 2)
    {
        return Some(format!("there is no subcommand `{word}`; did you mean `{near}`?"));
    }
    if args.iter().any(|a| a == "--") {
        return None;
    }
    let rest: Vec<_> =
        args[at..].iter().map(|a| shell_words::quote(&a.to_string_lossy()).into_owned()).collect();
    Some(format!("put `--` before the command to tune: autofit -- {}", rest.join(" ")))
}

/// clap's own message without its `error: ` head, which `main` prints.
fn plain(error: &clap::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, Exit> {
        parse(std::iter::once("autofit".into()).chain(line.split_whitespace().map(OsString::from)))
    }

    fn message(line: &str) -> String {
        let e = request(line).unwrap_err();
        assert_eq!(e.status, exit::USAGE);
        e.message
    }

    #[test]
    fn the_command_stands_after_two_dashes() {
        let Request::Tune(job) = request("--memory-cap 1.5GiB -- python train.py --lr 1").unwrap() else {
            panic!("not tune");
        };
        assert_eq!(job.memory_cap, Some(3 << 29));
        assert_eq!(job.command, ["python", "train.py", "--lr", "1"]);
        assert!(matches!(request("tune -- python train.py"), Ok(Request::Tune(_))));
        assert!(matches!(request("--recipe fsdp"), Ok(Request::Tune(_))));
    }

    #[test]
    fn a_command_without_dashes_is_told_where_they_go() {
        assert_eq!(
            message("python train.py --lr 3"),
            "put `--` before the command to tune: autofit -- python train.py --lr 3"
        );
        assert!(message("inspct -- python train.py").contains("inspect"));
        assert!(message("").contains("autofit -- python train.py"));
    }

    #[test]
    fn settings_keep_the_commas_of_allocator_values() {
        let Request::Try(t) = request(
            "try --set amp=bf16,allocator=expandable_segments:True,max_split_size_mb:128,checkpoint=all -- python t.py",
        )
        .unwrap() else {
            panic!("not try");
        };
        assert_eq!(t.settings.text(Knob::Allocator), Some("expandable_segments:True,max_split_size_mb:128"));
        assert_eq!(t.settings.0.len(), 3);
        assert!(message("try --set ampp=bf16 -- x").contains("did you mean `amp`"));
        assert!(message("try --set amp -- x").contains("no `=`"));
    }

    #[test]
    fn a_sweep_names_several_configurations_that_can_be_turned_between_steps() {
        let line = "try --set optimizer=fused --sweep amp=bf16;checkpoint=all,batch_size=8; -- python t.py";
        let Request::Try(t) = request(line).unwrap() else { panic!("not try") };
        let windows: Vec<String> = t.windows.iter().map(ToString::to_string).collect();
        assert_eq!(windows, ["amp=bf16, optimizer=fused", "batch_size=8, checkpoint=all, optimizer=fused"]);
        assert!(message("try --sweep malloc=retain -- x").contains("between two steps"));
        assert!(message("try --sweep amp=bf17 -- x").contains("--sweep: `amp` takes"));
        assert!(message("try --sweep amp=bf16 --repeat 2 -- x").contains("cannot be used with"));
    }

    #[test]
    fn a_report_is_of_one_search_or_of_two() {
        let places = |line: &str| match request(line) {
            Ok(Request::Report(r)) => r.places.len(),
            _ => panic!("not report: {line}"),
        };
        assert_eq!((places("report"), places("report a"), places("report a b --out c")), (0, 1, 2));
        assert!(message("report a b c").contains("unexpected value 'c'"));
    }

    #[test]
    fn options_for_slurm_are_one_word() {
        let line = ["autofit", "--executor", "slurm", "--slurm", "--partition=gpu --gres=gpu:1", "--", "x"];
        let Request::Tune(job) = parse(line.map(OsString::from)).unwrap() else { panic!("not tune") };
        assert_eq!((job.executor, job.slurm.len()), (Some(Executor::Slurm), 2));
        assert!(message("--slurm gpu -- x").contains("`gpu` is no option"));
    }

    #[test]
    fn sizes_and_times_are_checked() {
        assert!(message("--memory-cap lots -- x").contains("24GiB"));
        assert!(message("--budget soon -- x").contains("90s"));
        let Request::Tune(job) = request("--budget 2m --max-batch 64 -- x").unwrap() else {
            panic!("not tune")
        };
        assert_eq!(job.budget, Some(Duration::from_secs(120)));
        assert_eq!(job.batch, Some(BatchPolicy::Max));
    }
}
