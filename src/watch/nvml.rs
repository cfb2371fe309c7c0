//! NVIDIA GPUs through NVML: what there is, how much memory is in use, and by whom.
//!
//! The library is loaded when it is asked for, so that one binary serves machines with and without a driver.  A missing
//! library, driver or symbol is a value ([`NvmlUnavailable`], [`GpuReading`] with less in it), never a panic.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names the NVML library to load; for drivers in unusual places, and for the stand-in of the tests.
pub const LIBRARY_ENV: &str = "AUTOFIT_NVML_LIB";

/// Where the library is looked for: the linker's own search first, then where WSL, GKE and NixOS keep it.
const LIBRARIES: [&str; 4] = [
    "libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",
];

/// Device memory in use moves by a few MiB without anybody's doing (context bookkeeping, a display); a device within
/// this much of its baseline counts as free again.
const FREE_TOLERANCE: u64 = 48 << 20;

/// Pause between two looks in [`wait_until_free`]: the driver frees a dead process's memory within tens of ms.
const FREE_POLL: Duration = Duration::from_millis(50);

/// Why nothing can be learned from NVML.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NvmlUnavailable {
    /// No library to load: no NVIDIA driver is installed, or it is not visible in this container.
    #[error("the NVIDIA management library could not be loaded ({0}); GPU memory is not watched")]
    NoLibrary(String),
    /// The library is there, the kernel module is not.
    #[error("the NVIDIA driver is not loaded; see `nvidia-smi`")]
    NoDriver,
    /// The device files may not be opened.
    #[error("no permission to talk to the NVIDIA driver; see the modes of /dev/nvidia*")]
    NoPermission,
    /// Library and kernel module have different versions, as after an update without a restart.
    #[error("the NVIDIA library and the kernel module have different versions; restart the machine")]
    VersionMismatch,
    /// The library lacks a function that every supported driver has (510 and newer).
    #[error(
        "the NVIDIA management library is too old or incomplete ({0}); a driver of version 510 or newer is needed"
    )]
    MissingSymbol(String),
    /// Anything else, in NVML's words.
    #[error("NVML failed: {0}")]
    Other(String),
}

impl From<NvmlError> for NvmlUnavailable {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::LibloadingError(e) => Self::NoLibrary(e.to_string()),
            NvmlError::DriverNotLoaded | NvmlError::LibraryNotFound => Self::NoDriver,
            NvmlError::NoPermission | NvmlError::OperatingSystem => Self::NoPermission,
            NvmlError::LibRmVersionMismatch => Self::VersionMismatch,
            NvmlError::FailedToLoadSymbol(s) => Self::MissingSymbol(s),
            NvmlError::FunctionNotFound => Self::MissingSymbol("function not found".into()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// One GPU, or one MIG device of a GPU that is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// NVML's index (PCI bus order).
    pub index: u32,
    /// The MIG device's index within the GPU, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<u32>,
    /// `GPU-...` or `MIG-...`; stays the same over restarts.
    pub uuid: String,
    /// As the driver names it.
    pub name: String,
    /// Installed memory, bytes; 0 when the driver does not tell.
    pub total_bytes: u64,
}

/// A process with a compute context on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// As NVML says it; in which PID namespace depends on the driver.
    pub pid: u32,
    /// Bytes; `None` where the driver does not tell (containers, WSL, some MIG layouts).
    pub used: Option<u64>,
}

/// A device at one moment; what could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuReading {
    /// Bytes in use by anybody, the driver's own reserve not counted.
    pub used: Option<u64>,
    /// Bytes free.
    pub free: Option<u64>,
    /// Processes with a compute context.
    pub processes: Option<Vec<GpuProcess>>,
    /// Share of time in which a kernel ran, percent.
    pub utilization: Option<u32>,
    /// The first thing that could not be read, in NVML's words.
    pub failure: Option<String>,
}

impl GpuReading {
    /// Bytes of the processes that `ours` names; `None` when the list or any figure of ours is absent, or when none of
    /// ours is in the list.
    pub fn used_by(&self, ours: &dyn Fn(u32) -> bool) -> Option<u64> {
        let mine: Vec<_> = self.processes.as_ref()?.iter().filter(|p| ours(p.pid)).collect();
        if mine.is_empty() { None } else { mine.iter().map(|p| p.used).sum() }
    }
}

/// The loaded library and the devices that it shows.
pub struct Gpus {
    nvml: Nvml,
    devices: Vec<GpuFacts>,
    lost: Vec<u32>,
}

impl std::fmt::Debug for Gpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpus").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Gpus {
    /// Loads NVML from [`LIBRARY_ENV`], or from where drivers put it, and lists the devices.  Takes up to a second
    /// where the driver is not kept loaded: do it once a search.
    ///
    /// # Errors
    /// Says why there is no NVML; the caller goes on without.
    pub fn open() -> Result<Self, NvmlUnavailable> {
        if let Some(path) = std::env::var_os(LIBRARY_ENV).filter(|p| !p.is_empty()) {
            return Self::open_at(Path::new(&path));
        }
        let mut first = None;
        for path in LIBRARIES {
            match Self::open_at(Path::new(path)) {
                Err(e @ NvmlUnavailable::NoLibrary(_)) => {
                    first.get_or_insert(e);
                }
                done => return done,
            }
        }
        Err(first.unwrap_or(NvmlUnavailable::NoLibrary("no place to look".into())))
    }

    /// Loads this library.
    ///
    /// # Errors
    /// As [`Gpus::open`].
    pub fn open_at(library: &Path) -> Result<Self, NvmlUnavailable> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init()?;
        let (mut devices, mut lost) = (Vec::new(), Vec::new());
        for index in 0..nvml.device_count()? {
            // A lost GPU must not hide the others.
            match nvml.device_by_index(index) {
                Ok(device) => list(&device, index, &mut devices),
                Err(_) => lost.push(index),
            }
        }
        Ok(Self { nvml, devices, lost })
    }

    /// Every device; a GPU that is divided into MIG devices is listed as those.
    pub fn devices(&self) -> &[GpuFacts] {
        &self.devices
    }

    /// Indices of GPUs that the driver counts and does not let anybody use.
    pub fn lost(&self) -> &[u32] {
        &self.lost
    }

    /// `570.124.06`, where the driver tells.
    pub fn driver(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// The highest CUDA version that the driver serves, `12.8`.
    pub fn cuda(&self) -> Option<String> {
        let v = self.nvml.sys_cuda_driver_version().ok()?;
        Some(format!("{}.{}", v / 1000, v % 1000 / 10))
    }

    /// Indices into [`Gpus::devices`] of what a process with this `CUDA_VISIBLE_DEVICES` sees.  As CUDA does, the list
    /// ends at the first entry that names no device.  Numbers are taken in PCI bus order; on a machine with different
    /// GPUs CUDA numbers the fastest first unless `CUDA_DEVICE_ORDER=PCI_BUS_ID` is set, so there every device is
    /// watched.
    pub fn visible(&self, cuda_visible_devices: Option<&str>, cuda_device_order: Option<&str>) -> Vec<usize> {
        let all: Vec<usize> = (0..self.devices.len()).collect();
        let Some(list) = cuda_visible_devices else { return all };
        let by_bus = cuda_device_order == Some("PCI_BUS_ID");
        let mixed = self.devices.iter().any(|d| d.name != self.devices[0].name);
        let mut seen = Vec::new();
        for entry in list.split(',').map(str::trim) {
            let found: Vec<usize> = match entry.parse::<u32>() {
                Ok(_) if mixed && !by_bus => return all,
                Ok(n) => all.iter().copied().filter(|&i| self.devices[i].index == n).collect(),
                Err(_) if entry.is_empty() => Vec::new(),
                Err(_) => all.iter().copied().filter(|&i| self.devices[i].uuid.starts_with(entry)).collect(),
            };
            if found.is_empty() {
                break;
            }
            seen.extend(found);
        }
        seen
    }

    /// Reads device `at` (an index into [`Gpus::devices`]); what cannot be read is absent in the answer.
    pub fn read(&self, at: usize) -> GpuReading {
        let mut reading = GpuReading::default();
        let Some(facts) = self.devices.get(at) else {
            reading.failure = Some(format!("no device number {at}"));
            return reading;
        };
        let device = match self.handle(facts) {
            Ok(d) => d,
            Err(e) => {
                reading.failure = Some(e.to_string());
                return reading;
            }
        };
        let mut note = |e: &NvmlError| {
            reading.failure.get_or_insert_with(|| e.to_string());
        };
        match device.memory_info() {
            Ok(m) => (reading.used, reading.free) = (Some(m.used), Some(m.free)),
            Err(e) => note(&e),
        }
        match device.running_compute_processes() {
            Ok(list) => {
                let process = |p: nvml_wrapper::struct_wrappers::device::ProcessInfo| GpuProcess {
                    pid: p.pid,
                    used: match p.used_gpu_memory {
                        UsedGpuMemory::Used(n) => Some(n),
                        UsedGpuMemory::Unavailable => None,
                    },
                };
                reading.processes = Some(list.into_iter().map(process).collect());
            }
            Err(e) => note(&e),
        }
        // MIG devices have no utilisation figure; that is no failure worth a note.
        reading.utilization = device.utilization_rates().ok().map(|u| u.gpu);
        reading
    }

    /// Readings of these devices, in their order.
    pub fn read_all(&self, at: &[usize]) -> Vec<GpuReading> {
        at.iter().map(|&i| self.read(i)).collect()
    }

    /// The GPU that device `at` is, or is a part of.
    pub(super) fn whole(&self, at: usize) -> Option<Device<'_>> {
        self.nvml.device_by_index(self.devices.get(at)?.index).ok()
    }

    fn handle(&self, facts: &GpuFacts) -> Result<Device<'_>, NvmlError> {
        let device = self.nvml.device_by_index(facts.index)?;
        match facts.mig {
            Some(mig) => device.mig_device_by_index(mig),
            None => Ok(device),
        }
    }
}

fn list(device: &Device<'_>, index: u32, devices: &mut Vec<GpuFacts>) {
    let facts = |d: &Device<'_>, mig: Option<u32>| GpuFacts {
        index,
        mig,
        uuid: d.uuid().unwrap_or_else(|_| format!("index-{index}")),
        name: d.name().or_else(|_| device.name()).unwrap_or_else(|_| "NVIDIA GPU".into()),
        total_bytes: d.memory_info().map_or(0, |m| m.total),
    };
    // `mig_mode` fails on GPUs that cannot be divided.
    let divided = device.mig_mode().is_ok_and(|m| m.current == 1);
    let before = devices.len();
    if divided {
        for mig in 0..device.mig_device_count().unwrap_or(0) {
            // Slots may be empty.
            if let Ok(d) = device.mig_device_by_index(mig) {
                devices.push(facts(&d, Some(mig)));
            }
        }
    }
    if devices.len() == before {
        devices.push(facts(device, None));
    }
}

/// Tells whether a PID that NVML reports is one of the trial's.
///
/// NVML speaks of PIDs of the driver's or the caller's namespace, the launcher of its own, and the trial lives in one
/// below.  A PID that is in the tree is ours.  One that this `/proc` knows as somebody else is not.  One that it does
/// not know is ours if a process of the tree carries it in another namespace (`NSpid`).
pub fn is_ours(pid: u32, tree: &BTreeSet<u32>, proc: &Path) -> bool {
    if tree.contains(&pid) {
        return true;
    }
    if proc.join(pid.to_string()).exists() {
        return false;
    }
    tree.iter().any(|t| namespace_pids(*t, proc).contains(&pid))
}

/// Whether this `/proc` says anything about the PID; NVML in a container may report PIDs of the host.
pub fn is_known(pid: u32, tree: &BTreeSet<u32>, proc: &Path) -> bool {
    proc.join(pid.to_string()).exists() || is_ours(pid, tree, proc)
}

/// The PIDs of a process, outermost namespace first, from `NSpid` of its status.
fn namespace_pids(pid: u32, proc: &Path) -> Vec<u32> {
    let status = std::fs::read_to_string(proc.join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// How [`wait_until_free`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Freed {
    /// Every device is back at its baseline.
    Free {
        /// How long it took.
        after: Duration,
    },
    /// Memory is still in use.
    Held {
        /// The device's UUID.
        uuid: String,
        /// Bytes over the baseline.
        bytes: u64,
        /// PIDs with a compute context now that the baseline has not, as NVML says them.
        pids: Vec<u32>,
    },
    /// The devices do not tell.
    Unknown,
}

/// Device memory before anything of ours ran: what [`wait_until_free`] waits for, and what is taken off the device's
/// use where per-process figures are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Index into [`Gpus::devices`] and the reading.
    pub devices: Vec<(usize, GpuReading)>,
}

impl Baseline {
    /// Reads these devices now.
    pub fn now(gpus: &Gpus, at: &[usize]) -> Self {
        Self { devices: at.iter().map(|&i| (i, gpus.read(i))).collect() }
    }
}

/// Bytes in use over the baseline; what the processes named by `foreign` have gained since is taken off, where the
/// driver tells it.
pub fn over_baseline(baseline: &GpuReading, now: &GpuReading, foreign: &dyn Fn(u32) -> bool) -> Option<u64> {
    let over = now.used?.saturating_sub(baseline.used?);
    let before =
        |pid| baseline.processes.iter().flatten().find(|p| p.pid == pid).and_then(|p| p.used).unwrap_or(0);
    let others = now.processes.iter().flatten().filter(|p| foreign(p.pid));
    let growth: u64 = others.filter_map(|p| Some(p.used?.saturating_sub(before(p.pid)))).sum();
    Some(over.saturating_sub(growth))
}

/// Waits until the devices are back at their baseline: a process that was killed is gone before its memory is.
pub fn wait_until_free(gpus: &Gpus, baseline: &Baseline, timeout: Duration) -> Freed {
    let start = Instant::now();
    loop {
        let mut held = None;
        let mut told = false;
        for (at, before) in &baseline.devices {
            let now = gpus.read(*at);
            let known = |pid| before.processes.iter().flatten().any(|b: &GpuProcess| b.pid == pid);
            let Some(bytes) = over_baseline(before, &now, &known) else { continue };
            told = true;
            if bytes > FREE_TOLERANCE {
                let pids = now.processes.iter().flatten().map(|p| p.pid).filter(|p| !known(*p)).collect();
                held = Some(Freed::Held { uuid: gpus.devices[*at].uuid.clone(), bytes, pids });
            }
        }
        match held {
            None if told => return Freed::Free { after: start.elapsed() },
            None => return Freed::Unknown,
            Some(held) if start.elapsed() >= timeout => return held,
            Some(_) => std::thread::sleep(FREE_POLL),
        }
    }
}

/// `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` of this process, for [`Gpus::visible`].
pub fn visibility() -> (Option<String>, Option<String>) {
    let get = |name: &str| std::env::var_os(name).map(OsString::into_string).and_then(Result::ok);
    (get("CUDA_VISIBLE_DEVICES"), get("CUDA_DEVICE_ORDER"))
}

/// The same of another process, as it was started; nothing where we may not read that.
pub fn visibility_of(pid: u32) -> (Option<String>, Option<String>) {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let get = |name: &str| {
        let value = environ.split(|b| *b == 0).find_map(|v| v.strip_prefix(format!("{name}=").as_bytes()));
        value.and_then(|v| String::from_utf8(v.to_vec()).ok())
    };
    (get("CUDA_VISIBLE_DEVICES"), get("CUDA_DEVICE_ORDER"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_proc(rows: &[(u32, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (pid, nspid) in rows {
            let p = dir.path().join(pid.to_string());
            std::fs::create_dir(&p).unwrap();
            std::fs::write(p.join("status"), format!("Name:\tpython\nNSpid:\t{nspid}\nThreads:\t3\n"))
                .unwrap();
        }
        dir
    }

    #[test]
    fn pids_are_translated_between_namespaces() {
        let proc = fake_proc(&[(100, "100\t1"), (101, "101\t7"), (50, "50")]);
        let tree = BTreeSet::from([100, 101]);
        assert!(is_ours(101, &tree, proc.path()), "the launcher's own namespace");
        assert!(is_ours(7, &tree, proc.path()), "the trial's own namespace");
        assert!(!is_ours(50, &tree, proc.path()), "somebody else in our namespace");
        assert!(!is_ours(40_000, &tree, proc.path()));
        assert!(!is_known(40_000, &tree, proc.path()), "a PID of the host, seen from a container");
        assert!(is_known(50, &tree, proc.path()));
    }

    #[test]
    fn growth_of_others_is_not_ours() {
        let reading = |used, processes: &[(u32, u64)]| GpuReading {
            used: Some(used),
            processes: Some(processes.iter().map(|&(pid, n)| GpuProcess { pid, used: Some(n) }).collect()),
            ..GpuReading::default()
        };
        let before = reading(1000, &[(1, 900)]);
        let foreign = |pid| pid == 1 || pid == 9;
        assert_eq!(over_baseline(&before, &reading(1500, &[(1, 1200)]), &foreign), Some(200));
        assert_eq!(
            over_baseline(&before, &reading(2000, &[(1, 900), (9, 400), (5, 600)]), &foreign),
            Some(600)
        );
        assert_eq!(over_baseline(&before, &reading(900, &[]), &foreign), Some(0));
    }
}
