//! `autofit try --set ... -- COMMAND`: the script as it is, then with one configuration, side by side.

use super::bench::Bench;
use super::workplace::Workplace;
use super::{TryRequest, finish, terminal};
use crate::exit::{self, Exit};
use crate::model::{Configuration, Observation, Progress, Purpose, TrialSpec, Verdict};
use crate::trial::Executor;

/// Measures; the program's exit status.
///
/// # Errors
/// [`Exit`] for what the user can mend.
pub async fn run(request: TryRequest) -> anyhow::Result<i32> {
    let TryRequest { settings, job } = request;
    let place = Workplace::open(&job)?;
    let mut bench = Bench::open(&place, &job, &[])?;
    // The baseline also tells how each knob is turned, and what the figures are relative to.
    let mut history: Vec<Observation> = Vec::new();
    for (settings, purpose) in [(Configuration::baseline(), Purpose::Baseline), (settings, Purpose::Climb)] {
        if let Some(inspection) = bench.executor.inspection() {
            refuse_what_cannot_be_turned(&settings, inspection)?;
        }
        let observation = bench.executor.run(&TrialSpec { settings, purpose }).await?;
        bench.tell(&Progress::TrialEnded(Box::new(observation.clone())));
        if observation.verdict == Verdict::Interrupted {
            bench.finish_reporting();
            return Ok(bench.signals.status().exit_status());
        }
        history.push(observation);
        finish::refuse_unusable(&history[0])?;
    }
    bench.finish_reporting();
    let result = finish::of_one_configuration(&place, &job, &bench, &history);
    finish::show(&result, &job)?;
    let verdict = history.last().map(|o| o.verdict);
    // A disturbed one ran within the limit as well; only its speed is uncertain.
    let fits = history.last().is_some_and(|o| o.throughput().is_some());
    if !fits {
        terminal::say("autofit: this configuration was not measured to fit\n");
    }
    Ok(match verdict {
        _ if fits => exit::TUNED,
        Some(Verdict::Failed | Verdict::Timeout) => exit::SCRIPT_FAILS,
        _ => exit::NOTHING_FITS,
    })
}

fn refuse_what_cannot_be_turned(
    settings: &Configuration,
    inspection: &crate::model::Inspection,
) -> Result<(), Exit> {
    for knob in settings.0.keys() {
        let site = inspection.knobs.iter().find(|s| s.knob == *knob);
        if let Some(why) = site.and_then(|s| s.why_not.as_ref()) {
            return Err(Exit::new(exit::USAGE, format!("`{knob}` cannot be turned for this script: {why}")));
        }
    }
    Ok(())
}
