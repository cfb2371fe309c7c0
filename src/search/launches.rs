//! What was launched, and what the launches of one configuration say together.

use super::earlier::Known;
use crate::model::observation::Timing;
use crate::model::plan::Device;
use crate::model::{Configuration, Observation, Purpose, Verdict};

/// Relative standard deviation between launches that is assumed before any repeat was seen.
pub fn usual_noise(device: Device) -> f64 {
    match device {
        // Other work, memory layout and page placement: 3 % on a quiet machine, far more on a busy one.
        Device::Cpu => 0.04,
        // Clocks and caches.
        Device::Cuda => 0.015,
    }
}

/// What was measured.
pub(super) struct Evidence<'a> {
    /// Launches of one configuration.
    pub seen: &'a [&'a Observation],
    /// Launches of several.
    pub sweeps: &'a [&'a Observation],
    /// What earlier searches know.
    pub known: &'a [&'a Known],
}

/// Repeats that the assumption above is worth.
const NOISE_WEIGHT: f64 = 4.0;

/// Whether a configuration fits, as far as it was launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Never launched, or only in ways that say nothing.
    Unknown,
    /// It fits: every launch that came to an answer did.
    Fits,
    /// Memory ran out, or the allocator thrashed, at least once.
    TooLarge,
    /// Struck out for another reason.
    Bad,
}

/// The state that one launch tells.
pub(super) fn state_of(o: &Observation) -> State {
    match o.verdict {
        Verdict::Fit => State::Fits,
        // It ran within the cap to its end; only its time is in doubt.
        Verdict::Disturbed if o.timing.is_some() => State::Fits,
        Verdict::Oom | Verdict::Thrash => State::TooLarge,
        Verdict::Disturbed | Verdict::Interrupted => State::Unknown,
        Verdict::Diverged
        | Verdict::NotApplied
        | Verdict::Failed
        | Verdict::Timeout
        | Verdict::AgentMissing => State::Bad,
    }
}

/// The timed launches of `settings`, in order, confirm trials left out (they measure other things on the way).
/// Disturbed ones count only where there are no others.
pub(super) fn timings<'a>(seen: &[&'a Observation], settings: &Configuration) -> Vec<&'a Timing> {
    let of = |verdict: Verdict| -> Vec<&'a Timing> {
        seen.iter()
            .filter(|o| {
                &o.settings == settings && o.purpose != Purpose::Confirm && o.verdict == verdict && usable(o)
            })
            .filter_map(|o| o.timing.as_ref())
            .collect()
    };
    let good = of(Verdict::Fit);
    if good.is_empty() { of(Verdict::Disturbed) } else { good }
}

fn usable(o: &Observation) -> bool {
    o.timing.as_ref().is_some_and(|t| t.samples_per_second.is_finite() && t.samples_per_second > 0.0)
}

/// Variance of the logarithm of one launch's rate that its own steps show.
pub(super) fn within(t: &Timing) -> f64 {
    let half = ((t.interval.1 - t.interval.0) / 2.0).max(0.0);
    // A 95 % interval; capped, because a launch with a wild interval is still a launch.
    (half / 1.96 / t.samples_per_second).min(0.5).powi(2)
}

/// Standard deviation between launches: the assumption, and what repeats have shown, pooled.
pub(super) fn noise(seen: &[&Observation], assumed: f64) -> f64 {
    let mut groups: Vec<(&Configuration, Vec<f64>)> = Vec::new();
    for o in seen.iter().filter(|o| o.verdict == Verdict::Fit && o.purpose != Purpose::Confirm && usable(o)) {
        let Some(t) = &o.timing else { continue };
        let value = t.samples_per_second.ln();
        match groups.iter_mut().find(|(s, _)| *s == &o.settings) {
            Some((_, values)) => values.push(value),
            None => groups.push((&o.settings, vec![value])),
        }
    }
    let (mut squares, mut degrees) = (NOISE_WEIGHT * assumed.powi(2), NOISE_WEIGHT);
    for (_, values) in &groups {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        squares += values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        degrees += values.len() as f64 - 1.0;
    }
    (squares / degrees).sqrt()
}
