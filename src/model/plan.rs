//! What the launcher tells the agent: the document `plan.json` of a trial directory, or `AUTOFIT_CONFIG` in production.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::configuration::Configuration;
use super::knob::Knob;

/// Trial or production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentMode {
    /// Measure, then end the process.
    Trial,
    /// Apply the settings, check them at the first step, then stay out of the way.
    Run,
    /// Turn nothing, end nothing, tell once a second what training does.
    Watch,
}

/// The accelerator that a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The host's processor; memory is host memory.
    Cpu,
    /// An NVIDIA GPU; memory is device memory.
    Cuda,
}

/// Which way a knob is turned, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// As the recipe says (arguments or environment).
    Recipe,
    /// The script's own option.
    Option,
    /// The framework's own switch.
    Framework,
    /// The agent's patch of plain PyTorch.
    Agent,
    /// An environment variable that PyTorch or the C library reads.
    Environment,
}

/// When a trial has measured enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Optimizer steps dropped at the start, at least (compile, caches, loader start).
    pub warmup_steps: u32,
    /// Steady steps measured, at least.
    pub min_steps: u32,
    /// Steady steps measured, at most.
    pub max_steps: u32,
    /// Seconds of steady measuring, at most (at least `min_steps` are measured all the same).
    pub max_seconds: f64,
    /// Stop when the relative standard error of the mean step time is below this.
    pub relative_error: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { warmup_steps: 2, min_steps: 5, max_steps: 50, max_seconds: 10.0, relative_error: 0.02 }
    }
}

/// How a confirm trial reaches what lies beyond the first steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoveragePlan {
    /// The training loader is ended after this many batches, so that end-of-epoch code runs.
    pub end_loader_after: u32,
    /// Look through at most this many batches of the loader for the largest and train on that once the
    /// optimizer has stepped; 0 for no look.
    pub look_batches: u32,
    /// Seconds that the look may take.
    pub look_seconds: f64,
    /// Seconds for end-of-epoch code before the trial is ended (the phase then counts as not fully seen).
    pub phase_seconds: f64,
}

/// An option of the script as it was set, to be read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionAsked {
    /// Its name in the parser.
    pub dest: String,
    /// Its value, as text.
    pub value: String,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentPlan {
    /// [`super::VERSION`].
    pub version: u32,
    /// Repeated in `hello`.
    pub nonce: String,
    /// Trial or production.
    pub mode: AgentMode,
    /// Where `events.<rank>.jsonl` goes; absent in production.
    pub trial_dir: Option<String>,
    /// The command as launched (settings that are arguments included).
    pub argv: Vec<String>,
    /// What the measurement is about; decides which memory is capped and which events time a step.
    pub device: Device,
    /// Every knob of the configuration.
    pub settings: Configuration,
    /// How each of `settings` is turned: the agent applies those of [`Way::Agent`] and [`Way::Framework`], and reads
    /// back all of them.
    pub ways: BTreeMap<Knob, Way>,
    /// Options of the script that were set for a knob: what its parser made of them is compared with this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<Knob, Vec<OptionAsked>>,
    /// Backward calls for each step of the script as it is, against which its own accumulation is counted.
    #[serde(default)]
    pub script_accumulation: u32,
    /// Processes that the command starts by itself; those that the launcher starts for `strategy` do not count.
    #[serde(default)]
    pub script_ranks: u32,
    /// Configurations that are measured in turns with `settings` within this launch, each in full; they differ from
    /// `settings` only in knobs that can be turned between two steps, or in a smaller batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Configuration>,
    /// When enough is measured (trial only).
    pub schedule: Schedule,
    /// Only in a confirm trial.
    pub coverage: Option<CoveragePlan>,
    /// Emit `options`, `loader`, `root` and `detected` in full (first launch of a search, `autofit inspect`).
    pub inspect: bool,
    /// Device memory that this process may use, in bytes (CUDA: enforced by the agent through the allocator, context
    /// and libraries taken off first; CPU: enforced from outside, here for information).
    pub cap_bytes: Option<u64>,
    /// Loss and pre-clip gradient norm are recorded for this many first steps.
    pub parity_steps: u32,
    /// The script was seen to call models without ever training them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serves: bool,
    /// Nothing is drawn at random in training: dropout is off, transforms depend on the sample alone.
    #[serde(default)]
    pub quiet: bool,
    /// Once enough is measured, one more step is profiled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub profile: bool,
    /// Ranks run on several machines: those on another one hear of a common end a while later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub several_machines: bool,
    /// Seed `random`, NumPy and torch with this before the script's first line; production leaves it `None`.
    pub seed: Option<u64>,
    /// Index (order of construction) of the DataLoader that training draws from, once an inspection knows it.
    #[serde(default)]
    pub training_loader: Option<u32>,
    /// Production: knobs that the fit depends on; if one of them cannot be applied the run is stopped before its
    /// first step.
    pub required: Vec<Knob>,
}
