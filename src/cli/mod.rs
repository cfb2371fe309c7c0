//! Arguments -> [`Request`].
//!
//! **Architecture invariant:** the only room that knows clap.

mod args;
mod mistakes;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;

use clap::Parser as _;

use args::{
    BatchArg, Cli, DeviceArg, EmitArgs, ExecutorArg, FormArg, IsolateArg, JobArgs, NumericsArg, RecipeSub,
    Sub, TryArgs, WatchArgs,
};
use mistakes::explain;

use crate::commands::emit::EmitRequest;
use crate::commands::profile::ProfileRequest;
use crate::commands::report::ReportRequest;
use crate::commands::watch::{Target, WatchRequest};
use crate::commands::{
    BatchPolicy, DeviceChoice, DiagnoseRequest, IsolationChoice, Job, Request, RunRequest, TryRequest,
    Verbosity,
};
use crate::exit::{self, Exit};
use crate::model::{Configuration, Knob, NumericsClass};
use crate::recipe::Executor;

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
        margin: args.margin,
        prove_peak: args.prove_peak,
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
