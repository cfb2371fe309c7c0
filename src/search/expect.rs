//! What the search expected of each launch, to be read beside what was measured.

use std::collections::BTreeMap;

use super::SearchPlan;
use super::replay::Session;
use super::space::Space;
use crate::model::observation::Kind;
use crate::model::{Configuration, Observation};

/// What is expected of a launch, from the launches before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Samples (or steps, where samples cannot be told) per second; only where something timed came before.
    pub rate: Option<f64>,
    /// Peak in the memory that the cap is about, bytes.
    pub peak_bytes: Option<u64>,
    /// Probability, 0 to 1, that it fits.
    pub fits: f64,
}

/// By trial number.  The first launch has none: nothing is known before it.  Nor has a launch whose memory is not that of
/// its settings: a sweep holds several configurations, and a comparison of losses may run with another batch.
pub fn expectations(plan: &SearchPlan, history: &[Observation]) -> BTreeMap<u32, Expected> {
    let after_first = history.iter().enumerate().skip(1);
    let of_settings = after_first.filter(|(_, o)| matches!(o.purpose.kind(), Kind::Measured | Kind::Confirm));
    of_settings.filter_map(|(i, o)| Some((o.trial, expected(plan, &history[..i], &o.settings)?))).collect()
}

/// Of one launch of `settings` after those of `before`; `None` where nothing was found out about the script.
pub(super) fn expected(
    plan: &SearchPlan,
    before: &[Observation],
    settings: &Configuration,
) -> Option<Expected> {
    let session = Session::having_seen(plan, before);
    let space = Space::new(plan, session.inspection()?, plan.policy.numerics);
    let context = session.context(&space);
    let fitting = session.fitting();
    let speed = session.speed(&context, &fitting);
    let memory = session.memory(&context);
    let share = memory.expected_peak(&context, settings);
    Some(Expected {
        rate: speed.knows_a_rate().then(|| speed.belief(settings).mean.exp()),
        peak_bytes: share.map(|s| (s * session.cap_bytes() as f64) as u64),
        fits: memory.fits(&context, settings),
    })
}
