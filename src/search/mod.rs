//! (plan, history) -> the next trial, or the end.  Pure and deterministic.
//!
//! # Theory of operation
//! The search is written as a straight procedure ([`procedure`]) that asks for launches as it goes.  [`next`] runs it
//! from its beginning over the history: each launch that the procedure asks for is taken from there, and the first
//! one that is not there is the answer.  At every point the procedure knows only what had been seen at that point, so
//! a resumed search takes exactly the path that an uninterrupted one would have taken ([`replay`]).
//!
//! 1. **Baseline.**  The script as it is; this launch also inspects it.  If it fails for a reason that is not memory,
//!    the search is over.
//! 2. **Climb** ([`climb`]), if the baseline does not fit: the ladder's rungs in their order until something fits.
//!    After each launch that ran out of memory, a small model of memory ([`memory`]) says how likely each rung is to
//!    suffice; those that are hopeless by it are put off to the end, so that a script far above its cap is not walked
//!    up step by step.  If nothing fits within the policy's bound, one bound further is measured as advice.
//!    What an earlier search of the same command found best is launched before ([`earlier`]).  If all that fits hardly
//!    does, it is confirmed at once ([`secure`]); where that fails, the climb goes on.
//! 3. **Sweep** ([`sweep`]): one launch measures in turns, between the steps of one process, what can be turned there.
//!    Its ratios are sharper than those of separate launches; what they promise is launched by itself like anything
//!    else.
//! 4. **Explore** ([`explore`]): neighbours of what fits (other rungs, knobs that add speed, rungs taken off again),
//!    and several such steps at once where what was measured makes each of them sure, are launched in the order of
//!    expected improvement times probability to fit.  Expected improvement comes from a regression on the logarithm of
//!    the rate ([`speed`]): effects of knobs add up, each has a prior (what it usually costs or gains) which
//!    measurements replace.  It ends when no launch promises more than 1 %.
//! 5. **Settle** ([`settle`]): those that could still be the fastest are launched again, in turns, until
//!    [`crate::verdict::compare`] tells them apart or they have had their share.
//! 6. **Prune**: each knob of the winner is taken away once; where that makes no measurable difference, and it still
//!    fits, the simpler configuration wins.
//! 7. **Compare** how the winner trains where its launches could not tell ([`same_training`]): the script as it is does
//!    not fit, or the winner draws other random numbers.  A winner that trains otherwise hands over to the next best.
//! 8. **Confirm** ([`confirm`]) the winner in a fresh, longer launch; if that fails, or if it comes nearer to the limit
//!    than equal launches differ by, the next best, and it is said.  What the trial needed beyond the first steps is
//!    expected of everything else; if nothing should hold with that, all of this begins again at the climb, once.  Where it is asked for, the winner is launched once
//!    more under its own peak as the limit.
//!
//! Where several launches can run at a time, [`ahead`] guesses what will be asked for while others run.
//!
//! Whatever the budget cuts short, the best so far is confirmed: its time is kept back from the start.
//!
//! **Architecture invariants:** predictions choose the order of launches and never what is claimed.  Only memory steers
//! the climb: a candidate that fails otherwise, diverges, hangs or is not in force is struck out with the reason.
//! Memory and speed are never assumed to be monotone in a knob: a measured configuration is what was measured.

mod ahead;
mod bans;
mod climb;
mod confirm;
mod earlier;
mod expect;
mod explore;
mod footprint;
mod launches;
mod linear;
mod memory;
mod outcome;
mod priors;
mod procedure;
mod replay;
mod same_training;
mod secure;
mod settle;
mod space;
mod speed;
mod sweep;

use std::collections::BTreeMap;

use crate::inspect::MachineFacts;
use crate::model::observation::Cap;
use crate::model::plan::Device;
use crate::model::{Inspection, Knob, Observation};
use crate::recipe::{KnobRule, Limits, Policy, Recipe, Rung};

pub use ahead::{ahead, same_launch};
pub use earlier::Earlier;
pub use expect::{Expected, expectations};
pub use launches::usual_noise;
pub use outcome::{Advice, Beyond, Next, Outcome, OutcomeEnd, Skipped};

/// All that a search depends on besides what it measures.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchPlan {
    /// Where training happens.
    pub device: Device,
    /// What the first launch found; `None` before it (it is then looked for in the history).
    pub inspection: Option<Inspection>,
    /// The rungs to climb.
    pub ladder: Vec<Rung>,
    /// The recipe's words on knobs.
    pub rules: BTreeMap<Knob, KnobRule>,
    /// What may change.
    pub policy: Policy,
    /// What it may cost.
    pub limits: Limits,
    /// The machine.
    pub machine: MachineFacts,
    /// Relative standard deviation between launches of one configuration, as far as it is known beforehand.
    pub noise: f64,
    /// What earlier searches of the command know, the latest first.
    pub earlier: Vec<Earlier>,
    /// The memory limit.
    pub cap: Cap,
    /// Seconds since the search began (earlier parts of a resumed one included); at least the trials' own time.
    pub seconds_spent: f64,
}

impl SearchPlan {
    /// A plan from a recipe, before anything was launched.
    pub fn new(device: Device, recipe: &Recipe, machine: MachineFacts) -> Self {
        Self {
            device,
            inspection: None,
            ladder: recipe.ladder.clone(),
            rules: recipe.knobs.clone(),
            policy: recipe.policy,
            limits: recipe.limits,
            machine,
            noise: launches::usual_noise(device),
            earlier: Vec::new(),
            cap: Cap::default(),
            seconds_spent: 0.0,
        }
    }
}

/// What to do next, given everything that was measured so far (in the order in which it was measured).
pub fn next(plan: &SearchPlan, history: &[Observation]) -> Next {
    procedure::run(plan, history)
}

#[cfg(test)]
mod tests;
