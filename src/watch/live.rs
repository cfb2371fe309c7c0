//! A process tree at one moment, as `autofit watch` shows and records it.

use serde::Serialize;

use super::load::LoadMark;
use super::nvml::Gpus;
use super::sampler::Latest;
use super::training::Training;

/// Everything at one moment; bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reading {
    /// Seconds since watching began.
    pub at: f64,
    /// Processes of the tree.
    pub processes: u32,
    /// Processors that the tree keeps busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Host memory.
    pub host: HostNow,
    /// Devices that the tree can see.
    pub devices: Vec<Device>,
    /// What the agent tells; absent without one, and before training begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
}

/// Host memory of the tree: anonymous and shared memory, swap included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HostNow {
    /// Now.
    pub bytes: Option<u64>,
    /// Highest so far.
    pub peak: Option<u64>,
    /// What may be used: the lowest limit of its cgroups, or the machine's memory.
    pub cap: u64,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// NVML's index.
    pub index: u32,
    /// The part of a divided GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mig: Option<u32>,
    /// As the driver names it.
    pub name: String,
    /// In use by the tree, where that can be told.
    pub bytes: Option<u64>,
    /// Its highest so far.
    pub peak: Option<u64>,
    /// Its memory.
    pub cap: u64,
    /// In use by anybody.
    pub used: Option<u64>,
    /// Kernels running, percent.
    pub utilization: Option<u32>,
}

impl Device {
    /// `GPU 0`, `GPU 0 MIG 1`.
    pub fn title(&self) -> String {
        match self.mig {
            Some(mig) => format!("GPU {} MIG {mig}", self.index),
            None => format!("GPU {}", self.index),
        }
    }
}

/// The whole of what was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct End {
    /// Exit status of the command (128 + signal); `None` for a process that somebody else started.
    pub status: Option<i32>,
    /// The last reading, with the peaks; `training` is of the whole time.
    #[serde(flatten)]
    pub whole: Reading,
    /// Mean share of the time in which kernels ran, percent, in the order of `devices`.
    pub mean_utilization: Vec<Option<f64>>,
    /// What could not be watched, or only roughly.
    pub notes: Vec<String>,
}

/// Joins what was read; `before` is the mark of load of an earlier reading.
pub fn reading(
    at: f64,
    latest: &Latest,
    before: Option<&LoadMark>,
    gpus: Option<&Gpus>,
    cap: u64,
    training: Option<Training>,
) -> Reading {
    let cores = before.zip(latest.load.as_ref()).and_then(|(a, b)| busy(a, b));
    let device = |now: &super::sampler::DeviceNow| {
        let facts = gpus?.devices().get(now.at)?;
        Some(Device {
            index: facts.index,
            mig: facts.mig,
            name: facts.name.clone(),
            bytes: now.ours,
            peak: now.peak,
            cap: facts.total_bytes,
            used: now.used,
            utilization: now.utilization,
        })
    };
    Reading {
        at,
        processes: latest.processes,
        cores,
        host: HostNow { bytes: latest.host, peak: latest.host_peak, cap },
        devices: latest.devices.iter().filter_map(device).collect(),
        training,
    }
}

fn busy(a: &LoadMark, b: &LoadMark) -> Option<f64> {
    let seconds = b.at - a.at;
    (seconds > 0.0).then(|| ((b.ours - a.ours) / seconds).max(0.0))
}
