//! The end of a search: result.json, autofit.env, the summary, the exit status.

mod production;
mod unusable;

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::bench::Bench;
use super::tune::{End, midway};
use super::workplace::Workplace;
use super::{Job, TryRequest, Verbosity, report, terminal};
use crate::emit::env;
use crate::exit::{self, Exit};
use crate::journal::{GOES_ON, Journal};
use crate::model::{Observation, Purpose};
use crate::report::assemble::SummaryInput;
use crate::report::machine::{Accelerator, Machine};
use crate::report::result::{Advice, Compared, Files, Isolation, Prediction, Skipped, Status};
use crate::report::style::{Stream, Style};
use crate::report::{TuneResult, table};
use crate::sandbox::SandboxPlan;
use crate::search::{self, Expected, Outcome, OutcomeEnd};
use crate::trial::Launches;
pub use unusable::refuse_unusable;

/// A search that is finished says so and shows its result again.
///
/// # Errors
/// When the result cannot be printed.
pub fn show_finished(journal: &Journal, place: &Workplace, job: &Job) -> anyhow::Result<Option<i32>> {
    if journal.finished().is_none() {
        return Ok(None);
    }
    let Some(value) = journal.read_result() else { return Ok(None) };
    let Ok(result) = serde_json::from_value::<TuneResult>(value) else { return Ok(None) };
    if job.yes && result.status == Status::NothingFits {
        // What it would take is accepted now: the search goes on from what was measured.
        return Ok(None);
    }
    let proof = result.trials.iter().any(|t| t.purpose == Purpose::Prove);
    if place.recipe.limits.prove_peak && result.confirmed.is_some() && !proof {
        // One launch more, after what was measured.
        return Ok(None);
    }
    if job.verbosity != Verbosity::Quiet {
        terminal::say("this search is finished; this is its result (--fresh starts it anew)\n");
    }
    show(&result, job)?;
    Ok(Some(result.exit_status))
}

/// Writes what is to be written and says how it ended.
///
/// # Errors
/// [`Exit`] with status 6 when a file cannot be written, 5 and 6 when the agent or torch is missing.
pub fn emit(
    place: &Workplace,
    job: &Job,
    journal: &mut Journal,
    bench: &Bench,
    history: &[Observation],
    end: End,
) -> anyhow::Result<i32> {
    if let Some(first) = history.first() {
        refuse_unusable(first)?;
    }
    let (status, outcome) = match end {
        End::Stopped(outcome) => (status_of(&outcome), Some(outcome)),
        End::Interrupted(status) => (status, None),
    };
    let winner = outcome.as_ref().map_or_else(|| best_so_far(history), |o| o.winner);
    let chosen = winner.and_then(|n| history.iter().find(|o| o.trial == n));
    let mut files = Files { directory: Some(shown(journal.dir(), place)), ..Files::default() };
    if let Some(winner) = chosen {
        let env_path = place.out.join("autofit.env");
        let document = production::document(place, &bench.executor, winner);
        let text = env::render(&document, &production::head(place, winner, history))?;
        env::write(&env_path, &text, journal.dir()).map_err(not_written)?;
        files.env = Some(shown(&env_path, place));
    }
    files.result = Some(shown(&journal.dir().join("result.json"), place));
    let outcome = outcome.as_deref();
    let input = SummaryInput {
        id: journal.id().to_owned(),
        status,
        reason: outcome.map(|o| o.reason.clone()).unwrap_or_default(),
        winner,
        advice: outcome.map(|o| o.advice.iter().map(advice).collect()).unwrap_or_default(),
        skipped: outcome.map(|o| o.skipped.iter().map(skipped).collect()).unwrap_or_default(),
        notes: journal.notes().iter().chain(outcome.iter().flat_map(|o| &o.notes)).cloned().collect(),
        files,
        predictions: predictions(place, history),
        ..input(place, job, bench, history)
    };
    let mut result = TuneResult::assemble(&input);
    let [html, markdown] =
        [report::HTML, report::MARKDOWN].map(|name| Some(shown(&journal.dir().join(name), place)));
    (result.files.report, result.files.markdown) = (html, markdown);
    if let Err(e) = report::write(journal.dir(), &result, history) {
        // The search has its answer all the same.
        (result.files.report, result.files.markdown) = (None, None);
        result.notes.push(format!("the report could not be written ({e}); `autofit report` makes it again"));
    }
    journal.write_result(&result).map_err(midway)?;
    if !matches!(status, Status::Interrupted | Status::Terminated) {
        let reason = result.reason.clone();
        journal.finish(&reason, result.exit_status).map_err(midway)?;
    }
    show(&result, job)?;
    Ok(result.exit_status)
}

/// `autofit.env` was refused after all: another folder would not have what was measured.
fn not_written(error: env::EnvError) -> Exit {
    let what = match &error {
        env::EnvError::NotWritable { path, kind } => format!("{} cannot be written ({kind})", path.display()),
        other => other.to_string(),
    };
    Exit::new(exit::PLACE, format!("{what}; {GOES_ON}"))
}

/// The result of `autofit try`: no search, no files.
pub fn of_try(
    place: &Workplace,
    request: &TryRequest,
    bench: &Bench,
    history: &[Observation],
    compared: Option<Compared>,
) -> TuneResult {
    let tried = |o: &&Observation| o.settings == request.settings && o.throughput().is_some();
    let fits = history.iter().rev().find(tried);
    TuneResult::assemble(&SummaryInput {
        status: if fits.is_some() { Status::Tuned } else { Status::NothingFits },
        reason: "this was measured; nothing was searched or written".to_owned(),
        winner: fits.map(|o| o.trial),
        compared,
        ..input(place, &request.job, bench, history)
    })
}

/// What every summary has.
fn input(place: &Workplace, job: &Job, bench: &Bench, history: &[Observation]) -> SummaryInput {
    SummaryInput {
        id: String::new(),
        status: Status::Tuned,
        reason: String::new(),
        command: place.command.clone(),
        invocation: job.invocation.clone(),
        directory: place.cwd.display().to_string(),
        device: place.device,
        machine: machine(place, history),
        cap: history.first().map_or_else(|| place.cap.clone(), |o| o.cap.clone()),
        isolation: bench.isolation.clone(),
        inspection: bench.executor.inspection().cloned(),
        observations: history.to_vec(),
        predictions: BTreeMap::new(),
        winner: None,
        advice: Vec::new(),
        skipped: Vec::new(),
        notes: Vec::new(),
        compared: None,
        seconds: bench.clock.spent(),
        files: Files::default(),
    }
}

/// What the search expected of each launch when it chose it.
fn predictions(place: &Workplace, history: &[Observation]) -> BTreeMap<u32, Prediction> {
    let plan = place.search_plan(history);
    let shown = |e: Expected| Prediction { samples_per_second: e.rate, peak_bytes: e.peak_bytes };
    search::expectations(&plan, history).into_iter().map(|(trial, e)| (trial, shown(e))).collect()
}

/// Prints a result: for people, or as JSON.
///
/// # Errors
/// When it cannot be serialised.
pub fn show(result: &TuneResult, job: &Job) -> anyhow::Result<()> {
    if job.json {
        terminal::print(&result.to_json().context("result.json")?);
        if job.verbosity != Verbosity::Quiet {
            terminal::say(&table::summary(result, Style::of(Stream::Stderr)));
        }
    } else {
        terminal::print(&table::summary(result, Style::of(Stream::Stdout)));
    }
    Ok(())
}

fn status_of(outcome: &Outcome) -> Status {
    match outcome.end {
        OutcomeEnd::Tuned => Status::Tuned,
        OutcomeEnd::NothingFits => Status::NothingFits,
        OutcomeEnd::ScriptFails => Status::ScriptFails,
        OutcomeEnd::AgentMissing => Status::AgentMissing,
        OutcomeEnd::Unconfirmed => Status::NothingFits,
    }
}

/// When the user stopped the search: what was confirmed, or the fastest that was seen to fit.
pub(super) fn best_so_far(history: &[Observation]) -> Option<u32> {
    let confirmed = history.iter().rev().find(|o| o.purpose == Purpose::Confirm && o.throughput().is_some());
    // With less memory than there is it may have been slower than it is.
    let fits = history.iter().filter(|o| !matches!(o.purpose, Purpose::Advice | Purpose::Prove));
    let rate = |o: &Observation| o.throughput().unwrap_or(0.0);
    let fastest = fits.filter(|o| o.throughput().is_some()).max_by(|a, b| rate(a).total_cmp(&rate(b)));
    confirmed.or(fastest).map(|o| o.trial)
}

fn machine(place: &Workplace, history: &[Observation]) -> Machine {
    let facts = &place.machine;
    let frameworks = history.iter().find_map(|o| o.inspection.as_ref()).map(|i| i.frameworks.clone());
    let mut packages = frameworks.unwrap_or_default();
    let python = packages.remove("python");
    let devices = place.visible.iter().filter_map(|i| facts.gpus.get(*i)).map(|g| Accelerator {
        name: g.name.clone(),
        memory_bytes: g.total_bytes,
        driver: facts.driver.clone(),
    });
    let host = place.cluster.as_ref().map_or_else(Machine::host, |cluster| cluster.host.clone());
    Machine { devices: devices.collect(), python, packages, ..host }
}

/// How trials are kept from changing the user's files, for reports.
pub fn isolation(sandbox: &SandboxPlan) -> Isolation {
    Isolation {
        mechanism: sandbox.kind.name().to_owned(),
        covers: sandbox.covers.join(", "),
        not_covered: sandbox.does_not_cover.clone(),
    }
}

fn advice(advice: &search::Advice) -> Advice {
    Advice { text: advice.text.clone(), trial: advice.trial, option: advice.option.clone() }
}

fn skipped(skipped: &search::Skipped) -> Skipped {
    Skipped { what: skipped.what.clone(), why: skipped.why.clone() }
}

/// As the user would name it from where they stand.
pub fn shown(path: &std::path::Path, place: &Workplace) -> String {
    path.strip_prefix(&place.cwd).unwrap_or(path).display().to_string()
}
