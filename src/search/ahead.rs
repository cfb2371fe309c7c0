//! What the search is likely to ask for while launches that it has asked for still run.
//!
//! The procedure is run over the history and over what the running launches are expected to show.  What it then asks
//! for is worth launching at once, where there is room.  Should it turn out otherwise, the procedure goes its own way,
//! as it would have gone without: it takes a launch from the history only when it comes to ask for it, so that a guess
//! changes when something is launched and never what is decided.
//!
//! Launches that others are compared with (the script as it is, without random draws), sweeps and confirm trials are
//! waited for: what is judged by them, or suggested by them, must be launched after them.

use super::expect::expected;
use super::launches::{State, state_of};
use super::{Next, SearchPlan, next};
use crate::model::observation::Kind;
use crate::model::{Observation, TrialSpec, Verdict};

/// Whether one launch answers the question of the other.  There is one sweep of a configuration, whatever its windows are:
/// what they do not tell is found out otherwise.
pub fn same_launch(a: &TrialSpec, b: &TrialSpec) -> bool {
    a.settings == b.settings && a.purpose.kind() == b.purpose.kind()
}

/// A launch that is worth beginning while `running` are not over; `None` where nothing can be told.
pub fn ahead(plan: &SearchPlan, history: &[Observation], running: &[TrialSpec]) -> Option<TrialSpec> {
    let mut imagined = history.to_vec();
    for spec in running {
        let stand_in = Some(spec).filter(|s| may_be_guessed(s)).and_then(|s| imagine(plan, &imagined, s))?;
        imagined.push(stand_in);
    }
    match next(plan, &imagined) {
        Next::Trial(spec) => Some(spec).filter(may_be_guessed),
        Next::Stop(_) => None,
    }
}

fn may_be_guessed(spec: &TrialSpec) -> bool {
    spec.purpose.kind() == Kind::Measured && !spec.settings.is_baseline()
}

/// What a launch is expected to show: as the latest that ended the way it is expected to end, with figures of its own.
fn imagine(plan: &SearchPlan, history: &[Observation], spec: &TrialSpec) -> Option<Observation> {
    let latest = |state: State| {
        let measured = history.iter().filter(|o| o.purpose.kind() == Kind::Measured);
        measured.rev().find(|o| state_of(o) == state)
    };
    let again =
        history.iter().rev().find(|o| o.settings == spec.settings && o.purpose.kind() == Kind::Measured);
    let expected = expected(plan, history, &spec.settings)?;
    let (likely, otherwise) = match expected.fits >= 0.5 {
        true => (State::Fits, State::TooLarge),
        false => (State::TooLarge, State::Fits),
    };
    let mut o = again.or_else(|| latest(likely)).or_else(|| latest(otherwise))?.clone();
    o.trial = history.iter().map(|o| o.trial).max().unwrap_or(0) + 1;
    (o.settings, o.purpose, o.inspection) = (spec.settings.clone(), spec.purpose, None);
    if o.verdict == Verdict::Disturbed {
        // It is not expected to be launched once more.
        o.verdict = Verdict::Fit;
    }
    if let (Some(timing), Some(rate)) = (&mut o.timing, expected.rate) {
        let factor = rate / timing.samples_per_second;
        timing.samples_per_second = rate;
        timing.interval = (timing.interval.0 * factor, timing.interval.1 * factor);
        timing.step_seconds.iter_mut().for_each(|seconds| *seconds /= factor);
    }
    if let (Some(peak), State::Fits) = (expected.peak_bytes, state_of(&o)) {
        let place = if o.peaks.device.is_some() { &mut o.peaks.device } else { &mut o.peaks.host };
        *place = Some(peak);
    }
    Some(o)
}
