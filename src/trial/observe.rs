//! A trial that is over -> its [`Observation`].

use super::collect::Records;
use super::local::{Site, Trial};
use super::part::{Part, Parts};
use super::ranks;
use super::references::References;
use super::schedule::PARITY_STEPS;
use super::windows::{self, Death};
use crate::inspect::build_inspection;
use crate::model::event::EndReason;
use crate::model::observation::{Cap, Disturbance, Peaks, ProcessEnd};
use crate::model::plan::Device;
use crate::model::{Inspection, Observation, Purpose, TrialSpec, VERSION, Verdict};
use crate::process::Ended;
use crate::verdict::{TrialFacts, failure, judge, thrash, timing};
use crate::watch::WatchSummary;

/// Lines of output kept in an observation.
const TAIL_LINES: usize = 60;

/// Bytes of output that are read for what went wrong; the end of a log says it.
const READ_BYTES: u64 = 4 << 20;

/// What the launcher saw on this machine.
pub(super) fn part(trial: &mut Trial, ended: Option<&Ended>) -> Part {
    let watched = trial.sampler.take().map(crate::watch::Sampler::stop);
    let end = match (ended, &trial.running) {
        (Some(ended), _) => ended.end.clone(),
        (None, Err(error)) => ProcessEnd::NotStarted { error: error.to_string() },
        (None, Ok(_)) => ProcessEnd::Interrupted,
    };
    Part {
        disturbance: disturbance(watched.as_ref(), &trial.records),
        log: read_end(&trial.dir.join("output.log")),
        tail: trial.running.as_ref().map(|running| running.tail(TAIL_LINES)).unwrap_or_default(),
        ..Part::new(end, ended, watched)
    }
}

/// Puts together what is known.
pub(super) fn observe(
    site: &Site,
    number: u32,
    spec: &TrialSpec,
    trial: &Trial,
    parts: &Parts,
    references: &References,
    found: Option<&Inspection>,
) -> Observation {
    let seconds = trial.started.elapsed().as_secs_f64();
    let end = parts.end().clone();
    let text = parts.log();
    let all_records = &trial.records;
    // The launch is judged by what its own settings did.
    let swept = (!spec.windows.is_empty()).then(|| windows::of_settings(all_records));
    let records = swept.as_ref().unwrap_or(all_records);
    let steps = records.steps();
    let rank_steps: Vec<&[_]> = steps.values().map(Vec::as_slice).filter(|s| !s.is_empty()).collect();
    let timing = timing::measure(&rank_steps, records.first_step_at().unwrap_or(0.0));
    let disturbance = parts.disturbance();
    let good_end = matches!(end, ProcessEnd::Exited { code: 0 });
    let mut facts = TrialFacts {
        end: end.clone(),
        hello: records.hello(&trial.prepared.plan.nonce),
        knobs: if records.ranks.len() > 1 { records.knobs() } else { records.all_knobs() },
        settings: spec.settings.clone(),
        timing: timing.clone(),
        oom_events: records.ooms(),
        oom_kills: parts.oom_kills(),
        failure: (!good_end).then(|| failure::read_failure(&text, Some(&end))),
        // What it says of memory that ran out in a window is that window's.
        oom_text: failure::oom_line(&text).filter(|_| records.ooms().len() == all_records.ooms().len()),
        faults: records.faults(),
        end_reason: records.end_reason(),
        steps: records.step_count(),
        min_steps: trial.prepared.plan.schedule.min_steps,
        thrash: rank_steps.iter().find_map(|s| thrash::thrashing(s)),
        parity: None,
        disturbance: disturbance.clone(),
        places: records.places(),
    };
    let death = swept.as_ref().and_then(|_| died_in_a_window(&mut facts, all_records));
    let inspection =
        (spec.purpose == Purpose::Baseline && records.hello(&trial.prepared.plan.nonce)).then(|| {
            build_inspection(
                records.inspection_events(),
                &site.command,
                &site.recipe,
                site.device,
                &site.machine,
            )
        });
    let mut observation = Observation {
        version: VERSION,
        trial: number,
        purpose: spec.purpose,
        settings: spec.settings.clone(),
        verdict: Verdict::Failed,
        why: String::new(),
        end,
        failure: facts.failure.clone(),
        oom_phase: records.oom_phase(),
        knobs: records.knobs(),
        timing,
        peaks: peaks(site, records, parts),
        memory: parts.series().and_then(|series| super::trace::trace(series, all_records)),
        filled: records.filled(),
        cap: cap(site, spec, parts.cap()),
        losses: records.losses(PARITY_STEPS as usize),
        grad_norms: records.grad_norms(PARITY_STEPS as usize),
        taken_norms: records.taken_norms(PARITY_STEPS as usize),
        after: records.after_steps(),
        coverage: spec.purpose.covers().then(|| records.coverage()),
        disturbance,
        steps: all_records.step_count(),
        seconds,
        tail: Vec::new(),
        inspection,
        ranks: ranks::figures(records, site.device, parts.hosts()),
        nodes: parts.figures(),
        windows: windows::windows(&spec.windows, all_records, death.as_ref()),
        parity: None,
        torch: records.torch(),
    };
    if let Some((peak, allocated)) = swept.as_ref().and_then(|_| windows::peak_of_settings(all_records)) {
        only_settings(&mut observation.peaks, site.device, peak, allocated);
    }
    let checked = references.compare(&observation, found);
    observation.parity = References::told(checked.as_ref());
    facts.parity = checked.map(|c| c.parity);
    (observation.verdict, observation.why) = judge(&facts);
    if let (Some(slow), Verdict::Fit) = (ranks::straggler_words(&observation.ranks), observation.verdict) {
        observation.why.push_str(&slow);
    }
    if let (Some(death), Some(window)) =
        (&death, death.as_ref().and_then(|d| observation.windows.get(d.window)))
    {
        let what = &window.settings;
        observation.why.push_str(&format!("; the launch ended in the window of {what}: {}", death.why));
    }
    if !parts.lost().is_empty() && !matches!(observation.verdict, Verdict::Oom | Verdict::Interrupted) {
        // It says nothing about the configuration.
        let lost = parts.lost().join(", ");
        (observation.verdict, observation.why) =
            (Verdict::Disturbed, format!("{lost} was not heard any more, and the trial was ended"));
    }
    if observation.verdict != Verdict::Fit {
        observation.tail = parts.tail().to_vec();
    }
    observation
}

fn peaks(site: &Site, records: &Records, parts: &Parts) -> Peaks {
    let mut peaks = records.peaks();
    parts.add_peaks(&mut peaks);
    if site.device == Device::Cpu {
        peaks.device = None;
    }
    peaks
}

/// A launch that ended while other settings were in force: says how, and leaves the facts as they were before.
fn died_in_a_window(facts: &mut TrialFacts, all_records: &Records) -> Option<Death> {
    let window = windows::under_way(all_records)?;
    let (verdict, why) = judge(&TrialFacts { oom_events: all_records.ooms(), ..facts.clone() });
    if matches!(verdict, Verdict::Interrupted | Verdict::AgentMissing) {
        return None;
    }
    facts.end = ProcessEnd::Exited { code: 0 };
    facts.end_reason = Some(EndReason::Measured);
    (facts.oom_kills, facts.failure, facts.oom_text) = (None, None, None);
    Some(Death { window, verdict, why })
}

/// What other settings needed is not to be held against the launch's own.
fn only_settings(peaks: &mut Peaks, device: Device, peak: u64, allocated: Option<u64>) {
    match device {
        Device::Cpu => peaks.host = Some(peak),
        Device::Cuda => {
            peaks.device = Some(peak);
            peaks.reserved = peaks.reserved.map(|r| r.min(peak));
            peaks.allocated = allocated.or(peaks.allocated);
        }
    }
}

fn cap(site: &Site, spec: &TrialSpec, enforced: Option<&Cap>) -> Cap {
    let asked = site.cap.lowered(spec.limit);
    match enforced {
        Some(cap) if site.device == Device::Cpu && cap.bytes.is_some() => {
            Cap { margin_bytes: asked.margin_bytes, ..cap.clone() }
        }
        _ => asked,
    }
}

/// Load that was not ours while steady steps were measured.
fn disturbance(watched: Option<&WatchSummary>, records: &Records) -> Disturbance {
    let Some(watched) = watched else { return Disturbance::default() };
    match records.first_step_at() {
        Some(first) if records.end_reason() == Some(EndReason::Measured) => {
            watched.disturbance_between(first, watched.seconds)
        }
        _ => watched.disturbance.clone(),
    }
}

/// The end of a log, however long it is.
fn read_end(path: &std::path::Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(length.saturating_sub(READ_BYTES)))
        .and_then(|_| file.read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
