//! The end of a search: result.json, autofit.env, the summary, the exit status.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::bench::Bench;
use super::tune::{End, midway};
use super::workplace::Workplace;
use super::{Job, TryRequest, Verbosity, report, terminal};
use crate::emit::config::ConfirmedFigures;
use crate::emit::fingerprint::Fingerprint;
use crate::emit::{RunDocument, env};
use crate::exit::{self, Exit};
use crate::journal::{GOES_ON, Journal};
use crate::model::observation::ProcessEnd;
use crate::model::plan::Device;
use crate::model::{Configuration, Observation, Progress, Purpose, TrialSpec, Verdict};
use crate::report::assemble::{SummaryInput, proof_of};
use crate::report::machine::{Accelerator, Machine};
use crate::report::result::{Advice, Compared, Files, Isolation, Prediction, Skipped, Status};
use crate::report::style::{Stream, Style};
use crate::report::{TuneResult, table, words};
use crate::sandbox::SandboxPlan;
use crate::search::{self, Expected, Outcome, OutcomeEnd};
use crate::trial::Launches;
use crate::trial::any::AnyExecutor;
use crate::trial::prepare::for_production;

/// How the agent's word begins where it refuses a PyTorch that is too old (`bootstrap.py`).
const TOO_OLD: &str = "autofit: PyTorch ";

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
        let document = document(place, &bench.executor, winner);
        let text = env::render(&document, &head(place, winner, history))?;
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

/// The baseline could not even be looked at: says why, with the status for it.
///
/// # Errors
/// [`Exit`] 5 when the agent did not start, 6 when there is no torch.
pub fn refuse_unusable(baseline: &Observation) -> Result<(), Exit> {
    let tail = || baseline.tail.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join("\n  ");
    let no_torch = baseline.tail.iter().any(|l| l.contains("No module named 'torch'"));
    if no_torch {
        let message = format!(
            "the script's Python has no torch; install it there, or name another Python before the script:\n  {}",
            tail()
        );
        return Err(Exit::new(exit::PLACE, message));
    }
    if let Some(old) = baseline.tail.iter().find_map(|l| l.strip_prefix(TOO_OLD)) {
        let message =
            format!("PyTorch {old}; install a newer one for the script, or name another Python before it");
        return Err(Exit::new(exit::PLACE, message));
    }
    if baseline.verdict == Verdict::AgentMissing {
        let message = format!(
            "{}; python -I, -E and -S switch the agent off, as does a cleared environment: leave that out for tuning",
            baseline.why
        );
        return Err(Exit::new(exit::AGENT_MISSING, message));
    }
    if !baseline.torch && baseline.steps == 0 && baseline.end == (ProcessEnd::Exited { code: 0 }) {
        let message =
            "the script came to its end without importing torch: there is nothing to tune".to_owned();
        return Err(Exit::new(exit::PLACE, message));
    }
    Ok(())
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

fn document<P: FnMut(Progress)>(
    place: &Workplace,
    executor: &AnyExecutor<P>,
    winner: &Observation,
) -> RunDocument {
    let spec = TrialSpec::new(winner.settings.clone(), Purpose::Confirm);
    let prepared = executor.prepare(&spec);
    let inspection = executor.inspection();
    let frameworks = inspection.map(|i| i.frameworks.clone()).unwrap_or_default();
    let confirmed = winner.purpose == Purpose::Confirm;
    let effective = winner.knobs.iter().filter_map(|k| Some((k.knob, k.effective.clone()?)));
    RunDocument {
        plan: for_production(&prepared),
        edits: prepared.edits,
        env: prepared.env,
        fingerprint: Fingerprint {
            python: frameworks.get("python").cloned(),
            packages: frameworks,
            device: device_name(place),
            cap_bytes: place.cap.bytes,
            ..Fingerprint::of_command(&place.command, &place.cwd)
        },
        confirmed: ConfirmedFigures {
            samples_per_second: winner.throughput().filter(|_| confirmed),
            peak_bytes: winner.peak(),
            settings: Configuration(effective.collect()),
        },
        slurm: place.cluster.as_ref().map(|_| place.recipe.slurm.words()).unwrap_or_default(),
        nodes: place.cluster.as_ref().map(|cluster| cluster.nodes).filter(|nodes| *nodes > 1),
    }
}

fn head(place: &Workplace, winner: &Observation, history: &[Observation]) -> env::Head {
    let figures = winner.timing.as_ref().map(words::throughput);
    let confirmed = match winner.purpose {
        Purpose::Confirm => "in a launch of its own",
        _ => "NO, the search was stopped before",
    };
    env::Head {
        command: place.command.clone(),
        tuned: today(),
        settings: winner.settings.to_string(),
        confirmed: format!(
            "{confirmed}; {}, peak {}",
            figures.unwrap_or_default(),
            words::bytes(winner.peak())
        ),
        cap: words::cap(&winner.cap),
        proved: proof_of(winner, history).map(|proof| {
            format!("needs at most {}, enforced in a launch of its own", words::bytes(proof.cap.bytes))
        }),
    }
}

/// `2026-01-31`, in UTC.
fn today() -> String {
    let days = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() / 86_400);
    civil(days as i64)
}

/// Days since 1970-01-01 to a date (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> String {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn device_name(place: &Workplace) -> String {
    match place.device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda => {
            let first = place.visible.first().and_then(|i| place.machine.gpus.get(*i));
            first.map_or_else(|| "cuda".to_owned(), |g| g.name.clone())
        }
    }
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

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(11_016), "2000-02-29");
        assert_eq!(civil(20_780), "2026-11-23");
    }
}
