//! What a [`super::Sampler`] found.

use serde::{Deserialize, Serialize};

use super::load::LoadMark;
use super::series::Series;
use crate::model::observation::Disturbance;

/// Where a device peak comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSource {
    /// NVML's figures of the trial's own processes.
    Processes,
    /// The device's memory in use less its use before the trial: the driver does not tell processes apart (containers,
    /// WSL, MIG), or says PIDs that cannot be translated.
    UsedOverBaseline,
    /// Nothing could be read.
    None,
}

/// One device over a trial; bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceSummary {
    /// `GPU-...` or `MIG-...`.
    pub uuid: String,
    /// As the driver names it.
    pub name: String,
    /// Installed memory.
    pub total: u64,
    /// In use before the trial, by others.
    pub baseline: Option<u64>,
    /// Highest use by the trial, from `source`.
    pub peak: Option<u64>,
    /// How `peak` was found.
    pub source: DeviceSource,
    /// Highest sum of the trial's processes, where NVML tells it.
    pub processes_peak: Option<u64>,
    /// Highest use over the baseline, growth of others taken off where it is told.
    pub over_baseline_peak: Option<u64>,
    /// Highest use by anybody.
    pub used_peak: Option<u64>,
    /// Highest sum of processes that are known not to be ours.
    pub foreign_peak: Option<u64>,
    /// Mean share of time in which kernels ran, percent.
    pub utilization: Option<f64>,
    /// Readings taken.
    pub samples: u32,
}

/// Host memory over a trial; bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSummary {
    /// Highest demand of the process tree: anonymous + shared memory, swap included.
    pub peak: Option<u64>,
    /// What `peak` is: `anonymous + shared memory of the process tree`, or the same of the cgroup.
    pub metric: String,
    /// Pages shared between processes are counted once in `peak`.
    pub exact: bool,
    /// Highest sum of resident sets.
    pub rss_peak: u64,
    /// Largest `VmHWM` of a process: the kernel's own mark, it misses no spike.
    pub process_high_water: u64,
    /// Highest swap in use.
    pub swap_peak: u64,
    /// Most processes at a time.
    pub processes: u32,
    /// Highest anonymous + shared memory of the cgroup, where one was given.
    pub cgroup_peak: Option<u64>,
    /// Highest charge of the cgroup, page cache included, as the kernel kept it.
    pub cgroup_charge_peak: Option<u64>,
    /// The cgroup's limit.
    pub cgroup_limit: Option<u64>,
    /// Times that the cgroup's limit could not be met since the start, where the kernel tells.
    pub cgroup_oom: Option<u64>,
    /// Processes that the kernel killed in the cgroup since the start.
    pub cgroup_oom_kill: Option<u64>,
}

/// What watching cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchCost {
    /// CPU seconds of the sampler's thread.
    pub cpu_seconds: f64,
    /// Host readings.
    pub host_samples: u32,
    /// Device readings.
    pub device_samples: u32,
}

/// Everything that was seen while a trial ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchSummary {
    /// From start to stop.
    pub seconds: f64,
    /// Host memory.
    pub host: HostSummary,
    /// The devices that were watched; empty without NVML.
    pub devices: Vec<DeviceSummary>,
    /// `/dev/shm`: highest use over its use at the start, bytes.
    pub shm_peak: Option<u64>,
    /// `/dev/shm`: size, bytes.
    pub shm_total: Option<u64>,
    /// Load that was not ours, over the whole time.
    pub disturbance: Disturbance,
    /// The same at moments, for [`WatchSummary::disturbance_between`].
    pub load: Vec<LoadMark>,
    /// Memory over time.
    pub series: Series,
    /// What watching cost.
    pub cost: WatchCost,
    /// What could not be watched, or only roughly, in sentences.
    pub notes: Vec<String>,
}

impl WatchSummary {
    /// Highest device memory of the trial on any one device.
    pub fn device_peak(&self) -> Option<u64> {
        self.devices.iter().filter_map(|d| d.peak).max()
    }

    /// Load that was not ours between two moments, in seconds since the sampler started (the steady steps, say).  Marks
    /// are a fraction of a second apart; the whole time is taken where fewer than two fall inside.
    pub fn disturbance_between(&self, from: f64, to: f64) -> Disturbance {
        let inside: Vec<_> = self.load.iter().filter(|m| m.at >= from && m.at <= to).collect();
        match (inside.first(), inside.last()) {
            (Some(a), Some(b)) if b.at > a.at => a.until(b),
            _ => self.disturbance.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_can_be_asked_for_a_part_of_the_time() {
        let mark = |at: f64, busy: f64| LoadMark { at, waited: None, busy, stolen: 0.0, cpus: 1, ours: at };
        let load = vec![mark(0.0, 0.0), mark(1.0, 3.0), mark(2.0, 4.0), mark(3.0, 5.0)];
        let s = WatchSummary {
            seconds: 3.0,
            host: HostSummary::default(),
            devices: vec![],
            shm_peak: None,
            shm_total: None,
            disturbance: load[0].until(&load[3]),
            load,
            series: Series::default(),
            cost: WatchCost::default(),
            notes: vec![],
        };
        assert!((s.disturbance.other_cpu - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(s.disturbance_between(0.9, 3.1).other_cpu, 0.0);
        assert_eq!(s.disturbance_between(1.4, 1.6), s.disturbance);
    }
}
