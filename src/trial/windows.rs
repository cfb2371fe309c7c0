//! Records of a sweep -> what each of its configurations has shown.  Pure.
//!
//! # Theory of operation
//! The agent opens windows in turns, A B A C A ..., A being the launch's own settings (`autofit_agent/windows/`).
//! [`of_settings`] are the records without what happened in windows of other settings: the launch is judged by them as
//! if there had been nothing else.  [`windows`] is the rest.
//!
//! Each time that B was open gives the logarithm of its rate over the geometric mean of A's in the windows before and
//! after it, so that a machine that becomes slower favours neither.  A window's rate is the median of its steps' rates,
//! or samples over seconds where steps wait for their loader, which comes in bursts.  The ratio is the mean over rounds;
//! its interval is Student's t of what rounds differ by where the windows came often enough to tell, else of what single
//! steps on both sides differ by, which knows nothing of what changes between windows.  Either is taken from all windows
//! of the launch together: two or three rounds, or steps, of one window tell nothing by themselves.

use std::collections::BTreeMap;

use super::collect::{RankRecords, Records};
use crate::model::event::{EndReason, KnobReport, Record, Step, WindowOpened};
use crate::model::observation::{Ratio, Window};
use crate::model::{Configuration, Verdict};
use crate::verdict::stats::{mean, median, t95};

/// Degrees of freedom from which the spread of rounds tells how sure a ratio is.
const DEGREES: f64 = 2.0;

/// Part of the time in waits for the loader from which a median would hide them.
const WAITING: f64 = 0.05;

/// A time during which one configuration was in force.
#[derive(Debug, Default)]
struct Run<'a> {
    /// `None` for the launch's own settings.
    window: Option<usize>,
    why_not: Option<String>,
    /// Knobs that were tried and are not in force.
    not_applied: Vec<KnobReport>,
    /// What was measured, warm-up left out.
    steps: Vec<&'a Step>,
    peak: Option<u64>,
    allocated: Option<u64>,
    /// Memory ran out, and the script caught it.
    oom: Option<String>,
    fault: Option<String>,
}

/// How a launch ended in a window that was open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Which of the windows.
    pub window: usize,
    /// The judgement on the end.
    pub verdict: Verdict,
    /// One sentence on it.
    pub why: String,
}

/// The window of other settings that was open when the records broke off; the last record of a launch that ended itself
/// stands outside of all.
pub fn under_way(records: &Records) -> Option<usize> {
    let good = matches!(records.end_reason(), Some(EndReason::Measured | EndReason::ScriptEnd));
    if good { None } else { runs(records).last().filter(|r| r.why_not.is_none())?.window }
}

/// The records without what happened in windows of other settings, nor in the warm-up after a return from them.
pub fn of_settings(records: &Records) -> Records {
    let mut own = Records { broken_lines: records.broken_lines, ..Records::default() };
    for (rank, all) in &records.ranks {
        let (mut others, mut swept) = (false, false);
        let mut kept = RankRecords::default();
        for event in &all.events {
            let keep = match &event.record {
                Record::Window(w) => {
                    others = w.window.is_some() && w.why_not.is_none();
                    swept = true;
                    false
                }
                Record::Step(s) => !(others || swept && s.warmup),
                Record::Oom { .. } | Record::Fault { .. } => !others,
                _ => true,
            };
            if keep {
                kept.events.push(event.clone());
            }
        }
        own.ranks.insert(*rank, kept);
    }
    own
}

/// The peak of the launch's own settings: (reserved or anonymous, allocated); nothing else had run before.
pub fn peak_of_settings(records: &Records) -> Option<(u64, Option<u64>)> {
    let first = runs(records).into_iter().find(|r| r.peak.is_some())?;
    first.peak.filter(|_| first.window.is_none()).map(|peak| (peak, first.allocated))
}

/// What each configuration has shown, in the order in which it was asked for.
pub fn windows(asked: &[Configuration], records: &Records, death: Option<&Death>) -> Vec<Window> {
    let runs = runs(records);
    let noise = Noise::of(asked.len(), &runs);
    asked.iter().enumerate().map(|(i, settings)| window(i, settings, &runs, &noise, records, death)).collect()
}

fn window(
    index: usize,
    settings: &Configuration,
    runs: &[Run<'_>],
    noise: &Noise,
    records: &Records,
    death: Option<&Death>,
) -> Window {
    let of = |r: &&Run<'_>| r.window == Some(index);
    let dead = death.filter(|d| d.window == index);
    let refused = runs.iter().filter(of).find_map(|r| r.why_not.clone().or_else(|| r.fault.clone()));
    let oom = runs.iter().filter(of).find_map(|r| r.oom.clone());
    let mut made = Window { settings: settings.clone(), ..Window::default() };
    made.too_large =
        oom.is_some() || dead.is_some_and(|d| matches!(d.verdict, Verdict::Oom | Verdict::Thrash));
    made.not_applied = runs.iter().filter(of).flat_map(|r| r.not_applied.clone()).collect();
    let spoilt = refused.or_else(|| oom.map(|o| format!("memory ran out: {o}")));
    if spoilt.is_none() {
        measure(&mut made, index, runs, noise);
    }
    made.why_not = spoilt.or_else(|| dead.map(|d| d.why.clone())).or_else(|| {
        let missing = match (records.end_reason(), death) {
            (Some(EndReason::Measured), _) => "there was no time for it",
            (_, Some(_)) => "the launch ended in another window before its turn came",
            _ => "the launch ended before its turn came",
        };
        made.ratio.is_none().then(|| missing.to_owned())
    });
    made
}

fn measure(made: &mut Window, index: usize, runs: &[Run<'_>], noise: &Noise) {
    let rounds = rounds(index, runs);
    for run in runs.iter().filter(|r| r.window == Some(index) && !r.steps.is_empty()) {
        made.peak = made.peak.max(run.peak);
        made.allocated = made.allocated.max(run.allocated);
    }
    let steps: Vec<&Step> = rounds.iter().flat_map(|r| &r.run.steps).copied().collect();
    let seconds: Vec<f64> = steps.iter().map(|s| s.seconds).collect();
    let samples: Vec<f64> = steps.iter().map(|s| s.samples as f64).collect();
    made.steps = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    made.step_seconds = median(&seconds).unwrap_or(0.0);
    made.samples_per_step = median(&samples).unwrap_or(0.0);
    made.ratio = ratio(&rounds, noise);
}

/// One time that a window was open beside the launch's own settings.
struct Round<'a> {
    run: &'a Run<'a>,
    /// Logarithm of the ratio.
    log: f64,
    /// Steps of the windows beside it.
    beside: usize,
}

fn rounds<'a>(index: usize, runs: &'a [Run<'a>]) -> Vec<Round<'a>> {
    // What was refused before its first step took no time between its neighbours.
    let runs: Vec<&Run<'_>> = runs.iter().filter(|r| r.window.is_none() || !r.steps.is_empty()).collect();
    let mine = runs.iter().enumerate().filter(|(_, r)| r.window == Some(index));
    let round = |(at, run): (usize, &&'a Run<'a>)| {
        let neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|i| runs.get(i));
        let own: Vec<&&Run<'_>> = neighbours.filter(|r| r.window.is_none()).collect();
        let usual: Vec<f64> = own.iter().filter_map(|r| rate(r)).map(f64::ln).collect();
        let log = rate(run)?.ln() - mean(&usual)?;
        Some(Round { run, log, beside: own.iter().map(|r| r.steps.len()).sum() })
    };
    mine.filter_map(round).collect()
}

/// What equal things of one launch differ by.
struct Noise {
    /// Logarithms of the rates of one window's steps.
    steps: Spread,
    /// Logarithms of one configuration's ratios, from round to round.
    rounds: Spread,
}

/// A pooled variance.
struct Spread {
    variance: f64,
    degrees: f64,
}

impl Spread {
    /// Within the groups.
    fn of(groups: impl Iterator<Item = Vec<f64>>) -> Self {
        let (mut squares, mut degrees) = (0.0, 0.0);
        for group in groups.filter(|g| g.len() > 1) {
            degrees += group.len() as f64 - 1.0;
            squares += variance(&group) * (group.len() as f64 - 1.0);
        }
        Self { variance: squares / f64::max(degrees, 1.0), degrees }
    }
}

impl Noise {
    fn of(asked: usize, runs: &[Run<'_>]) -> Self {
        let steps = runs.iter().map(|run| run.steps.iter().map(|s| speed(s).ln()).collect());
        let rounds = (0..asked).map(|i| rounds(i, runs).iter().map(|r| r.log).collect());
        Self { steps: Spread::of(steps), rounds: Spread::of(rounds) }
    }
}

fn ratio(rounds: &[Round<'_>], noise: &Noise) -> Option<Ratio> {
    let centre = mean(&rounds.iter().map(|r| r.log).collect::<Vec<_>>())?;
    let margin = if noise.rounds.degrees >= DEGREES {
        (noise.rounds.variance / rounds.len() as f64).sqrt() * t95(noise.rounds.degrees)
    } else {
        let mine: usize = rounds.iter().map(|r| r.run.steps.len()).sum();
        let beside: usize = rounds.iter().map(|r| r.beside).sum();
        (noise.steps.variance * (1.0 / mine as f64 + 1.0 / beside as f64)).sqrt() * t95(noise.steps.degrees)
    };
    Some(Ratio { ratio: centre.exp(), interval: ((centre - margin).exp(), (centre + margin).exp()) })
}

/// Of a sample; there are two values or more.
fn variance(values: &[f64]) -> f64 {
    let centre = mean(values).unwrap_or(0.0);
    values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// `None` for less than two steps, which are a part of a window only.
fn rate(run: &Run<'_>) -> Option<f64> {
    if run.steps.len() < 2 {
        return None;
    }
    let total: f64 = run.steps.iter().map(|s| s.seconds).sum();
    let waits: f64 = run.steps.iter().map(|s| s.loader_wait.min(s.seconds)).sum();
    if waits > WAITING * total {
        return Some(run.steps.iter().map(|s| count(s)).sum::<f64>() / total);
    }
    median(&run.steps.iter().map(|s| speed(s)).collect::<Vec<_>>())
}

fn speed(step: &Step) -> f64 {
    count(step) / step.seconds
}

/// Samples; where nobody knows them, steps.
fn count(step: &Step) -> f64 {
    if step.samples > 0 { step.samples as f64 } else { 1.0 }
}

/// The times in the order in which they came; windows take turns in a launch of one process only.
fn runs(records: &Records) -> Vec<Run<'_>> {
    let Some(rank) = records.ranks.values().next() else { return Vec::new() };
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    for event in &rank.events {
        match &event.record {
            Record::Window(WindowOpened { run, window, why_not, knobs }) => {
                let at = *places.entry(*run).or_insert_with(|| {
                    runs.push(Run { window: window.map(|w| w as usize), ..Run::default() });
                    runs.len() - 1
                });
                runs[at].why_not.clone_from(why_not);
                let refused = |k: &&KnobReport| why_not.is_some() && k.effective.is_none();
                runs[at].not_applied = knobs.iter().filter(refused).cloned().collect();
            }
            Record::Step(step) if !step.warmup && step.seconds > 0.0 => {
                if let Some(at) = step.run.and_then(|run| places.get(&run)) {
                    runs[*at].steps.push(step);
                }
            }
            Record::WindowMemory { run, peak, allocated } => {
                if let Some(at) = places.get(run) {
                    (runs[*at].peak, runs[*at].allocated) = (Some(*peak), *allocated);
                }
            }
            Record::Oom { message, fatal: false, .. } => {
                if let Some(run) = runs.last_mut() {
                    run.oom = Some(message.lines().next().unwrap_or_default().to_owned());
                }
            }
            Record::Fault { hook, error } => {
                if let Some(run) = runs.last_mut() {
                    run.fault = Some(format!("a hook of the agent failed: {hook}: {error}"));
                }
            }
            _ => {}
        }
    }
    runs
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
