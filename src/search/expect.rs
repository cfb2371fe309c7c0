//! What the search expected of each launch, to be read beside what was measured.

use std::collections::BTreeMap;

use super::SearchPlan;
use super::replay::Session;
use super::space::Space;
use crate::model::Observation;

/// What was expected of a launch, from the launches before it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Expected {
    /// Samples (or steps, where samples cannot be told) per second; only where something timed came before.
    pub rate: Option<f64>,
    /// Peak in the memory that the cap is about, bytes.
    pub peak_bytes: Option<u64>,
}

/// By trial number.  The first launch has none: nothing is known before it.
pub fn expectations(plan: &SearchPlan, history: &[Observation]) -> BTreeMap<u32, Expected> {
    let after_first = history.iter().enumerate().skip(1);
    after_first.filter_map(|(i, o)| Some((o.trial, of_one(plan, &history[..i], o)?))).collect()
}

pub(super) fn of_one(plan: &SearchPlan, before: &[Observation], o: &Observation) -> Option<Expected> {
    let session = Session::having_seen(plan, before);
    let space = Space::new(plan, session.inspection()?, plan.policy.numerics);
    let context = session.context(&space);
    let fitting = session.fitting();
    let speed = session.speed(&context, &fitting);
    let memory = session.memory(&context);
    let share = memory.expected_peak(&context, &o.settings);
    Some(Expected {
        rate: speed.knows_a_rate().then(|| speed.belief(&o.settings).mean.exp()),
        peak_bytes: share.map(|s| (s * session.cap_bytes() as f64) as u64),
    })
}
