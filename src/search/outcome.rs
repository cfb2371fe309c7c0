//! How a search answers.

use crate::model::{Configuration, NumericsClass, TrialSpec};

/// The next launch, or the end.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one of these at a time")]
pub enum Next {
    /// Launch this.
    Trial(TrialSpec),
    /// There is nothing more to launch.
    Stop(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeEnd {
    /// A configuration was confirmed.
    Tuned,
    /// Nothing fits within the bounds.
    NothingFits,
    /// The script fails for a reason that is not memory.
    ScriptFails,
    /// The agent could not start in the script.
    AgentMissing,
    /// Something fits, but no launch was left to confirm it, or no confirm trial succeeded.
    Unconfirmed,
}

/// The end of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub end: OutcomeEnd,
    /// The number of the winner's confirm trial.
    pub winner: Option<u32>,
    /// The winner's configuration; the best seen where nothing was confirmed.
    pub settings: Option<Configuration>,
    /// One sentence for people.
    pub reason: String,
    /// Where nothing fits: what fits one bound further.
    pub fits_beyond: Option<Beyond>,
    /// What else could be done.
    pub advice: Vec<Advice>,
    /// Moves that were not tried or were struck out.
    pub skipped: Vec<Skipped>,
    /// What must not be missed: a confirm trial that failed, a budget that cut the search short.
    pub notes: Vec<String>,
}

/// What fits beyond the policy's bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// The configuration.
    pub settings: Configuration,
    /// The bound that allows it.
    pub class: NumericsClass,
    /// The option to type: `--numerics precision`.
    pub option: String,
    /// The trial in which it fit.
    pub trial: u32,
}

/// A piece of advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// One sentence, figures included.
    pub text: String,
    /// What was measured for it, if anything was.
    pub trial: Option<u32>,
    /// The option that allows it: `--batch max`.
    pub option: Option<String>,
}

/// A move that was not tried, or was struck out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The move: `num_workers`, `amp=bf16`.
    pub what: String,
    /// Why.
    pub why: String,
}
