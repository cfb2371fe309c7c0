//! What a report draws: ladder, throughput against memory, memory over time, losses, times.  Pure.

use super::head::measured;
use super::model::{Dot, Losses, Rung, TimeUse, Trace};
use crate::model::size::Bytes;
use crate::model::{Knob, Observation, Purpose, Verdict};
use crate::report::result::{Candidate, Trial, TuneResult};
use crate::report::{table, words};

pub(super) fn ladder(r: &TuneResult, winner: Option<u32>) -> Vec<Rung> {
    let rate = |t: &Trial| {
        let rate = t.measured.samples_per_second.as_ref().filter(|_| measured(t.verdict));
        rate.map_or(0.0, |x| x.value)
    };
    let highest = r.trials.iter().map(rate).fold(0.0, f64::max);
    let rung = |t: &Trial| Rung {
        row: table::row(t, r, winner),
        trial: t.trial,
        verdict: t.verdict,
        why: t.why.clone(),
        share: if highest > 0.0 { rate(t) / highest } else { 0.0 },
    };
    r.trials.iter().map(rung).collect()
}

pub(super) fn dots(r: &TuneResult, winner: Option<u32>, unit: &str) -> Vec<Dot> {
    // Losses are compared without random draws and with smaller batches: their rates are of another script.
    let shown = |t: &&Trial| t.purpose != Purpose::Parity;
    let mut dots: Vec<Dot> =
        r.trials.iter().filter(shown).filter_map(|t| dot(t, unit, winner == Some(t.trial))).collect();
    if dots.iter().all(|d| d.rate.is_none()) {
        return Vec::new();
    }
    let choices: Vec<(u32, u64, f64)> =
        dots.iter().filter(|d| !d.advice).filter_map(|d| Some((d.trial, d.bytes, d.rate?.0))).collect();
    let front = front(&choices);
    for d in &mut dots {
        d.front = front.contains(&d.trial);
    }
    dots
}

fn dot(t: &Trial, unit: &str, winner: bool) -> Option<Dot> {
    let m = &t.measured;
    let peak = m.peak_device_bytes.or(m.peak_host_bytes);
    let rate = m.samples_per_second.as_ref().filter(|x| measured(t.verdict) && x.unit == unit);
    let bytes = match (t.verdict, &t.oom) {
        // The highest sample of what ran out says less than what was asked for.
        (Verdict::Oom, Some(oom)) => oom.at_least_bytes.max(peak)?,
        (Verdict::Oom | Verdict::Thrash | Verdict::Fit | Verdict::Disturbed, _) => peak?,
        _ => return None,
    };
    let at_least = if t.verdict == Verdict::Oom { "at least " } else { "" };
    let text = match rate {
        Some(x) => format!("{} {}, peak {}", table::rate_text(x, unit), x.unit, Bytes(bytes)),
        None => format!("{}, {at_least}{}", words::verdict(t.verdict, None), Bytes(bytes)),
    };
    Some(Dot {
        trial: t.trial,
        what: words::what(&t.settings, t.purpose),
        verdict: t.verdict,
        bytes,
        rate: rate.map(|x| (x.value, x.interval.0, x.interval.1)),
        text,
        advice: t.purpose == Purpose::Advice,
        front: false,
        winner,
    })
}

/// Those (number, bytes, rate) that no other one beats in memory and rate at once, by growing memory.
pub(super) fn front(all: &[(u32, u64, f64)]) -> Vec<u32> {
    let mut sorted: Vec<_> = all.iter().filter(|(_, _, rate)| rate.is_finite()).collect();
    sorted.sort_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)));
    let mut fastest = f64::NEG_INFINITY;
    let mut front = Vec::new();
    for (number, _, rate) in sorted {
        if *rate > fastest {
            fastest = *rate;
            front.push(*number);
        }
    }
    front
}

pub(super) fn traces(r: &TuneResult, observations: &[Observation], winner: Option<u32>) -> Vec<Trace> {
    let of = |t: &Trial| {
        let o = observations.iter().find(|o| o.trial == t.trial)?;
        let memory = o.memory.clone().filter(|m| m.at.len() > 1)?;
        Some(Trace {
            trial: t.trial,
            what: words::what(&t.settings, t.purpose),
            verdict: words::verdict(t.verdict, t.oom.as_ref().and_then(|o| o.phase)),
            winner: winner == Some(t.trial),
            first_step: t.measured.first_step_seconds,
            memory,
        })
    };
    r.trials.iter().filter_map(of).collect()
}

/// The winner's settings and the script as it is, over the same steps and data; as the comparison of `result.json`
/// chose them.
pub(super) fn losses(w: &Candidate, r: &TuneResult, observations: &[Observation]) -> Option<Losses> {
    let with = w.parity.as_ref()?.with_trial?;
    let reference = observations.iter().find(|o| o.trial == with)?;
    let same = |o: &&Observation| {
        let bare = |o: &Observation| o.settings.without(Knob::BatchSize);
        match reference.purpose {
            Purpose::Parity => o.purpose == Purpose::Parity && bare(o) == w.settings.without(Knob::BatchSize),
            _ => !o.purpose.covers() && o.purpose != Purpose::Parity && o.settings == w.settings,
        }
    };
    let mut candidates: Vec<&Observation> = observations.iter().filter(same).collect();
    if reference.purpose == Purpose::Parity {
        // The last one is what was judged.
        candidates.reverse();
    }
    let mine = candidates.into_iter().find(|o| !o.losses.is_empty() && o.trial != with)?;
    let steps = mine.losses.len().min(reference.losses.len());
    let known = r.trials.iter().any(|t| t.trial == mine.trial);
    (steps > 1 && known).then(|| Losses {
        trials: (with, mine.trial),
        reference: reference.losses[..steps].to_vec(),
        winner: mine.losses[..steps].to_vec(),
    })
}

pub(super) fn times(r: &TuneResult, observations: &[Observation]) -> Vec<TimeUse> {
    let of = |t: &Trial| {
        let timing = observations.iter().find(|o| o.trial == t.trial).and_then(|o| o.timing.as_ref());
        let finite = |x: f64| if x.is_finite() { x.max(0.0) } else { 0.0 };
        let total = finite(t.seconds);
        let start = t.measured.first_step_seconds.map(|s| finite(s).min(total));
        let steps: f64 = timing.map_or(0.0, |t| t.step_seconds.iter().copied().map(finite).sum());
        let measured = steps.min(total - start.unwrap_or(0.0));
        TimeUse {
            trial: t.trial,
            what: words::what(&t.settings, t.purpose),
            start,
            measured,
            rest: total - start.unwrap_or(0.0) - measured,
        }
    };
    r.trials.iter().map(of).collect()
}
