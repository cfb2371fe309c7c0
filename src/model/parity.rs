//! What tells whether a trial trains like the baseline.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::number;

/// A long vector in a few numbers.  The sums are those of its elements with random signs, each element in one of them:
/// a linear map that keeps lengths on average, so that the difference of two sketches is as long as that of the vectors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    /// Elements.
    pub count: u64,
    /// Length.
    #[serde(with = "number")]
    pub norm: f64,
    /// Mean of the elements.
    #[serde(with = "number")]
    pub mean: f64,
    /// The sums.
    #[serde(with = "number")]
    pub sketch: Vec<f64>,
}

/// What the first steps have made of the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AfterSteps {
    /// Steps done.
    pub steps: u64,
    /// All parameters that are trained or belong to a root.
    pub parameters: Option<Sketch>,
    /// How they have changed: the sums of a sketch.
    #[serde(with = "number")]
    pub update: Vec<f64>,
    /// Buffers that have changed: running statistics and the like.
    pub buffers: Option<Sketch>,
    /// The samples that the outputs belong to.
    pub inputs: Option<Sketch>,
    /// What the first root returns for them in evaluation mode.
    pub outputs: BTreeMap<String, Sketch>,
    /// Why there are no outputs.
    pub without: Option<String>,
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The loss.
    Loss,
    /// The gradient norm before clipping.
    GradNorm,
    /// The norm of what the optimizer takes, after clipping.
    TakenNorm,
    /// The change of the parameters over the first steps.
    Update,
    /// Buffers after them.
    Buffers,
    /// An output in evaluation mode after them.
    Output,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::GradNorm => "gradient norm before clipping",
            Self::TakenNorm => "gradient norm that the optimizer takes",
            Self::Update => "change of the parameters",
            Self::Buffers => "content of the buffers",
            Self::Output => "evaluation output",
        })
    }
}

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every compared number lies within its band.
    Agrees,
    /// One does not.
    Diverged,
    /// The script does not repeat itself, so that nothing can be told.
    Unknown,
    /// There was nothing to compare.
    NotCompared,
}

/// One quantity's largest difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which.
    pub what: Quantity,
    /// Largest relative difference.
    #[serde(with = "number")]
    pub difference: f64,
    /// What was allowed there; absent where the difference is shown and not judged.
    pub band: Option<f64>,
}

/// A comparison with the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// In one word.
    pub outcome: Outcome,
    /// In one sentence.
    pub sentence: String,
    /// The figures behind it.
    pub figures: Vec<Figure>,
}
