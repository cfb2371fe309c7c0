//! A profile of one steady step, as the agent tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blocks::{BlockRow, Pieces};
use super::plan::Device;

/// One step under PyTorch's profiler, and what the memory of the next was for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Which step.
    pub step: u64,
    /// How long it took under the profiler: longer than without.
    pub seconds: f64,
    /// Whose memory is told.
    pub device: Device,
    /// Operators by their own time, most first; seconds.
    pub by_time: Vec<Operator>,
    /// Operators by the memory that they took and did not give back themselves; bytes.
    pub by_memory: Vec<Operator>,
    /// The device's memory at its peak; absent where this PyTorch does not show its allocator's trace.
    pub memory: Option<AtPeak>,
    /// The process on the host; bytes.
    pub host: HostParts,
    /// What is only roughly known.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One operator of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// `aten::addmm`.
    pub operator: String,
    /// Calls in the step.
    pub calls: u64,
    /// Seconds or bytes.
    pub value: f64,
    /// Of all operators' together.
    pub share: f64,
}

/// Memory in tensors at the moment when there was most of it; bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtPeak {
    /// How long the step took in which it was traced: longer than without.
    pub seconds: f64,
    /// All blocks of it together.
    pub peak: u64,
    /// The same as the allocator itself counted it, by another way.
    pub counted: u64,
    /// What there was when the step began.
    pub at_start: u64,
    /// `parameters`, `buffers`, `optimizer_state`, `gradients`, `activations`, `temporaries`, `inputs`, `kept`, `other`:
    /// they add up to the peak.
    pub categories: BTreeMap<String, u64>,
    /// The largest blocks.
    pub blocks: Vec<BlockRow>,
    /// On a GPU: how the allocator's memory was cut up when the step had ended.
    #[serde(default)]
    pub pieces: Option<Pieces>,
}

/// The process by the kernel's books after the step; bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostParts {
    /// Anonymous and shared memory.
    pub anonymous_and_shared: u64,
    /// Of it what is no tensor that outlives a step: the interpreter, libraries, data, freed memory that is kept.
    pub rest: u64,
    /// Pages of files: the code of libraries.
    pub mapped_files: u64,
    /// Highest resident set so far.
    pub rss_peak: u64,
}
