//! Trials on this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use super::Executor;
use super::collect::Records;
use super::patience::Patience;
use super::prepare::{Prepared, prepare};
use super::schedule::PARITY_STEPS;
use crate::agent::{AgentFiles, EventReader};
use crate::model::event::{Phase, Record};
use crate::model::observation::{Cap, Disturbance, ProcessEnd};
use crate::model::plan::Device;
use crate::model::{Inspection, Observation, Progress, Purpose, TrialSpec, VERSION};

/// How often records, limits and signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);

/// Lines of output kept in an observation of a failure.
const TAIL_LINES: usize = 40;

/// How urgently the user wants to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// After this trial.
    Soon,
    /// Now.
    Now,
}

/// What stays the same for all trials of a search.
pub struct Site {
    /// The user's command.
    pub command: Vec<String>,
    /// Where the user stands.
    pub cwd: PathBuf,
    /// The environment that the command gets, before settings and agent.
    pub env: Vec<(OsString, OsString)>,
    /// Where training happens.
    pub device: Device,
    /// What may be used, and how that is enforced.
    pub cap: Cap,
    /// How the user's files are kept.
    pub isolation: crate::sandbox::Isolation,
    /// Places left out of it.
    pub share: Vec<PathBuf>,
    /// Trial directories of this search, outside of every place that trials see through a view.
    pub scratch: PathBuf,
    /// Limit for one trial.
    pub timeout: Duration,
    /// The recipe's word on knobs.
    pub recipe: crate::recipe::Recipe,
    /// The machine.
    pub machine: crate::inspect::MachineFacts,
}

/// Launches trials one after the other.
pub struct LocalExecutor<P> {
    site: Site,
    agent: AgentFiles,
    stop: watch::Receiver<Stop>,
    tell: P,
    next: u32,
    inspection: Option<Inspection>,
    baseline: Option<Trace>,
    budget_left: Box<dyn Fn() -> Option<f64>>,
}

/// Losses and gradient norms that others are compared with.
#[derive(Debug, Clone, Default)]
struct Trace {
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}
