//! What memory is held for: blocks by category, and by the line that made them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Blocks that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// `activations`, `parameters`, ...
    pub category: String,
    /// All of them together.
    pub bytes: u64,
    /// How many.
    pub count: u64,
    /// The user's line that made them, `train.py:41`; absent where it was not seen.
    #[serde(default)]
    pub place: Option<String>,
    /// The operator that made them, or the parameter's name.
    #[serde(default)]
    pub what: Option<String>,
    /// Of the tensor in each, where one was seen.
    #[serde(default)]
    pub shape: Option<Vec<u64>>,
    /// `float32`.
    #[serde(default)]
    pub dtype: Option<String>,
}

/// How the memory that PyTorch's caching allocator has taken from a GPU is cut up; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Taken from the driver.
    pub reserved: u64,
    /// Of it in tensors.
    pub allocated: u64,
    /// Whole segments that are free and could be given back.
    pub free_segments: u64,
    /// Free parts between blocks that are in use: fragmentation.
    pub free_parts: u64,
    /// The largest free piece: no larger request is served without the driver.
    pub largest_free: u64,
}

/// What was alive when memory ran out, as far as the process could still tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// In tensors, bytes.
    pub bytes: u64,
    /// By category; they add up to it.
    pub categories: BTreeMap<String, u64>,
    /// The largest.
    pub blocks: Vec<BlockRow>,
    /// Of the GPU's allocator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
    /// The look was cut short: there is more than this.
    #[serde(default)]
    pub partial: bool,
}
