//! Looks at the machine and at a trial from outside while it runs: device memory through NVML, host memory, cgroup,
//! `/dev/shm` and load through `/proc` and `/sys`.
//!
//! # Theory of operation
//! A [`Sampler`] owns one thread.  It is given a function that says which processes belong to the trial, reads host
//! figures about every 100 ms and device figures about every 25 ms, and slows down by itself when reading costs more
//! than its share of a core.  It keeps the highest values and a time series of bounded length.  [`Sampler::stop`] gives
//! a [`WatchSummary`].
//!
//! Sampling misses spikes: NVML has no peak counter.  The allocator's own counters, which the agent reports, do not
//! miss them, so the peak of a trial is the larger of both.
//!
//! Everything here may be absent: no NVIDIA driver, a container without `/proc/pressure`, a cgroup that is not ours.
//! An absent figure is `None`, the reason is a note; neither ever ends a trial.
//!
//! **Architecture invariant:** nothing here spawns, kills, prints or changes a limit.

pub mod cgroup;
pub mod health;
pub mod host;
pub mod live;
pub mod load;
pub mod machine;
pub mod meminfo;
pub mod nvml;
pub mod sampler;
pub mod series;
pub mod shm;
pub mod summary;
pub mod training;

pub use cgroup::CgroupReading;
pub use machine::MachineFacts;
pub use nvml::{Gpus, NvmlUnavailable, wait_until_free};
pub use sampler::{Sampler, SamplerOptions};
pub use summary::{DeviceSource, DeviceSummary, HostSummary, WatchSummary};
