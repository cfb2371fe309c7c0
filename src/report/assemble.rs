//! Observations and the outcome of a search -> [`TuneResult`].  Pure.

use std::collections::BTreeMap;

use super::machine::Machine;
use super::redact::{self, Redactor};
use super::result::{
    Advice, Candidate, CapFigures, Compared, Confirmed, Cost, FailureReport, Files, Isolation, KnobEntry,
    Measured, Oom, Parity, Prediction, Proved, Rate, Skipped, Status, Trial, TuneResult,
};
use super::{style, words};
use crate::model::observation::{Cap, ProcessEnd};
use crate::model::plan::Device;
use crate::model::{FailureKind, Inspection, Knob, Observation, Purpose, VERSION, Verdict};
use crate::verdict::curve;
use crate::verdict::would_fit::would_fit;

/// Lines of a failing script's output that are kept.
const TAIL_LINES: usize = 20;

/// Everything that a summary is made of.
#[derive(Debug, Clone)]
pub struct SummaryInput {
    /// The search, as in `.autofit/<id>`.
    pub id: String,
    /// How it ended.
    pub status: Status,
    /// The status in one sentence; empty for the usual sentence.
    pub reason: String,
    /// The script's command, as typed.
    pub command: Vec<String>,
    /// The whole command line, as typed, program first; empty when it is not known.
    pub invocation: Vec<String>,
    /// Where it was typed.
    pub directory: String,
    /// Where training happens.
    pub device: Device,
    /// What the figures were measured on.
    pub machine: Machine,
    /// What may be used.
    pub cap: Cap,
    /// What was kept from changing.
    pub isolation: Isolation,
    /// What the first launch found out.
    pub inspection: Option<Inspection>,
    /// Every trial, earlier parts of a resumed search included.
    pub observations: Vec<Observation>,
    /// What the search expected, by trial.
    pub predictions: BTreeMap<u32, Prediction>,
    /// The trial of the best configuration, if there is one; its confirm trial is found by its settings.
    pub winner: Option<u32>,
    /// What would be gained elsewhere.
    pub advice: Vec<Advice>,
    /// Moves that were not tried.
    pub skipped: Vec<Skipped>,
    /// Sentences that must not be missed.
    pub notes: Vec<String>,
    /// Two configurations that were launched in turns.
    pub compared: Option<Compared>,
    /// Wall-clock of the search, earlier parts included.
    pub seconds: f64,
    /// Where things are.
    pub files: Files,
}

impl TuneResult {
    /// Puts the document together; secrets are replaced on the way.
    pub fn assemble(input: &SummaryInput) -> Self {
        Self::assemble_with(input, &Redactor::of_environment())
    }

    /// The same with a given set of secrets.
    pub fn assemble_with(input: &SummaryInput, secrets: &Redactor) -> Self {
        let all: &[Observation] =
            &input.observations.iter().map(|o| without_secrets(o, secrets)).collect::<Vec<_>>();
        let reference = reference(all);
        let baselines = || all.iter().filter(|o| o.purpose == Purpose::Baseline);
        // A disturbed one is launched again.
        let baseline = baselines().find(|o| o.verdict == Verdict::Fit).or_else(|| baselines().next());
        let found = input.winner.and_then(|n| all.iter().find(|o| o.trial == n));
        let confirm = found.and_then(|w| confirm_of(w, all));
        let candidate = |o: &Observation| candidate(o, reference, baseline);
        let mut result = Self {
            version: VERSION,
            autofit: env!("CARGO_PKG_VERSION").to_owned(),
            id: input.id.clone(),
            status: input.status,
            exit_status: input.status.exit_status(),
            reason: input.reason.clone(),
            command: redact::command(&input.command),
            invocation: redact::command(&input.invocation),
            directory: input.directory.clone(),
            device: input.device,
            machine: input.machine.clone(),
            cap: CapFigures::from(&input.cap),
            isolation: input.isolation.clone(),
            knobs: input.inspection.as_ref().map(knobs).unwrap_or_default(),
            baseline: baseline.map(candidate),
            reference_trial: reference.map(|o| o.trial),
            winner: confirm.or(found).map(|o| Candidate {
                // A confirm trial looks through its loader first: its losses are those of other data.
                parity: quiet(o, all).or_else(|| baseline.and_then(|b| parity(climbed(o, all), b))),
                ..candidate(o)
            }),
            confirmed: confirm.map(|o| confirmed(o, all)),
            trials: all.iter().map(|o| trial(o, reference, input)).collect(),
            cost: Cost { launches: u32::try_from(all.len()).unwrap_or(u32::MAX), seconds: input.seconds },
            would_fit: would_fit(all, own_batch(input), input.device),
            advice: input.advice.clone(),
            skipped: input.skipped.clone(),
            notes: input.notes.clone(),
            compared: input.compared.clone(),
            failure: failure(input.status, all),
            files: input.files.clone(),
            next: Vec::new(),
        };
        if result.reason.is_empty() {
            result.reason = usual_reason(&result);
        }
        result.next = super::next::commands(&result);
        result
    }
}

/// What relative figures are relative to: the baseline, or the first that fits when the baseline does not.
pub fn reference(all: &[Observation]) -> Option<&Observation> {
    // What was measured without disturbance comes first in each kind.
    let measured = |kind: fn(&Observation) -> bool| {
        let mut found = all.iter().filter(move |o| kind(o) && o.throughput().is_some());
        let first = found.clone().next();
        found.find(|o| o.verdict == Verdict::Fit).or(first)
    };
    measured(|o| o.purpose == Purpose::Baseline)
        .or_else(|| measured(|o| !matches!(o.purpose, Purpose::Advice | Purpose::Sweep)))
}

fn confirm_of<'a>(winner: &Observation, all: &'a [Observation]) -> Option<&'a Observation> {
    let with = |verdict| {
        let same = move |o: &&Observation| o.purpose == Purpose::Confirm && o.verdict == verdict;
        all.iter().rev().filter(same).find(|o| o.settings == winner.settings)
    };
    // Other load makes figures uncertain; that it ran within the limit is as sure as otherwise.
    with(Verdict::Fit).or_else(|| with(Verdict::Disturbed).filter(|o| o.throughput().is_some()))
}

/// The trial of the same settings that saw the same data as the baseline.
fn climbed<'a>(o: &'a Observation, all: &'a [Observation]) -> &'a Observation {
    let same = |t: &&Observation| t.settings == o.settings && !t.purpose.covers() && !t.losses.is_empty();
    all.iter().find(same).unwrap_or(o)
}

fn rate(o: &Observation) -> Option<Rate> {
    // A rate that is no number is not written as one.
    let t = o.timing.as_ref().filter(|t| t.samples_per_second.is_finite())?;
    let value = t.samples_per_second;
    let (low, high) = t.interval;
    let interval = if low.is_finite() && high.is_finite() { (low, high) } else { (value, value) };
    Some(Rate { value, interval, unit: words::unit(t).to_owned() })
}

/// Throughput over the reference's; `None` for what does not fit, or is counted in another unit.
pub fn relative(o: &Observation, reference: Option<&Observation>) -> Option<f64> {
    let (base, mine) = (reference?, o.throughput()?);
    let same_unit = words::unit(base.timing.as_ref()?) == words::unit(o.timing.as_ref()?);
    let base = base.throughput()?;
    (same_unit && base > 0.0 && mine.is_finite()).then(|| mine / base)
}

/// Left under the cap; after an out-of-memory end the highest sample says nothing about what was needed.
fn headroom(o: &Observation) -> Option<u64> {
    if o.verdict == Verdict::Oom { None } else { o.headroom() }
}

fn candidate(o: &Observation, reference: Option<&Observation>, baseline: Option<&Observation>) -> Candidate {
    Candidate {
        trial: o.trial,
        settings: o.settings.clone(),
        verdict: o.verdict,
        why: o.why.clone(),
        samples_per_second: rate(o),
        relative: relative(o, reference),
        peak_device_bytes: o.peaks.device,
        peak_host_bytes: o.peaks.host,
        headroom_bytes: headroom(o),
        parity: baseline.and_then(|b| parity(o, b)),
    }
}

/// Largest relative differences over the steps that both have; `None` when there is nothing to compare.
fn parity(o: &Observation, with: &Observation) -> Option<Parity> {
    if o.settings == with.settings || o.purpose.covers() {
        return None;
    }
    let steps = o.losses.len().min(with.losses.len());
    if steps == 0 && o.parity.is_none() {
        return None;
    }
    let told = o.parity.as_ref();
    Some(Parity {
        outcome: told.map(|p| p.outcome),
        sentence: told.map(|p| p.sentence.clone()),
        with_trial: (steps > 0).then_some(with.trial),
        steps: u32::try_from(steps).unwrap_or(u32::MAX),
        loss: largest_difference(&o.losses, &with.losses),
        grad_norm: largest_difference(&o.grad_norms, &with.grad_norms),
        figures: told.map(|p| p.figures.clone()).unwrap_or_default(),
        batch: o.settings.int(Knob::BatchSize).filter(|_| o.purpose == Purpose::Parity),
    })
}

/// The comparison without random draws, where there was one: it is the stricter one.
fn quiet(winner: &Observation, all: &[Observation]) -> Option<Parity> {
    let of = |o: &Observation| o.settings.without(Knob::BatchSize);
    let launches = || all.iter().rev().filter(|o| o.purpose == Purpose::Parity);
    let mine = launches().find(|o| o.parity.is_some() && of(o) == of(winner))?;
    let same_batch = |o: &&Observation| o.settings.get(Knob::BatchSize) == mine.settings.get(Knob::BatchSize);
    parity(mine, launches().filter(same_batch).find(|o| of(o).is_baseline())?)
}

fn largest_difference(a: &[f64], b: &[f64]) -> Option<f64> {
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs() / x.abs().max(y.abs()).max(f64::MIN_POSITIVE))
        .filter(|d| d.is_finite())
        .max_by(f64::total_cmp)
}

fn confirmed(o: &Observation, all: &[Observation]) -> Confirmed {
    Confirmed {
        trial: o.trial,
        samples_per_second: rate(o),
        peak_bytes: o.peak(),
        headroom_bytes: headroom(o),
        limit_bytes: o.cap.bytes,
        train_seen: o.steps > 0,
        coverage: o.coverage.clone().unwrap_or_default(),
        proved: proof_of(o, all).map(|p| Proved {
            trial: p.trial,
            limit_bytes: p.cap.bytes,
            peak_bytes: p.peak(),
            samples_per_second: rate(p),
        }),
    }
}

/// The launch in which a confirmed configuration held under its own peak.
pub fn proof_of<'a>(confirmed: &Observation, all: &'a [Observation]) -> Option<&'a Observation> {
    let mut proofs = all.iter().rev().filter(|o| o.purpose == Purpose::Prove);
    // Other load makes figures uncertain; that it ran within the limit is as sure as otherwise.
    proofs.find(|o| o.settings == confirmed.settings && o.throughput().is_some())
}

fn knobs(inspection: &Inspection) -> Vec<KnobEntry> {
    let entry = |s: &crate::model::inspection::KnobSite| KnobEntry {
        name: s.knob,
        class: s.class,
        way: s.way,
        how: s.way.map(|_| s.how.clone()),
        why_not: if s.way.is_some() { None } else { s.why_not.clone() },
        current: s.current.clone(),
    };
    inspection.knobs.iter().map(entry).collect()
}

/// The batch of the script as it is, in the unit of the option or loader that sets it.
fn own_batch(input: &SummaryInput) -> Option<u64> {
    input.inspection.as_ref()?.site(Knob::BatchSize)?.current.as_ref()?.parse().ok().filter(|b| *b > 0)
}

fn curve_of(o: &Observation, own: Option<u64>) -> Vec<curve::Point> {
    let own = o.settings.int(Knob::BatchSize).map(i64::unsigned_abs).or(own);
    own.map(|own| curve::points(o, own)).unwrap_or_default()
}

fn trial(o: &Observation, reference: Option<&Observation>, input: &SummaryInput) -> Trial {
    let timing = o.timing.as_ref();
    Trial {
        trial: o.trial,
        purpose: o.purpose,
        settings: o.settings.clone(),
        verdict: o.verdict,
        why: o.why.clone(),
        oom: oom(o),
        curve: curve_of(o, own_batch(input)),
        seconds: o.seconds,
        end: o.end.clone(),
        predicted: input.predictions.get(&o.trial).cloned(),
        measured: Measured {
            samples_per_second: rate(o),
            relative: relative(o, reference),
            steps: timing.map_or(0, |t| t.steps),
            peak_device_bytes: o.peaks.device,
            peak_host_bytes: o.peaks.host,
            headroom_bytes: headroom(o),
            loader_wait_share: timing.map(|t| t.loader_wait_share),
            first_step_seconds: timing.map(|t| t.first_step_after),
        },
        ranks: o.ranks.clone(),
        nodes: o.nodes.clone(),
        effective: o.knobs.iter().map(|k| (k.knob, k.effective.clone())).collect(),
        windows: o.windows.clone(),
    }
}

fn oom(o: &Observation) -> Option<Oom> {
    if o.verdict != Verdict::Oom {
        return None;
    }
    let failure = o.failure.as_ref();
    let fields = failure.map(|f| f.fields.clone()).unwrap_or_default();
    let kind = failure.map(|f| f.kind);
    let device = match (kind, fields.device_index) {
        (Some(FailureKind::GpuOom | FailureKind::GpuOomLibrary), index) => {
            format!("cuda:{}", index.unwrap_or(0))
        }
        (Some(FailureKind::ShmOom), _) => "shm".to_owned(),
        (Some(FailureKind::HostOom), _) => "host".to_owned(),
        _ if o.peaks.device.is_some() => "cuda".to_owned(),
        _ => "host".to_owned(),
    };
    Some(Oom {
        device,
        phase: o.oom_phase,
        requested_bytes: fields.requested_bytes,
        at_least_bytes: super::shortfall::at_least(o),
        after_steps: o.steps,
        kind,
        cause: failure.map_or_else(|| o.why.clone(), |f| f.cause.clone()),
        fields,
        filled: o.filled.clone(),
    })
}

fn failure(status: Status, all: &[Observation]) -> Option<FailureReport> {
    if !matches!(status, Status::ScriptFails | Status::AgentMissing) {
        return None;
    }
    let failed = |o: &&Observation| {
        matches!(o.verdict, Verdict::Failed | Verdict::AgentMissing | Verdict::Timeout | Verdict::NotApplied)
    };
    let o = all.iter().rev().find(failed)?;
    let skip = o.tail.len().saturating_sub(TAIL_LINES);
    Some(FailureReport {
        trial: o.trial,
        // What the text of a script says that we ended ourselves is not why it ended.
        cause: match &o.failure {
            Some(f) if o.verdict != Verdict::Timeout && !matches!(o.end, ProcessEnd::NotStarted { .. }) => {
                f.cause.clone()
            }
            _ => o.why.clone(),
        },
        next: o.failure.as_ref().map(|f| f.next.clone()).unwrap_or_default(),
        tail: o.tail.iter().skip(skip).cloned().collect(),
    })
}

/// What came from the script's output is made one line each, and secrets of the environment are replaced.
fn without_secrets(o: &Observation, secrets: &Redactor) -> Observation {
    let clean = |text: &String| style::one_line(&secrets.text(text));
    let mut o = o.clone();
    o.why = clean(&o.why);
    o.tail = o.tail.iter().map(clean).collect();
    if let Some(f) = &mut o.failure {
        f.cause = clean(&f.cause);
        f.evidence = f.evidence.as_ref().map(clean);
    }
    o
}

fn usual_reason(r: &TuneResult) -> String {
    let best = r.winner.as_ref();
    match r.status {
        Status::Tuned => match best {
            Some(w) if w.settings.is_baseline() => {
                "nothing that was tried is faster than the script as it is".to_owned()
            }
            Some(w) => format!("{} is the fastest of what was tried and fits", w.settings),
            None => "tuned".to_owned(),
        },
        Status::NothingFits => "nothing that was tried fits within the bounds".to_owned(),
        Status::ScriptFails => "the script fails for a reason that is not memory".to_owned(),
        Status::AgentMissing => "the agent could not start in the script".to_owned(),
        Status::Interrupted | Status::Terminated => match best {
            Some(w) => format!("stopped; the best so far is: {}", w.settings),
            None => "stopped before anything was found to fit".to_owned(),
        },
    }
}
