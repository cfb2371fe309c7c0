//! What was measured in one trial.

use serde::{Deserialize, Serialize};

use super::blocks::Filled;
use super::configuration::Configuration;
use super::event::{KnobReport, Phase};
use super::failure::Failure;
use super::inspection::Inspection;
use super::number;
use super::parity::{AfterSteps, Compared};
use super::trace::MemoryTrace;

/// Why a trial was launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The script as it is; also inspects it.
    Baseline,
    /// A rung of the ladder or a candidate for more throughput.
    Climb,
    /// One more launch of a configuration that is close to another.
    Repeat,
    /// The winner without one of its knobs.
    Prune,
    /// Measured only to advise (a bound looser than what was allowed).
    Advice,
    /// The script as it is, or the winner, only to compare how they train: with a smaller batch where the script's own
    /// does not fit, and without random draws.
    Parity,
    /// The winner through the production path.
    Confirm,
    /// Several configurations in turns within one launch ([`TrialSpec::windows`]).
    Sweep,
    /// The winner once more, as it was confirmed, under its own peak as the limit ([`TrialSpec::limit`]).
    Prove,
}

impl Purpose {
    /// Launches of one configuration are alike within a kind: measured; with the coverage of a confirm trial; only to
    /// compare how it trains.
    pub fn kind(self) -> Kind {
        match self {
            Self::Confirm => Kind::Confirm,
            Self::Parity => Kind::Parity,
            Self::Sweep => Kind::Sweep,
            Self::Prove => Kind::Prove,
            _ => Kind::Measured,
        }
    }

    /// Whether it goes through evaluation, saving and the largest batch.
    pub fn covers(self) -> bool {
        matches!(self, Self::Confirm | Self::Prove)
    }
}

/// What a launch goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The first steps, timed.
    Measured,
    /// Evaluation, saving and the largest batch, too.
    Confirm,
    /// A few steps without random draws.
    Parity,
    /// Several configurations in turns.
    Sweep,
    /// As [`Self::Confirm`], under a limit of its own.
    Prove,
}

/// How a process ended; these are never merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum ProcessEnd {
    /// It could not be executed.
    NotStarted {
        /// The system's words.
        error: String,
    },
    /// It exited by itself.
    Exited {
        /// Exit status.
        code: i32,
    },
    /// A signal that we did not send.
    Signaled {
        /// Signal number.
        signal: i32,
    },
    /// Ended by us: the trial took too long.
    TimedOut,
    /// Ended by us: no step and no heartbeat for too long.
    Hung,
    /// Ended by us: it stood still at its memory limit while the kernel read the same files again and again.
    Thrashed,
    /// Ended by us: a rank was out of memory or stalled while others waited.
    RankLost,
    /// Ended by us: the user wants to stop.
    Interrupted,
}

/// The judgement on a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran within the cap and was measured.
    Fit,
    /// Memory ran out.
    Oom,
    /// It ran, but the allocator flushed its cache again and again.
    Thrash,
    /// Loss or gradients are not the baseline's.
    Diverged,
    /// A requested setting is not in force.
    NotApplied,
    /// It failed for a reason that is not memory.
    Failed,
    /// It took too long or hung.
    Timeout,
    /// The agent did not report.
    AgentMissing,
    /// Other load on the machine spoiled the measurement.
    Disturbed,
    /// The user stopped it.
    Interrupted,
}

impl Verdict {
    /// The word in reports and in `result.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Oom => "oom",
            Self::Thrash => "thrash",
            Self::Diverged => "diverged",
            Self::NotApplied => "not_applied",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::AgentMissing => "agent_missing",
            Self::Disturbed => "disturbed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Throughput of the steady steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Steady steps.
    pub steps: u32,
    /// Warm-up steps before them.
    pub warmup_steps: u32,
    /// Seconds of each steady step.
    #[serde(with = "number")]
    pub step_seconds: Vec<f64>,
    /// CPU seconds of each steady step.
    #[serde(with = "number")]
    pub cpu_seconds: Vec<f64>,
    /// Median samples of a step (all ranks); 0 when unknown.
    #[serde(with = "number")]
    pub samples_per_step: f64,
    /// Rate of the steady steps (see `verdict::timing`); when samples are unknown this is steps per second and `unit` says so.
    #[serde(with = "number")]
    pub samples_per_second: f64,
    /// 95 % interval of the rate.
    #[serde(with = "number")]
    pub interval: (f64, f64),
    /// `samples/s` or `steps/s`.
    pub unit: String,
    /// Share of step time in which the loop waited for its loader, 0 to 1.
    #[serde(with = "number")]
    pub loader_wait_share: f64,
    /// From launch to the end of the first step.
    #[serde(with = "number")]
    pub first_step_after: f64,
}

/// Highest memory of a trial, bytes; worst rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    /// Device memory: the larger of NVML's samples and allocator + context; absent on the CPU device.
    pub device: Option<u64>,
    /// Allocator's reserved peak.
    pub reserved: Option<u64>,
    /// Allocator's allocated peak.
    pub allocated: Option<u64>,
    /// Reserved but not allocated at the peak, which shows fragmentation.
    pub alloc_retries: u64,
    /// Host memory of the process tree in the metric that the cap is enforced in.
    pub host: Option<u64>,
    /// `/dev/shm` in use.
    pub shm: Option<u64>,
}

/// How the cap was enforced, and on what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// The limit; absent without one.
    pub bytes: Option<u64>,
    /// What a margin keeps free above it: with it, this is what was allowed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub margin_bytes: u64,
    /// `cgroup v2`, `cgroup v1`, `RLIMIT_DATA (weak)`, `allocator fraction`, `device`, `none`.
    pub mechanism: String,
    /// `process tree`, `process`, `device`.
    pub scope: String,
    /// `anonymous + shared memory`, `data segment`, `device memory`.
    pub metric: String,
}

impl Cap {
    /// The same with a lower limit, bytes, where there is one.
    pub fn lowered(&self, limit: Option<u64>) -> Self {
        let Some(limit) = limit.filter(|limit| self.bytes.is_none_or(|bytes| *limit < bytes)) else {
            return self.clone();
        };
        let mut cap = Self { bytes: Some(limit), margin_bytes: 0, ..self.clone() };
        if cap.mechanism == "device" {
            // Less than the whole device can only be held in the allocator.
            (cap.mechanism, cap.scope) = ("allocator fraction".to_owned(), "process".to_owned());
        }
        cap
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a confirm trial saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Root calls without gradients were made.
    pub eval_seen: bool,
    /// A checkpoint was written.
    pub save_seen: bool,
    /// Batches looked at for the largest one.
    pub looked_at: u64,
    /// Batches of an epoch, if known.
    pub of_batches: Option<u64>,
    /// Whether the largest batch found was trained on.
    pub largest_trained: bool,
}

/// Load on the machine that was not ours.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Disturbance {
    /// Share of time in which somebody waited for a CPU (PSI `some`), 0 to 1, where the kernel tells.
    pub cpu_pressure: Option<f64>,
    /// Share of time stolen by the hypervisor, 0 to 1.
    #[serde(with = "number")]
    pub steal: f64,
    /// CPU time of processes that are not ours, in cores.
    #[serde(with = "number")]
    pub other_cpu: f64,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// [`super::VERSION`].
    pub version: u32,
    /// Number in this search, from 1.
    pub trial: u32,
    /// Why it was launched.
    pub purpose: Purpose,
    /// What was asked for.
    pub settings: Configuration,
    /// The judgement.
    pub verdict: Verdict,
    /// One sentence on the judgement, for people.
    pub why: String,
    /// How the process ended.
    pub end: ProcessEnd,
    /// What the output says went wrong, if anything.
    pub failure: Option<Failure>,
    /// Where memory ran out.
    pub oom_phase: Option<Phase>,
    /// Read-back of each knob.
    pub knobs: Vec<KnobReport>,
    /// Throughput; absent when no steady step was measured.
    pub timing: Option<Timing>,
    /// Memory.
    pub peaks: Peaks,
    /// Memory over time, where it was watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryTrace>,
    /// What was alive when memory ran out, where the process could still tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
    /// The limit it ran under.
    pub cap: Cap,
    /// Loss of the first steps.
    #[serde(with = "number")]
    pub losses: Vec<f64>,
    /// Pre-clip gradient norm of the first steps.
    #[serde(with = "number")]
    pub grad_norms: Vec<f64>,
    /// Norm of what the optimizer takes, of the first steps.
    #[serde(default, with = "number")]
    pub taken_norms: Vec<f64>,
    /// What these steps have made of the model.
    #[serde(default)]
    pub after: Option<AfterSteps>,
    /// How all of this compares with the baseline's; absent for the baseline.
    #[serde(default, rename = "compared")]
    pub parity: Option<Compared>,
    /// Whether torch was imported where the agent was.
    #[serde(default)]
    pub torch: bool,
    /// What a confirm trial saw.
    pub coverage: Option<Coverage>,
    /// Load that was not ours.
    pub disturbance: Disturbance,
    /// Steps finished in all.
    pub steps: u64,
    /// From launch to the end of the last process.
    #[serde(with = "number")]
    pub seconds: f64,
    /// The end of the output, for failures.
    pub tail: Vec<String>,
    /// Found by a launch that inspects.
    pub inspection: Option<Inspection>,
    /// Figures by rank, when there are several: `samples/s`, peaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankFigures>,
    /// Figures by machine, when there are several; `peaks` has the worst of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeFigures>,
    /// What a sweep has shown, in the order in which it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// One configuration of a sweep, beside `settings` of the same launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// All of it, `settings` of the launch included.
    pub settings: Configuration,
    /// Steps measured.
    pub steps: u32,
    /// Its rate over that of `settings` in the windows beside it, 95 % interval; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// Median seconds of a step.
    #[serde(with = "number")]
    pub step_seconds: f64,
    /// Median samples of a step; 0 when unknown.
    #[serde(with = "number")]
    pub samples_per_step: f64,
    /// Highest memory in it, bytes, in the memory that the cap is about; not below what the launch needed before it
    /// trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// The same, allocated instead of reserved by the allocator (CUDA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// Why it was not measured, or not to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Knobs of it that were tried and are not in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_applied: Vec<KnobReport>,
    /// Memory ran out in it: it is this configuration that does not fit, not `settings` of the launch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_large: bool,
}

/// A ratio of two rates and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The estimate.
    #[serde(with = "number")]
    pub ratio: f64,
    /// Its interval.
    #[serde(with = "number")]
    pub interval: (f64, f64),
}

/// One machine's share of a trial that ran on several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Its name.
    pub host: String,
    /// Highest host memory of the trial's processes there, bytes.
    pub peak_host: Option<u64>,
}

/// One rank's share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RankFigures {
    /// Which.
    pub rank: u32,
    /// Its machine, when there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its own samples per second.
    #[serde(with = "number")]
    pub samples_per_second: f64,
    /// Median seconds of a step in which it worked: its threads computed, or it waited for its loader.  What is left of
    /// a step it waited for other ranks.
    #[serde(default, with = "number")]
    pub busy_seconds: f64,
    /// Its own device or host peak, bytes.
    pub peak: u64,
    /// It holds the others up.
    #[serde(default)]
    pub straggler: bool,
}

impl Observation {
    /// The peak in the memory that the cap is about: device memory on CUDA, host memory on the CPU.
    pub fn peak(&self) -> Option<u64> {
        self.peaks.device.or(self.peaks.host)
    }

    /// Bytes left under the cap at the peak.
    pub fn headroom(&self) -> Option<u64> {
        Some(self.cap.bytes?.saturating_sub(self.peak()?))
    }

    /// Median samples per second of a trial that fits; of a disturbed one too, whose figure is less certain.
    pub fn throughput(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Fit | Verdict::Disturbed => self.timing.as_ref().map(|t| t.samples_per_second),
            _ => None,
        }
    }
}

/// What to launch next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TrialSpec {
    /// The configuration.
    pub settings: Configuration,
    /// Why.
    pub purpose: Purpose,
    /// Of a sweep: what is measured in turns with `settings`, each in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Configuration>,
    /// A limit below that of the search, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl TrialSpec {
    /// A launch of one configuration.
    pub fn new(settings: Configuration, purpose: Purpose) -> Self {
        Self { settings, purpose, windows: Vec::new(), limit: None }
    }
}
