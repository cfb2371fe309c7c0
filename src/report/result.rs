//! `result.json`: everything that a search found out, for programs.  The schema is `tests/result.schema.json`.
//!
//! Units: bytes, seconds, samples per second.  A figure that was not measured is `null`, never 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::model::blocks::Filled;
use crate::model::event::Phase;
use crate::model::observation::{Cap, Coverage, NodeFigures, ProcessEnd, RankFigures, Window};
use crate::model::parity::{Figure, Outcome};
use crate::model::plan::{Device, Way};
use crate::model::{Configuration, FailureFields, FailureKind, Knob, NumericsClass, Purpose, Verdict};
use crate::verdict::curve::Point;
use crate::verdict::would_fit::WouldFit;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneResult {
    /// [`crate::model::VERSION`].
    pub version: u32,
    /// Version of the program that wrote it.
    pub autofit: String,
    /// The search, as in `.autofit/<id>`.
    pub id: String,
    /// How the search ended.
    pub status: Status,
    /// The program's exit status.
    pub exit_status: i32,
    /// The status in one sentence.
    pub reason: String,
    /// The script's command, as typed.  Secrets among the arguments are replaced by `***`.
    pub command: Vec<String>,
    /// The whole command line, as typed (what to type to go on); may be empty.  Secrets are replaced.
    #[serde(default)]
    pub invocation: Vec<String>,
    /// Where it was typed.
    pub directory: String,
    /// Where training happens.
    pub device: Device,
    /// What the figures were measured on.
    pub machine: Machine,
    /// What may be used.
    pub cap: CapFigures,
    /// What was kept from changing, and what was not.
    pub isolation: Isolation,
    /// What can be turned in this script, and how.
    pub knobs: Vec<KnobEntry>,
    /// The script as it is.
    pub baseline: Option<Candidate>,
    /// What relative figures are relative to: the baseline, or the first that fits when the baseline does not.
    pub reference_trial: Option<u32>,
    /// The best configuration.  After a confirm trial these are that trial's figures.
    pub winner: Option<Candidate>,
    /// The winner's run through the production path; without it the winner is a candidate, not a claim.
    pub confirmed: Option<Confirmed>,
    /// Every launch, in order.
    pub trials: Vec<Trial>,
    /// What the search took.
    pub cost: Cost,
    /// What should fit on other cards; absent where no launch measured several batch sizes.
    #[serde(default)]
    pub would_fit: Option<WouldFit>,
    /// What would be gained elsewhere.
    pub advice: Vec<Advice>,
    /// Moves that were not tried.
    pub skipped: Vec<Skipped>,
    /// Sentences that must not be missed.
    pub notes: Vec<String>,
    /// Two configurations that were launched in turns; only `autofit try` does that.
    #[serde(default)]
    pub compared: Option<Compared>,
    /// Why the script fails, when it does so for a reason that is not memory.
    pub failure: Option<FailureReport>,
    /// Where things are.
    pub files: Files,
    /// Commands to type next; they work as they stand in `directory`.
    pub next: Vec<String>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A winner was confirmed.
    Tuned,
    /// Nothing fits within the bounds.
    NothingFits,
    /// The script fails for a reason that is not memory.
    ScriptFails,
    /// The agent could not start in the script.
    AgentMissing,
    /// Stopped by the user (Ctrl-C); the winner, if any, is the best so far.
    Interrupted,
    /// Stopped by SIGTERM; the winner, if any, is the best so far.
    Terminated,
}

impl Status {
    /// The program's exit status.
    pub fn exit_status(self) -> i32 {
        use crate::exit;
        match self {
            Self::Tuned => exit::TUNED,
            Self::NothingFits => exit::NOTHING_FITS,
            Self::ScriptFails => exit::SCRIPT_FAILS,
            Self::AgentMissing => exit::AGENT_MISSING,
            Self::Interrupted => exit::INTERRUPTED,
            Self::Terminated => exit::TERMINATED,
        }
    }
}

/// The limit, and how it was enforced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapFigures {
    /// Absent without one.
    pub bytes: Option<u64>,
    /// What `--margin` keeps free above it: with it, this is what was allowed.
    #[serde(default)]
    pub margin_bytes: u64,
    /// `cgroup v1`, `allocator fraction`, ...
    pub mechanism: String,
    /// `process tree`, `process`, `device`.
    pub scope: String,
    /// `anonymous + shared memory`, ...
    pub metric: String,
}

impl From<&Cap> for CapFigures {
    fn from(c: &Cap) -> Self {
        Self {
            bytes: c.bytes,
            margin_bytes: c.margin_bytes,
            mechanism: c.mechanism.clone(),
            scope: c.scope.clone(),
            metric: c.metric.clone(),
        }
    }
}

impl From<&CapFigures> for Cap {
    fn from(c: &CapFigures) -> Self {
        Self {
            bytes: c.bytes,
            margin_bytes: c.margin_bytes,
            mechanism: c.mechanism.clone(),
            scope: c.scope.clone(),
            metric: c.metric.clone(),
        }
    }
}

/// How trials were kept from changing the user's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// `overlay`, `landlock`, `copy`, `none`.
    pub mechanism: String,
    /// In words: what it covers.
    pub covers: String,
    /// What it does not cover.
    pub not_covered: Vec<String>,
}

/// One knob for this script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnobEntry {
    /// Which.
    pub name: Knob,
    /// What turning it does to training.
    pub class: NumericsClass,
    /// The way, when there is one.
    pub way: Option<Way>,
    /// In words.
    pub how: Option<String>,
    /// Why it cannot be turned.
    pub why_not: Option<String>,
    /// The script's own value, as text.
    pub current: Option<String>,
}

/// A figure with its 95 % interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Median.
    pub value: f64,
    /// Lower and upper end.
    pub interval: (f64, f64),
    /// `samples/s`, or `steps/s` where samples cannot be told.
    pub unit: String,
}

/// How fast one configuration is beside another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Whose rate is above the line.
    pub settings: Configuration,
    /// Whose is below.
    pub against: Configuration,
    /// Launches of each that were compared, one with one.
    pub pairs: u32,
    /// Geometric mean of the pairs' ratios of samples per second.
    pub ratio: f64,
    /// 95 % interval of the ratio.
    pub interval: (f64, f64),
}

/// Baseline or winner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Whose figures these are.
    pub trial: u32,
    /// What is changed.
    pub settings: Configuration,
    /// The judgement.
    pub verdict: Verdict,
    /// One sentence on it.
    pub why: String,
    /// Throughput.
    pub samples_per_second: Option<Rate>,
    /// Throughput over the reference trial's.
    pub relative: Option<f64>,
    /// Device memory.
    pub peak_device_bytes: Option<u64>,
    /// Host memory, in the cap's metric where the cap is about host memory.
    pub peak_host_bytes: Option<u64>,
    /// Left under the cap at the peak.
    pub headroom_bytes: Option<u64>,
    /// Loss and gradients beside the baseline's.
    pub parity: Option<Parity>,
}

/// Loss and gradients of the first steps, same seed and data, beside those of another trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// The judgement in one word, when there was one.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// The judgement in a sentence.
    pub sentence: Option<String>,
    /// The other trial; absent when the two have no steps in common.
    pub with_trial: Option<u32>,
    /// Steps compared.
    pub steps: u32,
    /// Largest relative difference of the loss.
    pub loss: Option<f64>,
    /// Largest relative difference of the gradient norm before clipping; absent when it was not recorded.
    pub grad_norm: Option<f64>,
    /// Largest difference of each quantity that was judged, with what was allowed.
    #[serde(default)]
    pub figures: Vec<Figure>,
    /// The batch that both ran with, where it is not the script's own.
    #[serde(default)]
    pub batch: Option<i64>,
}

/// A confirm trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Number of the confirm trial.
    pub trial: u32,
    /// Throughput.
    pub samples_per_second: Option<Rate>,
    /// Peak in the memory that the cap is about.
    pub peak_bytes: Option<u64>,
    /// Left under the cap at the peak.
    pub headroom_bytes: Option<u64>,
    /// The limit that was enforced.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// Training steps were measured.
    pub train_seen: bool,
    /// What it saw beside training.
    pub coverage: Coverage,
    /// The same under its own peak as the limit; absent where that was not asked for, or did not hold.
    #[serde(default)]
    pub proved: Option<Proved>,
}

/// A confirmed configuration, launched once more as it was confirmed, under its own peak as the limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proved {
    /// Number of the trial.
    pub trial: u32,
    /// The limit that was enforced: it needs at most this.
    pub limit_bytes: Option<u64>,
    /// Its peak then.
    pub peak_bytes: Option<u64>,
    /// Throughput under that limit.
    pub samples_per_second: Option<Rate>,
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number in the search, from 1.
    pub trial: u32,
    /// Why it was launched.
    pub purpose: Purpose,
    /// What was asked for.
    pub settings: Configuration,
    /// The judgement.
    pub verdict: Verdict,
    /// One sentence on it.
    pub why: String,
    /// Where and how memory ran out.
    pub oom: Option<Oom>,
    /// Several batch sizes measured in one launch; empty where one was.
    pub curve: Vec<Point>,
    /// From launch to the end of the last process.
    pub seconds: f64,
    /// How the process ended.
    pub end: ProcessEnd,
    /// What the search expected; absent where it expected nothing.
    pub predicted: Option<Prediction>,
    /// What was measured.
    pub measured: Measured,
    /// Figures of each rank, where there are several.
    #[serde(default)]
    pub ranks: Vec<RankFigures>,
    /// Figures of each machine, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeFigures>,
    /// Values read back: knob -> value in force (`null`: not in force).
    pub effective: BTreeMap<Knob, Option<crate::model::Value>>,
    /// Other configurations that were measured in turns with `settings` in the same launch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// Memory ran out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Oom {
    /// `cuda:0`, `host`, `shm`.
    pub device: String,
    /// Where in the script's life; absent when it is not known.
    pub phase: Option<Phase>,
    /// The allocation that failed, where stated.
    pub requested_bytes: Option<u64>,
    /// A lower bound of what is needed, in the memory that the cap is about; absent where nothing is known.
    #[serde(default)]
    pub at_least_bytes: Option<u64>,
    /// Steps that were done before.
    #[serde(default)]
    pub after_steps: u64,
    /// What the text says.
    pub kind: Option<FailureKind>,
    /// One sentence.
    pub cause: String,
    /// All figures that the text states.
    pub fields: FailureFields,
    /// What was alive then, where the process could still tell.
    #[serde(default)]
    pub filled: Option<Filled>,
}

/// What the search expected of a trial.  Predictions choose what to try, never what to report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prediction {
    /// Throughput.
    pub samples_per_second: Option<f64>,
    /// Peak in the memory that the cap is about.
    pub peak_bytes: Option<u64>,
}

/// What was measured in a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Throughput; absent when no steady step was measured.
    pub samples_per_second: Option<Rate>,
    /// Throughput over the reference trial's; only for trials that fit.
    pub relative: Option<f64>,
    /// Steady steps behind the throughput.
    pub steps: u32,
    /// Device memory.
    pub peak_device_bytes: Option<u64>,
    /// Host memory.
    pub peak_host_bytes: Option<u64>,
    /// Left under the cap at the peak; absent after an out-of-memory end.
    pub headroom_bytes: Option<u64>,
    /// Share of step time in which the loop waited for its loader, 0 to 1.
    pub loader_wait_share: Option<f64>,
    /// From launch to the end of the first step: imports, data, compilation.
    pub first_step_seconds: Option<f64>,
}

/// What the search took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processes launched, earlier parts of a resumed search included.
    pub launches: u32,
    /// Wall-clock, earlier parts included.
    pub seconds: f64,
}

/// Something worth knowing that the bounds did not allow, or that the user can change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Advice {
    /// One sentence, figures included.
    pub text: String,
    /// What was measured for it, if anything was.
    pub trial: Option<u32>,
    /// The option that allows it: `--batch max`.
    pub option: Option<String>,
}

/// A move that was not tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The move, in the words of the ladder.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Why the script fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureReport {
    /// The trial.
    pub trial: u32,
    /// One sentence.
    pub cause: String,
    /// What to do.
    pub next: Vec<String>,
    /// The end of its output; values of secret environment variables are replaced.
    pub tail: Vec<String>,
}

/// Where things are, relative to `directory` where they lie below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Files {
    /// `autofit.env`; absent when nothing is to be used.
    pub env: Option<String>,
    /// `result.json`.
    pub result: Option<String>,
    /// `report.html`.
    pub report: Option<String>,
    /// `report.md`.
    pub markdown: Option<String>,
    /// Journal and the rest.
    pub directory: Option<String>,
}

impl TuneResult {
    /// The document as it is written to disk and printed by `--json`.
    ///
    /// # Errors
    /// None in practice: every field can be serialised.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
