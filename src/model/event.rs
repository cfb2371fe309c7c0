//! What the agent tells the launcher: one JSON object a line in `events.<rank>.jsonl`.
//!
//! Every line has `v` (version), `t` (the kind of record, the tag below), `at` (seconds since the agent started, a
//! monotonic clock) and `pid`.  A reader skips kinds that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blocks::Filled;
use super::inspection::{Detected, LoaderInfo, OptionsInfo, RootInfo, SwitchInfo};
use super::knob::{Knob, Value};
use super::parity::AfterSteps;
use super::profile::Profile;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`super::VERSION`].
    pub v: u32,
    /// Seconds since the agent started in this process.
    pub at: f64,
    /// The process that wrote it, as it sees itself (its own PID namespace).
    pub pid: u32,
    /// What it says.
    #[serde(flatten)]
    pub record: Record,
}

/// Train, eval or save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the first root call.
    Setup,
    /// Forward, backward and optimizer step.
    Train,
    /// Root calls without gradients.
    Eval,
    /// `torch.save` and the like.
    Save,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Record {
    /// The agent is alive in a training process.
    Hello(Hello),
    /// A framework was imported.
    Framework {
        /// `torch`, `transformers`, `accelerate`, `lightning`.
        name: String,
        /// Its version.
        version: String,
        /// Only with torch: `cuda` devices that it sees.
        #[serde(default)]
        cuda_devices: u32,
    },
    /// The script's argument parser.
    Options(OptionsInfo),
    /// A framework's object has a switch for a knob.
    Switch(SwitchInfo),
    /// A DataLoader was built or first iterated.
    Loader(LoaderInfo),
    /// The root module was found.
    Root(RootInfo),
    /// What the script already does by itself.
    Detected(Detected),
    /// A knob was applied, or was not.
    Knob(KnobReport),
    /// An optimizer step ended.
    Step(Step),
    /// From here on steps run with another configuration of the plan's `windows`, or with `settings` again.
    Window(WindowOpened),
    /// What was seen of memory in the window that is now closed.
    WindowMemory {
        /// As in [`WindowOpened::run`].
        run: u32,
        /// Highest memory in it, bytes: the allocator's reserved and the context (CUDA); anonymous and shared memory of
        /// the process and its workers (CPU).  Not below what was needed before training began.
        peak: u64,
        /// The allocator's allocated peak (CUDA).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allocated: Option<u64>,
    },
    /// A phase other than training began or ended.
    Phase {
        /// Which.
        phase: Phase,
        /// Seconds it took; absent while it lasts.
        seconds: Option<f64>,
        /// Root calls or files in it.
        #[serde(default)]
        count: u64,
    },
    /// The look through the loader for the largest batch ended.
    Look {
        /// Batches looked at.
        batches: u64,
        /// Batches that an epoch has, if known.
        of: Option<u64>,
        /// Elements of the largest one.
        largest_elements: u64,
        /// Elements of the median one.
        median_elements: u64,
    },
    /// Memory ran out; written where the exception is raised or first seen, also if the script catches it.
    Oom {
        /// `cuda:0`, `cpu`.
        device: String,
        /// Where in the script's life.
        phase: Phase,
        /// The exception's text.
        message: String,
        /// Steps finished before.
        step: u64,
        /// Whether it reached the end of the script (`excepthook`) or an agent's frame only.
        fatal: bool,
    },
    /// What was alive then.
    Filled(Box<Filled>),
    /// The agent itself failed in a hook; that hook is now off.
    Fault {
        /// Which hook.
        hook: String,
        /// The exception.
        error: String,
    },
    /// The process lives (every two seconds, from a daemon thread).
    Heartbeat {
        /// Steps finished.
        step: u64,
        /// Of several ranks: the script's line that runs now, `train.py:41`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<String>,
        /// Of several ranks: CPU seconds of the process so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cpu: Option<f64>,
    },
    /// What training does, once a second, where it is only watched.
    Pulse(Pulse),
    /// What the first `parity_steps` steps have made of the model.
    Parity(AfterSteps),
    /// One steady step, looked at closely; only where the plan asks for it.
    Profile(Box<Profile>),
    /// Memory at a moment that matters (end of a phase, end of the trial).
    Memory(MemoryReading),
    /// The last line.
    End {
        /// Why.
        reason: EndReason,
        /// The exception's class and message, if one ended the script.
        #[serde(default)]
        error: Option<String>,
    },
}

/// First line of a training process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// From the plan.
    pub nonce: String,
    /// Parent process.
    pub ppid: u32,
    /// `RANK`, 0 without one.
    pub rank: u32,
    /// `WORLD_SIZE`, 1 without one.
    pub world_size: u32,
    /// The script's arguments, `sys.argv` or `sys.orig_argv`.
    pub argv: Vec<String>,
    /// `3.11.7`.
    pub python: String,
    /// `sys.executable`.
    pub executable: String,
    /// False in the early hello of the launched process; true once a process trains and owns the rank's channel.
    #[serde(default)]
    pub training: bool,
}

/// A knob's read-back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnobReport {
    /// Which.
    pub knob: Knob,
    /// As in the plan.
    pub requested: Value,
    /// As it is in force, read back from the object it acts on; `None` when it is not in force.
    pub effective: Option<Value>,
    /// In words: `autocast around Net.forward`, `DataLoader.__init__ (1 of 2 loaders)`.
    pub how: String,
    /// Objects that it was applied to.
    pub objects: u32,
    /// Why not, when it is not in force.
    pub reason: Option<String>,
}

/// Steps that follow belong to this window.  Written when it is opened and, of a window of the plan, once more with the
/// read-back; the later word on a run counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowOpened {
    /// Counts the windows of a launch, from 0, returns to `settings` included; [`Step::run`] refers to it.
    pub run: u32,
    /// Which of the plan's `windows`; `None` for `settings`.
    pub window: Option<u32>,
    /// Read-back of the knobs that differ from `settings`.
    pub knobs: Vec<KnobReport>,
    /// Why it is not measured: a knob that is not in force, a batch that cannot be cut.
    pub why_not: Option<String>,
}

/// One optimizer step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// From 0.
    pub index: u64,
    /// Since the end of the step before; on CUDA device time between events.
    pub seconds: f64,
    /// Process CPU time of the same span.
    pub cpu_seconds: f64,
    /// Samples consumed by training since the step before; 0 when unknown.
    pub samples: u64,
    /// Elements of the batches (padding included), for scripts with variable lengths; 0 when unknown.
    pub elements: u64,
    /// Seconds in which the training loop waited for its loader.
    pub loader_wait: f64,
    /// Unscaled loss that `backward` was called on, summed over the micro-batches of the script's own accumulation.
    pub loss: Option<f64>,
    /// L2 norm of all gradients before clipping (first `parity_steps` only).
    pub grad_norm: Option<f64>,
    /// The same as the optimizer takes them, after clipping.
    pub taken_norm: Option<f64>,
    /// Peak allocated since the trial began (CUDA), bytes.
    pub allocated_peak: u64,
    /// Peak reserved since the trial began (CUDA), bytes.
    pub reserved_peak: u64,
    /// `num_alloc_retries` since the trial began.
    pub alloc_retries: u64,
    /// `num_ooms` since the trial began.
    pub num_ooms: u64,
    /// Resident set of the process now, bytes.
    pub rss: u64,
    /// True while the measurement has not begun (warm-up).
    pub warmup: bool,
    /// In a launch with several windows: the one that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
}

/// Training at one moment; counts are since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pulse {
    /// Train, eval or save; `None` before the agent knows.
    pub phase: Option<Phase>,
    /// Optimizer steps finished.
    pub steps: u64,
    /// When counting began, on the agent's clock.
    pub begun: Option<f64>,
    /// When the latest step ended.
    pub stepped: Option<f64>,
    /// Samples consumed by training.
    pub samples: u64,
    /// Seconds in which training waited for its loader.
    pub loader_wait: f64,
    /// The caching allocator, each device on which this process has reserved memory.
    pub devices: Vec<AllocatorReading>,
}

/// PyTorch's caching allocator on one device; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocatorReading {
    /// As PyTorch numbers devices in this process.
    pub index: u32,
    /// In tensors now.
    pub allocated: u64,
    /// Highest.
    pub allocated_peak: u64,
    /// Taken from the driver now.
    pub reserved: u64,
    /// Highest.
    pub reserved_peak: u64,
    /// Free parts of blocks that are partly in use.
    pub split: u64,
    /// Times that it gave back its cache to get memory.
    pub retries: u64,
    /// Out-of-memory errors, also those that somebody caught.
    pub ooms: u64,
}

/// Memory of the process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryReading {
    /// `after_setup`, `end`, ...
    pub moment: String,
    /// Allocator peaks and the rest of the device's use that is ours, by name, bytes: `allocated_peak`,
    /// `reserved_peak`, `context` (CUDA); `rss_peak` (VmHWM), `rss`, `shared` (host).
    pub bytes: BTreeMap<String, u64>,
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Enough steps were measured; the agent ended the process.
    Measured,
    /// The phases of a confirm trial were seen; the agent ended the process.
    Covered,
    /// The script came to its own end.
    ScriptEnd,
    /// An exception reached the top.
    Exception,
    /// A knob that fit depends on could not be applied (production), or a plan could not be read.
    Refused,
}
