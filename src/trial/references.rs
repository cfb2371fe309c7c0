//! What a trial's training is compared with.  Pure.

use crate::model::parity::Compared;
use crate::model::{Inspection, Knob, Observation, Purpose};
use crate::verdict::bands::Terms;
use crate::verdict::parity::{Checked, Trace, check, is_reference};

/// Launches of the script as it is, as far as they were observed.
#[derive(Debug, Clone, Default)]
pub struct References {
    /// The first one, and one that repeats it.
    baseline: Option<Observation>,
    again: Option<Observation>,
    /// Without random draws, perhaps with a smaller batch; the latest.
    quiet: Option<Observation>,
}

impl References {
    /// Remembers a launch that others are compared with.
    pub fn learn(&mut self, o: &Observation) {
        if is_reference(o) {
            let place = if self.baseline.is_none() { &mut self.baseline } else { &mut self.again };
            if place.is_none() {
                *place = Some(o.clone());
            }
        } else if is_quiet_reference(o) {
            self.quiet = Some(o.clone());
        }
    }

    /// Compares a launch with what it is to be compared with; `None` where there is nothing of the kind.
    pub fn compare(&self, o: &Observation, found: Option<&Inspection>) -> Option<Checked> {
        let terms = Terms::new(&o.settings, found);
        match o.purpose {
            // It trains on the largest batch first: its data are not the baseline's, and the same settings were compared
            // when they were measured.
            Purpose::Confirm | Purpose::Prove => None,
            Purpose::Parity => {
                let quiet = self.quiet.as_ref().filter(|q| same_batch(q, o) && !is_quiet_reference(o))?;
                Some(check(Trace::of(quiet), Trace::of(o), &terms.without_draws(), None))
            }
            _ if o.settings.is_baseline() => None,
            _ => {
                let again = self.again.as_ref().map(Trace::of);
                Some(check(Trace::of(self.baseline.as_ref()?), Trace::of(o), &terms, again))
            }
        }
    }

    /// The same for the observation.
    pub fn told(checked: Option<&Checked>) -> Option<Compared> {
        checked.map(Checked::told)
    }
}

fn is_quiet_reference(o: &Observation) -> bool {
    o.purpose == Purpose::Parity && o.settings.without(Knob::BatchSize).is_baseline()
}

fn same_batch(a: &Observation, b: &Observation) -> bool {
    a.settings.get(Knob::BatchSize) == b.settings.get(Knob::BatchSize)
}
