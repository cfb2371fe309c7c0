//! `autofit try --set ... [--against ...] [--repeat N] -- COMMAND`: two configurations side by side, one of them the
//! script as it is unless something else is named.  With `--sweep`, several in one launch.

use super::bench::Bench;
use super::workplace::Workplace;
use super::{TryRequest, finish, terminal};
use crate::exit::{self, Exit};
use crate::model::{Configuration, Observation, Progress, Purpose, TrialSpec, Verdict};
use crate::report::result::Compared;
use crate::trial::{Executor, Launches};
use crate::verdict::compare::compare;

/// Measures; the program's exit status.
///
/// # Errors
/// [`Exit`] for what the user can mend.
pub async fn run(request: TryRequest) -> anyhow::Result<i32> {
    let place = Workplace::open(&request.job).await?;
    let mut bench = Bench::open(&place, &request.job, &[])?;
    let mut history: Vec<Observation> = Vec::new();
    for spec in launches(&request) {
        // What did not run once is not launched again; the other one still is, its spread is worth knowing.
        if history.iter().any(|o| o.settings == spec.settings && !runs(o)) {
            continue;
        }
        if let Some(inspection) = bench.executor.inspection() {
            refuse_what_cannot_be_turned(&spec.settings, inspection)?;
        }
        let trial = u32::try_from(history.len() + 1).unwrap_or(u32::MAX);
        let observation = bench.executor.run(trial, &spec).await?;
        bench.tell(&Progress::TrialEnded(Box::new(observation.clone())));
        if observation.verdict == Verdict::Interrupted {
            bench.finish_reporting();
            return Ok(bench.signals.status().exit_status());
        }
        history.push(observation);
        finish::refuse_unusable(&history[0])?;
    }
    bench.finish_reporting();
    let compared = compared(&request, &history);
    let result = finish::of_try(&place, &request, &bench, &history, compared);
    finish::show(&result, &request.job)?;
    let asked = |o: &&Observation| {
        o.settings == request.settings && o.windows.is_empty() == request.windows.is_empty()
    };
    let tried: Vec<&Observation> = history.iter().filter(asked).collect();
    let verdict = tried.iter().find(|o| !runs(o)).or(tried.last()).map(|o| o.verdict);
    if !matches!(verdict, Some(Verdict::Fit | Verdict::Disturbed)) {
        terminal::say("autofit: this configuration was not measured to fit\n");
    }
    Ok(match verdict {
        Some(Verdict::Fit | Verdict::Disturbed) => exit::TUNED,
        Some(Verdict::Failed | Verdict::Timeout) => exit::SCRIPT_FAILS,
        _ => exit::NOTHING_FITS,
    })
}

fn runs(o: &Observation) -> bool {
    matches!(o.verdict, Verdict::Fit | Verdict::Disturbed)
}

/// The script as it is first: that launch tells how each knob is turned.  Then both in turns; which of them goes first
/// changes from pair to pair, so that a machine that becomes slower favours neither.
fn launches(request: &TryRequest) -> Vec<TrialSpec> {
    let TryRequest { settings, against, repeat, windows, .. } = request;
    let baseline = Configuration::baseline();
    let mut all = vec![TrialSpec::new(baseline, Purpose::Baseline)];
    if !windows.is_empty() {
        let windows = windows.clone();
        all.push(TrialSpec { windows, ..TrialSpec::new(settings.clone(), Purpose::Sweep) });
        return all;
    }
    let one = |settings: &Configuration, n| {
        TrialSpec::new(settings.clone(), if n == 0 { Purpose::Climb } else { Purpose::Repeat })
    };
    for n in 0..*repeat {
        let mut pair = [one(against, n), one(settings, n)];
        if n % 2 == 1 {
            pair.reverse();
        }
        all.extend(pair);
    }
    // The first launch is already one of the first pair where that has the script as it is.
    if against.is_baseline() {
        all.remove(1);
    } else if settings.is_baseline() {
        all.remove(2);
    }
    all
}

/// The ratio of what was measured in pairs.
fn compared(request: &TryRequest, history: &[Observation]) -> Option<Compared> {
    let of = |settings: &Configuration| -> Vec<_> {
        history
            .iter()
            .filter(|o| o.settings == *settings && runs(o))
            .filter_map(|o| o.timing.as_ref())
            .collect()
    };
    let (tried, against) = (of(&request.settings), of(&request.against));
    let c = compare(&tried, &against).filter(|_| request.settings != request.against)?;
    Some(Compared {
        settings: request.settings.clone(),
        against: request.against.clone(),
        pairs: u32::try_from(tried.len().min(against.len())).unwrap_or(u32::MAX),
        ratio: c.ratio,
        interval: c.interval,
    })
}

pub(super) fn refuse_what_cannot_be_turned(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn order(settings: &str, against: &str, repeat: u32) -> Vec<String> {
        let read = |text: &str| -> Configuration {
            let knob = |word: &str| {
                let (name, value) = word.split_once('=').unwrap();
                let knob: crate::model::Knob = name.parse().unwrap();
                (knob, knob.parse_value(value).unwrap())
            };
            Configuration(text.split_whitespace().map(knob).collect())
        };
        let job = super::super::Job::default();
        let windows = Vec::new();
        let request = TryRequest { settings: read(settings), against: read(against), repeat, windows, job };
        launches(&request).iter().map(|s| s.settings.to_string()).collect()
    }

    #[test]
    fn pairs_take_turns_and_the_first_launch_is_the_script_as_it_is() {
        let (base, a, b) = ("as the script is", "amp=bf16", "checkpoint=all");
        assert_eq!(order(a, "", 1), [base, a]);
        assert_eq!(order(a, "", 3), [base, a, a, base, base, a]);
        assert_eq!(order(a, b, 2), [base, b, a, a, b]);
        assert_eq!(order("", b, 2), [base, b, base, b]);
    }
}
