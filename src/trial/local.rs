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

impl<P: FnMut(Progress)> LocalExecutor<P> {
    /// Ready to launch; `history` is what an earlier run of the same search observed.
    pub fn new(
        site: Site,
        agent: AgentFiles,
        history: &[Observation],
        stop: watch::Receiver<Stop>,
        budget_left: Box<dyn Fn() -> Option<f64>>,
        tell: P,
    ) -> Self {
        let mut executor =
            Self { site, agent, stop, tell, next: 1, inspection: None, baseline: None, budget_left };
        for observation in history {
            executor.learn(observation);
        }
        executor
    }

    /// What the first launch found out, if it did.
    pub fn inspection(&self) -> Option<&Inspection> {
        self.inspection.as_ref()
    }

    /// Tells the user something.
    pub fn tell(&mut self, progress: Progress) {
        (self.tell)(progress);
    }

    /// Prepares a trial as it would be launched now.
    pub fn prepare(&self, spec: &TrialSpec) -> Prepared {
        prepare(
            spec,
            &self.site.command,
            self.inspection.as_ref(),
            self.site.device,
            self.site.cap.bytes,
            nonce(),
        )
    }

    fn learn(&mut self, observation: &Observation) {
        self.next = self.next.max(observation.trial + 1);
        if self.inspection.is_none() {
            self.inspection.clone_from(&observation.inspection);
        }
        if observation.settings.is_baseline() && self.baseline.is_none() && !observation.losses.is_empty() {
            self.baseline = Some(Trace {
                losses: observation.losses.clone(),
                grad_norms: observation.grad_norms.clone(),
            });
        }
    }
}

impl<P: FnMut(Progress)> Executor for LocalExecutor<P> {
    async fn run(&mut self, spec: &TrialSpec) -> anyhow::Result<Observation> {
        let number = self.next;
        let mut launched = self.launch(number, spec).await?;
        let end = match &mut launched.running {
            Some(_) => self.attend(number, &mut launched).await?,
            None => None,
        };
        let observation = self.observe(number, spec, launched, end).await?;
        self.learn(&observation);
        Ok(observation)
    }
}

/// A trial that was started, or could not be.
struct Launched {
    dir: PathBuf,
    prepared: Prepared,
    running: Option<Running>,
    refused: Option<StartError>,
    sampler: Option<Sampler>,
    reader: EventReader,
    records: Records,
    started: Instant,
    fresh_since: Option<f64>,
}

impl<P: FnMut(Progress)> LocalExecutor<P> {
    async fn launch(&mut self, number: u32, spec: &TrialSpec) -> anyhow::Result<Launched> {
        let dir = self.site.scratch.join(format!("trial-{number}"));
        // A directory of that name is left from a trial that was killed together with its launcher.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut prepared = self.prepare(spec);
        prepared.plan.trial_dir = Some(dir.display().to_string());
        let plan_path = dir.join("plan.json");
        std::fs::write(&plan_path, serde_json::to_vec_pretty(&prepared.plan)?)
            .with_context(|| format!("cannot write {}", plan_path.display()))?;
        (self.tell)(Progress::TrialStarted {
            trial: number,
            of: None,
            settings: spec.settings.clone(),
            purpose: spec.purpose,
            budget_left: (self.budget_left)(),
        });
        let launch = self.launch_spec(&dir, &plan_path, &prepared);
        let started = Instant::now();
        let (running, refused) = match process::start(launch).await {
            Ok(running) => (Some(running), None),
            Err(error) => (None, Some(error)),
        };
        let sampler = match &running {
            Some(running) => Some(Sampler::start(running.pids_source(), self.watch_options(running))?),
            None => None,
        };
        let reader = EventReader::new(&dir);
        let records = Records::default();
        Ok(Launched { dir, prepared, running, refused, sampler, reader, records, started, fresh_since: None })
    }
}
