//! What earlier searches of the same command on the same machine have measured.
//!
//! It says what to launch first, and what the models expect; like all expectations it claims nothing.  It counts only as
//! far as the script as it is still does what it did then: the same versions, batch and memory.

use std::collections::BTreeSet;

use super::launches::{State, noise, state_of, timings};
use super::replay::{Halt, Session, Step};
use super::space::Space;
use crate::model::size::Bytes;
use crate::model::{Configuration, Observation, Purpose};

/// Peaks of the script as it is, then and now, differ by less than this (logarithm of the ratio); those of equal launches
/// were seen to differ by up to a fifth on the processor.
const SAME_PEAK: f64 = 0.25;
/// Samples of its steps differ by less than this.
const SAME_STEP: f64 = 0.1;
/// What was not confirmed under this cap or a lower one is launched first if its peak leaves this share of the cap.
const ROOM: f64 = 0.03;
/// Standard deviation of a ratio of rates from one search to another, of which the script may have been edited.
const DRIFT: f64 = 0.05;

/// One earlier search.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    /// Its id.
    pub id: String,
    /// The script as it was.
    baseline: Baseline,
    /// What was launched beside it, the best first.
    pub(super) known: Vec<Known>,
}

#[derive(Debug, Clone, PartialEq)]
struct Baseline {
    peak: Option<u64>,
    fitted: bool,
    cap: Option<u64>,
    samples: Option<f64>,
    versions: std::collections::BTreeMap<String, String>,
}

/// What is known of a configuration that fitted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub settings: Configuration,
    /// What its rate was measured beside.
    pub beside: Configuration,
    /// Logarithm of the ratio of both rates, and its standard deviation.
    pub ratio: f64,
    pub sd: f64,
    /// Bytes.
    pub peak: u64,
    /// The cap under which it was confirmed, if it was.
    confirmed: Option<u64>,
}

impl Earlier {
    /// From a search's observations; `None` if they tell nothing that could be of use.
    pub fn of(id: &str, observations: &[Observation], usual_noise: f64) -> Option<Self> {
        // What did not hold under its own peak may hold under the limit.
        let seen: Vec<&Observation> = observations.iter().filter(|o| o.purpose != Purpose::Prove).collect();
        let first = observations.iter().find(|o| o.settings.is_baseline())?;
        let baseline = Baseline {
            peak: largest_peak(&seen, &first.settings),
            fitted: state_of(first) == State::Fits,
            cap: first.cap.bytes,
            samples: first.timing.as_ref().map(|t| t.samples_per_step),
            versions: observations.iter().find_map(|o| o.inspection.as_ref())?.frameworks.clone(),
        };
        let fits = |c: &Configuration| {
            let mut states = seen.iter().filter(|o| o.settings == *c).map(|o| state_of(o));
            states.clone().any(|s| s == State::Fits)
                && states.all(|s| matches!(s, State::Fits | State::Unknown))
        };
        let all: BTreeSet<&Configuration> =
            seen.iter().map(|o| &o.settings).filter(|c| fits(c) && !timings(&seen, c).is_empty()).collect();
        let beside = seen.iter().map(|o| &o.settings).find(|c| all.contains(c))?;
        let sd = noise(&seen, usual_noise);
        let mean = |c: &Configuration| {
            let rates = timings(&seen, c);
            let sum: f64 = rates.iter().map(|t| t.samples_per_second.ln()).sum();
            (sum / rates.len() as f64, sd * sd / rates.len() as f64)
        };
        let (level, level_variance) = mean(beside);
        let confirmed = |c: &Configuration| {
            let held = |o: &&&Observation| o.purpose == Purpose::Confirm && state_of(o) == State::Fits;
            seen.iter().filter(|o| o.settings == *c).find(held).map(|o| o.cap.bytes.unwrap_or(u64::MAX))
        };
        let one = |settings: &&Configuration| {
            let (rate, variance) = mean(settings);
            Some(Known {
                settings: (*settings).clone(),
                beside: beside.clone(),
                ratio: rate - level,
                sd: (variance + level_variance + DRIFT * DRIFT).sqrt(),
                peak: largest_peak(&seen, settings)?,
                confirmed: confirmed(settings),
            })
        };
        let mut known: Vec<Known> = all.iter().filter(|c| **c != beside).filter_map(one).collect();
        known.sort_by(|a, b| {
            b.confirmed.is_some().cmp(&a.confirmed.is_some()).then(b.ratio.total_cmp(&a.ratio))
        });
        (!known.is_empty()).then(|| Self { id: id.to_owned(), baseline, known })
    }

    /// Why it says nothing of the script as it is now.
    fn outdated(&self, now: &Observation, cap: u64) -> Option<String> {
        let then = &self.baseline;
        let versions = now.inspection.as_ref().map(|i| &i.frameworks);
        if versions.is_some_and(|v| *v != then.versions) {
            return Some("other versions were installed then".to_owned());
        }
        let samples = now.timing.as_ref().map(|t| t.samples_per_step);
        if let (Some(now), Some(then)) = (samples, then.samples)
            && (now / then).ln().abs() > SAME_STEP
        {
            return Some(format!("a step took {then:.0} samples then and takes {now:.0} now"));
        }
        let fits = state_of(now) == State::Fits;
        let (was, is) = (then.peak.filter(|_| then.fitted), now.peak().filter(|_| fits));
        let otherwise = match (was, is) {
            (Some(was), Some(is)) => (is as f64 / was as f64).ln().abs() > SAME_PEAK,
            // It should have fitted now, or then.
            (Some(was), None) => (was as f64) < cap as f64 * (1.0 - SAME_PEAK),
            (None, Some(is)) => then.cap.is_some_and(|cap| (is as f64) < cap as f64 * (1.0 - SAME_PEAK)),
            (None, None) => false,
        };
        let words =
            |peak: Option<u64>| peak.map_or("more than there was".to_owned(), |p| Bytes(p).to_string());
        otherwise.then(|| format!("the script as it is took {} then and takes {} now", words(was), words(is)))
    }
}

fn largest_peak(seen: &[&Observation], settings: &Configuration) -> Option<u64> {
    seen.iter()
        .filter(|o| o.settings == *settings && state_of(o) == State::Fits)
        .filter_map(|o| o.peak())
        .max()
}

/// Launches what was the best in an earlier search.  From now on the models know what that search knew.
pub(super) fn recall(session: &mut Session<'_>, space: &Space<'_>, baseline: &Observation) -> Step<()> {
    let cap = session.cap_bytes();
    for earlier in &session.plan.earlier {
        if let Some(why) = earlier.outdated(baseline, cap) {
            session.notes.push(format!("what search {} had measured is not used: {why}", earlier.id));
        } else {
            session.known.extend(&earlier.known);
            let many = earlier.known.len();
            session.notes.push(format!(
                "search {} of the same command had measured {many} {}; it says what was tried first",
                earlier.id,
                if many == 1 { "configuration" } else { "configurations" },
            ));
        }
    }
    let room = |k: &&&Known| {
        k.confirmed.is_some_and(|held| held <= cap) || (k.peak as f64) < cap as f64 * (1.0 - ROOM)
    };
    let open = |k: &&&Known| {
        session.state(&k.settings) == State::Unknown && space.allows(&k.settings) && !k.settings.is_baseline()
    };
    let best =
        session.known.iter().filter(room).filter(open).find(|k| k.ratio > 0.0 || !baseline_fits(baseline));
    let Some(settings) = best.map(|k| k.settings.clone()) else { return Ok(()) };
    match session.launch(&settings, Purpose::Climb) {
        Ok(_) | Err(Halt::Spent(_)) => Ok(()),
        Err(launch) => Err(launch),
    }
}

fn baseline_fits(baseline: &Observation) -> bool {
    state_of(baseline) == State::Fits
}

impl Session<'_> {
    /// What earlier searches know of configurations that this one has not launched.
    pub fn known_elsewhere(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().copied().filter(|k| !self.seen.iter().any(|o| o.settings == k.settings))
    }
}
