//! What is known about a machine.  Everything that can be absent is optional.

use serde::{Deserialize, Serialize};

use crate::watch::health::GpuHealth;
use crate::watch::nvml::GpuFacts;

/// Everything that the rules judge.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Kernel, distribution, container.
    pub system: System,
    /// Driver and GPUs.
    pub nvidia: Nvidia,
    /// The interpreter and what it imports.
    pub python: Python,
    /// Memory, processors and limits.
    pub host: Host,
    /// Programs beside Python.
    pub tools: Tools,
    /// What launches get here.
    pub launches: Launches,
}

/// Kernel, distribution, container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Packages come by `apt-get`.
    pub apt: bool,
    /// `docker`, `podman`, `kubernetes`, or what systemd says.
    pub container: Option<String>,
    /// We are root: nothing needs `sudo`, which containers often lack.
    pub root: bool,
    /// Windows Subsystem for Linux.
    pub wsl: bool,
}

/// How NVML answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Nvml {
    /// It lists devices.
    Loaded,
    /// No library.
    #[default]
    NoLibrary,
    /// The kernel module is not there.
    NoDriver,
    /// The device files may not be opened.
    NoPermission,
    /// Library and kernel module have different versions.
    VersionMismatch,
    /// The library is too old.
    TooOld,
    /// Anything else.
    Failed,
}

/// Driver and GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nvidia {
    /// How NVML answered.
    pub nvml: Nvml,
    /// Its words, where it did not load.
    pub said: Option<String>,
    /// `570.124.06`.
    pub driver: Option<String>,
    /// Highest CUDA version that the driver serves.
    pub cuda: Option<Version>,
    /// NVIDIA display controllers on the PCI bus.
    pub on_bus: u32,
    /// The kernel has the driver's module.
    pub module: bool,
    /// GPUs that the driver counts and does not let anybody use.
    pub lost: Vec<u32>,
    /// `CUDA_VISIBLE_DEVICES`, where it is set.
    pub visible: Option<String>,
    /// GPUs, or the parts of a divided one.
    pub gpus: Vec<Gpu>,
}

/// Major and minor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Reads `12.8`, and `9.1.0` as 9.1.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        Some(Self(parts.next()?.parse().ok()?, parts.next().unwrap_or("0").parse().ok()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// One GPU, or one part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Which.
    pub facts: GpuFacts,
    /// Bytes in use by anybody.
    pub used: Option<u64>,
    /// Bytes free.
    pub free: Option<u64>,
    /// Who computes on it; `None` where the driver has no list.
    pub processes: Option<Vec<Holder>>,
    /// The first thing that the driver would not tell.
    pub unread: Option<String>,
    /// Its state.
    pub health: GpuHealth,
    /// NUMA node that it is attached to.
    pub node: Option<u32>,
}

/// A process that holds device memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// As NVML says it.
    pub pid: u32,
    /// Bytes, where the driver tells.
    pub used: Option<u64>,
    /// Its program; `None` for a process of another container.
    pub program: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
}

/// The interpreter and what it imports.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Python {
    /// As it was started: `python`.
    pub command: String,
    /// Why it told nothing, where it did not.
    pub failed: Option<String>,
    /// What it told.
    pub answer: Option<Answer>,
}

/// What the interpreter told about itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Answer {
    /// `3.11.7`.
    pub version: String,
    /// `sys.executable`.
    pub executable: String,
    /// Can make virtual environments.
    pub venv: bool,
    /// Has its headers (`Python.h`), which Triton compiles against.
    pub headers: bool,
    /// Why `import torch` failed, where it did.
    pub torch_error: Option<String>,
    /// PyTorch.
    pub torch: Option<Torch>,
}

/// PyTorch as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Torch {
    /// `2.11.0+cu130`.
    pub version: String,
    /// CUDA that it was built with, `13.0`.
    pub cuda: Option<String>,
    /// ROCm that it was built with.
    pub hip: Option<String>,
    /// `torch.cuda.is_available()`.
    pub available: bool,
    /// Why not, in CUDA's words.
    pub unavailable: Option<String>,
    /// `torch.cuda.device_count()`.
    pub devices: u32,
    /// `sm_90`, `compute_90`, ...
    pub arch: Vec<String>,
    /// `9.10.2`.
    pub cudnn: Option<String>,
    /// `2.27.5`.
    pub nccl: Option<String>,
    /// Triton is there, which `torch.compile` needs on a GPU.
    pub triton: bool,
    /// Why tensors cannot be shared with NumPy, where they cannot.
    pub numpy: Option<String>,
    /// `torch.get_num_threads()`.
    pub threads: u32,
}

/// Memory, processors and limits; bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Host {
    /// As the processor calls itself.
    pub cpu: String,
    /// Processors that this process may run on.
    pub cores: u32,
    /// The cgroup's share of processors, in cores.
    pub cpu_quota: Option<f64>,
    /// NUMA nodes.
    pub nodes: u32,
    /// Nodes of the processors that this process may run on.
    pub our_nodes: Vec<u32>,
    /// Installed memory.
    pub ram: u64,
    /// Can be had without swapping.
    pub available: u64,
    /// Swap space.
    pub swap: u64,
    /// Of it in use.
    pub swap_used: u64,
    /// The lowest memory limit of our cgroups.
    pub limit: Option<u64>,
    /// Size of `/dev/shm`; `None` without one.
    pub shm: Option<u64>,
    /// Of it in use.
    pub shm_used: u64,
    /// `ulimit -n`; `None` is unlimited.
    pub open_files: Limit,
    /// `ulimit -l`, bytes.
    pub locked: Limit,
    /// `ulimit -v`, bytes.
    pub address_space: Limit,
    /// The kernel promises no more memory than it has (`vm.overcommit_memory=2`).
    pub strict_overcommit: bool,
    /// InfiniBand or RoCE adapters.
    pub rdma: u32,
    /// Variables that change how PyTorch runs, where they are set.
    pub variables: Vec<(String, String)>,
}

/// A resource limit of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// In force; `None` is unlimited.
    pub soft: Option<u64>,
    /// As far as it may be raised without root.
    pub hard: Option<u64>,
}

/// Programs beside Python.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tools {
    /// A C compiler.
    pub cc: Option<String>,
    /// A C++ compiler.
    pub cxx: Option<String>,
    /// `numactl`.
    pub numactl: bool,
}

/// What launches get here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Launches {
    /// `overlay`, `landlock`, `copy`.
    pub isolation: String,
    /// Why not the strongest, in the system's words.
    pub refused: Option<String>,
    /// What it leaves open.
    pub open: Vec<String>,
    /// No process outlives its trial (a PID namespace can be made).
    pub contained: bool,
    /// `cgroup v2`, where a memory limit can be set for a process tree.
    pub cap: Option<String>,
    /// Why not, where it cannot.
    pub no_cap: Option<String>,
    /// Where trials write, and bytes free there.
    pub scratch: Option<(String, u64)>,
}
