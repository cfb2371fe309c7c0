//! Memory over the time of one trial, as the journal keeps it: few points, one column a figure.

use serde::{Deserialize, Serialize};

use super::number;

/// Memory over time; bytes, and seconds since the launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryTrace {
    /// When.  Each point has the highest value since the one before.
    #[serde(with = "number")]
    pub at: Vec<f64>,
    /// Host memory of the trial.
    pub host: Vec<u64>,
    /// Device memory of the trial, on the device with the most; empty where none was watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<u64>,
    /// What PyTorch's allocator counted; absent where training used no device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorTrace>,
}

/// Highest figures of PyTorch's caching allocator so far, at the end of steps; worst rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocatorTrace {
    /// When, in seconds since the launch.
    #[serde(with = "number")]
    pub at: Vec<f64>,
    /// In tensors, bytes.
    pub allocated: Vec<u64>,
    /// Taken from the device, bytes.
    pub reserved: Vec<u64>,
}
