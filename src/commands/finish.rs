//! The end of a search: result.json, autofit.env, the summary, the exit status.

use anyhow::Context as _;

use super::tune::End;
use super::workplace::Workplace;
use super::{Job, Verbosity, terminal};
use crate::emit::config::ConfirmedFigures;
use crate::emit::fingerprint::Fingerprint;
use crate::emit::{RunDocument, env};
use crate::exit::{self, Exit};
use crate::journal::Journal;
use crate::model::plan::Device;
use crate::model::{Observation, Progress, Purpose, TrialSpec, Verdict};
use crate::report::assemble::SummaryInput;
use crate::report::machine::Machine;
use crate::report::result::{Advice, Files, Isolation, Skipped, Status};
use crate::report::style::{Stream, Style};
use crate::report::{TuneResult, table, words};
use crate::trial::local::LocalExecutor;
use crate::trial::prepare::for_production;

/// A search that is finished says so and shows its result again.
///
/// # Errors
/// When the result cannot be printed.
pub fn show_finished(journal: &Journal, job: &Job) -> anyhow::Result<Option<i32>> {
    if journal.finished().is_none() {
        return Ok(None);
    }
    let Some(value) = journal.read_result() else { return Ok(None) };
    let Ok(result) = serde_json::from_value::<TuneResult>(value) else { return Ok(None) };
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
pub fn emit<P: FnMut(Progress)>(
    place: &Workplace,
    job: &Job,
    journal: &mut Journal,
    executor: &LocalExecutor<P>,
    history: &[Observation],
    end: End,
    seconds: f64,
) -> anyhow::Result<i32> {
    let (status, outcome) = match end {
        End::Stopped(outcome) => (status_of(&outcome, history), Some(outcome)),
        End::Interrupted(status) => (status, None),
    };
    let winner = match &outcome {
        Some(outcome) => outcome.winner,
        None => best_so_far(history),
    };
    let env_path = place.out.join("autofit.env");
    let chosen = winner.and_then(|n| history.iter().find(|o| o.trial == n));
    let usable = matches!(status, Status::Tuned | Status::Interrupted | Status::Terminated);
    let mut files = Files { directory: Some(shown(journal.dir(), place)), ..Files::default() };
    if let Some(winner) = chosen.filter(|_| usable) {
        let document = document(place, executor, winner);
        let text = env::render(&document, &head(place, winner))?;
        env::write(&env_path, &text).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
        files.env = Some(shown(&env_path, place));
    }
    files.result = Some(shown(&journal.dir().join("result.json"), place));
    let input = SummaryInput {
        id: journal.id().to_owned(),
        status,
        reason: outcome.as_ref().map(|o| o.reason.clone()).unwrap_or_default(),
        command: place.command.clone(),
        invocation: std::env::args().collect(),
        directory: place.cwd.display().to_string(),
        device: place.device,
        machine: machine(place, history),
        cap: history.first().map_or_else(|| place.cap.clone(), |o| o.cap.clone()),
        isolation: isolation(place, job),
        inspection: executor.inspection().cloned(),
        observations: history.to_vec(),
        predictions: Default::default(),
        winner,
        advice: outcome.as_ref().map(|o| o.advice.iter().map(advice).collect()).unwrap_or_default(),
        skipped: outcome.as_ref().map(|o| o.skipped.iter().map(skipped).collect()).unwrap_or_default(),
        notes: journal.notes().to_vec(),
        seconds,
        files,
    };
    let result = TuneResult::assemble(&input);
    journal.write_result(&result).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
    if !matches!(status, Status::Interrupted | Status::Terminated) {
        let reason = result.reason.clone();
        journal.finish(&reason, result.exit_status).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
    }
    show(&result, job)?;
    Ok(result.exit_status)
}

fn show(result: &TuneResult, job: &Job) -> anyhow::Result<()> {
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

fn status_of(outcome: &Outcome, history: &[Observation]) -> Status {
    match outcome.end {
        OutcomeEnd::Tuned => Status::Tuned,
        OutcomeEnd::NothingFits => Status::NothingFits,
        OutcomeEnd::ScriptFails => match history.last().map(|o| o.verdict) {
            Some(Verdict::AgentMissing) => Status::AgentMissing,
            _ => Status::ScriptFails,
        },
    }
}

/// The fastest that was seen to fit, when the user stopped the search before one was confirmed.
fn best_so_far(history: &[Observation]) -> Option<u32> {
    let fits = history.iter().filter(|o| o.purpose != Purpose::Advice);
    let rate = |o: &Observation| o.throughput().unwrap_or(0.0);
    fits.filter(|o| o.throughput().is_some()).max_by(|a, b| rate(a).total_cmp(&rate(b))).map(|o| o.trial)
}

fn document<P: FnMut(Progress)>(
    place: &Workplace,
    executor: &LocalExecutor<P>,
    winner: &Observation,
) -> RunDocument {
    let spec = TrialSpec { settings: winner.settings.clone(), purpose: Purpose::Confirm };
    let prepared = executor.prepare(&spec);
    let inspection = executor.inspection();
    let frameworks = inspection.map(|i| i.frameworks.clone()).unwrap_or_default();
    let confirmed = winner.purpose == Purpose::Confirm;
    let effective = winner.knobs.iter().filter_map(|k| Some((k.knob, k.effective.clone()?)));
    RunDocument {
        plan: for_production(&prepared),
        args: prepared.added_args,
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
    }
}

fn head(place: &Workplace, winner: &Observation) -> env::Head {
    let figures = winner.timing.as_ref().map(|t| format!("{} {}", words::throughput(t), words::unit(t)));
    let confirmed = match winner.purpose {
        Purpose::Confirm => "confirmed by a launch of its own",
        _ => "NOT confirmed: the search was stopped before",
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

/// As the user would name it from where they stand.
fn shown(path: &std::path::Path, place: &Workplace) -> String {
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
