//! Settings that are struck out, and for what they are struck out.

use super::space::with;
use crate::model::event::KnobReport;
use crate::model::{Configuration, Knob, Observation, Value, Verdict};

/// What is struck out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ban {
    /// Every configuration that has these values.
    With(Configuration),
    /// Every value of this knob.
    Knob(Knob),
    /// This count and larger ones.
    From(Knob, i64),
}

impl Ban {
    pub(super) fn hits(&self, settings: &Configuration) -> bool {
        match self {
            Self::With(part) => part.0.iter().all(|(k, v)| settings.get(*k) == Some(v)),
            Self::Knob(knob) => settings.get(*knob).is_some(),
            Self::From(knob, low) => settings.int(*knob).is_some_and(|v| v >= *low),
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::With(part) => part.to_string(),
            Self::Knob(knob) => knob.to_string(),
            Self::From(knob, low) => format!("{knob}={low} and more"),
        }
    }
}

/// What a launch with a bad end strikes out.  `sound` are configurations that ran without such an end.
pub(super) fn blame<'a>(o: &Observation, sound: impl Iterator<Item = &'a Configuration>) -> Vec<Ban> {
    if o.verdict == Verdict::NotApplied {
        let mut bans = Vec::new();
        for report in &o.knobs {
            let asked = o.settings.get(report.knob);
            if asked.is_none() || report.effective.as_ref() == asked {
                continue;
            }
            bans.push(not_applied(report));
        }
        if !bans.is_empty() {
            return bans;
        }
    }
    let sound: Vec<&Configuration> = sound.collect();
    let part = difference(&o.settings, sound.iter().copied());
    // Of several new settings, those whose knob has never been turned in a launch that ran are to blame.
    let known = |knob: &Knob| sound.iter().any(|s| s.get(*knob).is_some());
    let new: Configuration =
        Configuration(part.0.iter().filter(|(k, _)| !known(k)).map(|(k, v)| (*k, v.clone())).collect());
    vec![Ban::With(if new.is_baseline() { part } else { new })]
}

/// What a knob that is not in force strikes out.
pub(super) fn not_applied(report: &KnobReport) -> Ban {
    let KnobReport { knob, requested, objects, .. } = report;
    match (*knob, requested) {
        // A batch of six can be split into two and not into eight.
        (Knob::Accumulation, Value::Int(k)) => Ban::From(*knob, *k),
        // Nothing to act on, or a script that sets its own number of threads or workers: no other value will do.
        (_, Value::Int(_)) => Ban::Knob(*knob),
        (Knob::Checkpoint | Knob::Amp | Knob::Compile | Knob::ActivationMemoryBudget, _) if *objects == 0 => {
            Ban::Knob(*knob)
        }
        _ => Ban::With(with(&Configuration::baseline(), *knob, requested.clone())),
    }
}

/// The part of `settings` that a sound configuration below it does not have; the smallest such part.
fn difference<'a>(settings: &Configuration, sound: impl Iterator<Item = &'a Configuration>) -> Configuration {
    let mut least = settings.clone();
    for below in sound {
        if below == settings || !below.0.iter().all(|(k, v)| settings.get(*k) == Some(v)) {
            continue;
        }
        let rest: Configuration = Configuration(
            settings
                .0
                .iter()
                .filter(|(k, _)| below.get(**k).is_none())
                .map(|(k, v)| (*k, v.clone()))
                .collect(),
        );
        if rest.0.len() < least.0.len() {
            least = rest;
        }
    }
    least
}
