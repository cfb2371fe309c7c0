//! That what is taken for fitting holds for a whole run.
//!
//! The first steps of a script do not evaluate or save, and need not meet the largest of its batches.  What came nearer to
//! the limit in them than equal launches differ is looked at as a confirm trial looks before launches are spent on what is
//! faster; and what such a trial has needed beyond the first steps, others will need as well.

use super::climb::climb;
use super::confirm::holds;
use super::launches::{State, state_of};
use super::memory::MemoryModel;
use super::priors::Context;
use super::replay::{Halt, Session, Step};
use super::space::Space;
use crate::model::plan::Device;
use crate::model::{Configuration, Observation, Purpose};

/// Climbs until something should hold for a whole run, or was seen to; whether anything fits at all.
pub(super) fn secure(session: &mut Session<'_>, space: &Space<'_>) -> Step<bool> {
    loop {
        let fitting = session.fitting_in(space);
        if !should_hold(session, space, &fitting).is_empty() || !held(session).is_empty() {
            return Ok(true);
        }
        let least = fitting.into_iter().min_by_key(|c| session.highest(c));
        let Some(settings) = least.filter(|_| !ran_out_later(session)) else {
            let fits = !session.fitting_in(space).is_empty();
            match climb(session, space, Purpose::Climb) {
                Ok(true) => continue,
                // No rung is left.  What fits is confirmed all the same: it may hold.
                Ok(false) => return Ok(fits),
                Err(Halt::Spent(_)) if fits => return Ok(true),
                Err(halt) => return Err(halt),
            }
        };
        match session.launch(&settings, Purpose::Confirm) {
            Ok(o) if state_of(o) == State::TooLarge => session.notes.push(not_confirmed(o)),
            // What else may go wrong in it is seen to where a winner is confirmed.
            Ok(_) | Err(Halt::Spent(_)) => return Ok(true),
            Err(launch) => return Err(launch),
        }
    }
}

/// Said of a confirm trial that did not hold.
pub(super) fn not_confirmed(o: &Observation) -> String {
    format!("{} was not confirmed (trial {}: {})", o.settings, o.trial, o.why)
}

/// Whether a confirm trial ran out of memory.
pub(super) fn ran_out_later(session: &Session<'_>) -> bool {
    session.seen.iter().any(|o| o.purpose == Purpose::Confirm && state_of(o) == State::TooLarge)
}

/// The latest confirm trial of these settings, if it held and nothing has unsaid it.
pub(super) fn confirmed_already<'a>(
    session: &Session<'a>,
    settings: &Configuration,
) -> Option<&'a Observation> {
    held(session).into_iter().find(|o| o.settings == *settings)
}

/// The latest confirm trial that held, of anything but `without`.
pub(super) fn confirmed<'a>(session: &Session<'a>, without: &[Configuration]) -> Option<&'a Observation> {
    held(session).into_iter().find(|o| !without.contains(&o.settings))
}

fn held<'a>(session: &Session<'a>) -> Vec<&'a Observation> {
    let fits = |o: &&Observation| session.state(&o.settings) == State::Fits;
    let all = session.seen.iter().rev().copied();
    all.filter(|o| o.purpose == Purpose::Confirm && holds(o)).filter(fits).collect()
}

/// Those of `fitting` that leave room in what was seen of them, and should in a whole run.
fn should_hold<'c>(
    session: &Session<'_>,
    space: &Space<'_>,
    fitting: &'c [Configuration],
) -> Vec<&'c Configuration> {
    let context = session.context(space);
    let memory = session.memory(&context);
    fitting.iter().filter(|c| session.should_hold(&context, &memory, c)).collect()
}

impl Session<'_> {
    /// Whether a configuration leaves room in what was seen of it, and should in a whole run.
    pub fn should_hold(&self, context: &Context<'_>, memory: &MemoryModel, settings: &Configuration) -> bool {
        let room = match self.plan.device {
            Device::Cpu => self.room(settings) as f64 / self.cap_bytes() as f64,
            Device::Cuda => 0.0,
        };
        let whole = || memory.whole_peak(context, settings).is_none_or(|share| share + room <= 1.0);
        self.has_room(settings) && (confirmed_already(self, settings).is_some() || whole())
    }

    /// What fits and should hold; where nothing does, what fits.
    pub fn may_win(&self, space: &Space<'_>) -> Vec<Configuration> {
        let fitting = self.fitting_in(space);
        let holding = should_hold(self, space, &fitting);
        if holding.is_empty() { fitting } else { holding.into_iter().cloned().collect() }
    }
}
