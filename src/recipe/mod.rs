//! YAML -> [`Recipe`]: command, knobs, ladder, policy, limits.
//!
//! A recipe says *what may be tried and in which order*; it never says what is true.  The format is documented key by
//! key in `recipes/README.md`.  Every mistake in a recipe is a [`RecipeError`] that names the file, the line, the
//! column and the key, and what was probably meant.
//!
//! **Architecture invariant:** this room reads text, never files.  Shipped recipes are part of the binary.

mod error;
mod executor;
mod knobs;
mod ladder;
mod parse;
mod scalars;
mod shipped;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::plan::Device;
use crate::model::{BatchPolicy, Configuration, Knob, NumericsClass, Value};

pub use error::{RecipeError, RecipeErrorKind};
pub use executor::{Executor, Slurm};
pub use parse::{check, load};
pub use shipped::{about, default_for, names, shipped, text};

/// A way of tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// File name without its ending, or the name of a shipped recipe.
    pub name: String,
    /// What it is for and what it costs, for people.
    pub about: String,
    /// The command that it carries.
    pub command: Option<Vec<String>>,
    /// Where its command is launched: the recipe's own folder, or its `directory` seen from there.  Only meant for
    /// [`Recipe::command`]; a command typed after `--` runs where the user stands.
    pub directory: PathBuf,
    /// Where training happens; `None`: a GPU if there is one.
    pub device: Option<Device>,
    /// Memory that may be used, bytes.
    pub memory_cap: Option<u64>,
    /// How knobs are turned, by the user's words.
    pub knobs: BTreeMap<Knob, KnobRule>,
    /// Moves that lower the demand for memory, in the order in which they are tried.
    pub ladder: Vec<Rung>,
    /// What may change.
    pub policy: Policy,
    /// What the search may cost.
    pub limits: Limits,
    /// Where trials are launched.
    pub executor: Executor,
    /// What SLURM is asked for, if it is that.
    pub slurm: Slurm,
}

/// What a recipe says about one knob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnobRule {
    /// Arguments to append; `{value}` and `{<knob's name>}` stand for the value.
    pub args: Vec<String>,
    /// Environment variables to set; the same placeholders.
    pub env: BTreeMap<String, String>,
    /// The only values to try; empty: autofit's own choice.
    pub values: Vec<Value>,
    /// Never turn it.
    pub off: bool,
}

/// One step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    /// One knob, its values in this order; empty: autofit's own values.
    Knob {
        /// Which.
        knob: Knob,
        /// In the order to try.
        values: Vec<Value>,
    },
    /// Several knobs at once.
    Together(Configuration),
}

/// What may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The loosest class of a knob that may be turned without asking.
    pub numerics: NumericsClass,
    /// What may happen to the effective batch.
    pub batch: BatchPolicy,
    /// The largest effective batch that may be tried, in samples.
    pub max_batch: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { numerics: NumericsClass::Precision, batch: BatchPolicy::Keep, max_batch: None }
    }
}

/// What the search may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Seconds for the whole search, the confirm trial included.
    pub budget: Option<f64>,
    /// Launches at most, the confirm trial included.
    pub max_trials: Option<u32>,
    /// Seconds for one trial.
    pub trial_timeout: Option<f64>,
    /// Share of the cap that is kept free, 0 to 0.9: trials run under the cap less this.  None by default: a winner leaves
    /// as much room as its launches differ by (`search::confirm`), and what is kept free on top costs speed.
    pub margin: f64,
    /// Whether the winner is launched once more under its own peak as the limit.
    pub prove_peak: bool,
    /// Whether a larger batch is measured for advice when the policy keeps the batch; `None`: when it is cheap.
    pub advice: Option<bool>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget: None,
            max_trials: None,
            trial_timeout: None,
            margin: 0.0,
            prove_peak: false,
            advice: None,
        }
    }
}

impl Recipe {
    /// Whether the recipe forbids this knob.
    pub fn is_off(&self, knob: Knob) -> bool {
        self.knobs.get(&knob).is_some_and(|k| k.off)
    }

    /// The recipe's own way to turn this knob, if it gives one.
    pub fn rule(&self, knob: Knob) -> Option<&KnobRule> {
        self.knobs.get(&knob).filter(|k| !k.args.is_empty() || !k.env.is_empty())
    }
}

#[cfg(test)]
mod tests;
