//! What went wrong, as read from a program's output and its end.

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The accelerator's allocator, or the runtime, refused a device allocation.
    GpuOom,
    /// Device memory ran out, and a library said so in its own way (cuBLAS, cuDNN, cuFFT, NCCL, NVML).
    GpuOomLibrary,
    /// Memory of the host ran out: allocation refused, or the process killed by the kernel, a cgroup or a scheduler.
    HostOom,
    /// Shared memory (`/dev/shm`) ran out.
    ShmOom,
    /// A DataLoader worker died; the text does not say of what.
    WorkerKilled,
    /// Too many open files.
    FdLimit,
    /// Anything else.
    NotMemory,
}

impl FailureKind {
    /// Whether a lower demand for memory could have avoided it, so that the search may climb on.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::GpuOom | Self::GpuOomLibrary | Self::HostOom | Self::ShmOom)
    }
}

/// Numbers that the text states; absent where it does not.  Sizes are bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureFields {
    /// The accelerator's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_index: Option<u32>,
    /// The allocation that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_bytes: Option<u64>,
    /// Device capacity, or the limit of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Free on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Allocated by PyTorch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// Reserved by PyTorch but unallocated (also the old "cached" figure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_unallocated_bytes: Option<u64>,
    /// Reserved in total by PyTorch (the older form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_total_bytes: Option<u64>,
    /// In private pools (CUDA graphs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_pool_bytes: Option<u64>,
    /// A per-process limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_bytes: Option<u64>,
    /// Used by this process, non-PyTorch memory included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_in_use_bytes: Option<u64>,
    /// Used by another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_process_bytes: Option<u64>,
    /// The version of PyTorch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_version: Option<String>,
    /// As stated: negative for a signal, or 128 + signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// `SIGKILL`, `SIGSEGV`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// A failure, read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// Only for GPU OOM: whether reserved-but-unallocated memory is at least half of the failed request; `None`
    /// when the text has not both numbers.
    pub fragmentation: Option<bool>,
    /// What the text states.
    pub fields: FailureFields,
    /// One sentence for people.
    pub cause: String,
    /// The line that decided, if one did.
    pub evidence: Option<String>,
    /// What to do, in the order to try.
    pub next: Vec<String>,
}
