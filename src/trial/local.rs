//! Trials on this machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use super::collect::Records;
use super::nodes::Seat;
use super::nodes::team::Team;
use super::observe::{self, observe};
use super::part::{Part, Parts};
use super::patience::Patience;
use super::prepare::{Prepared, prepare};
use super::reclaim::Reclaim;
use super::references::References;
use super::rendezvous;
use super::room;
use super::{Executor, Launches};
use crate::agent::{AgentFiles, EventReader};
use crate::model::event::Record;
use crate::model::observation::{Cap, ProcessEnd};
use crate::model::plan::Device;
use crate::model::size::Bytes;
use crate::model::{Event, Inspection, Observation, Progress, TrialSpec};
use crate::process::{self, Ended, Launch, Running, StartError};
use crate::sandbox::{offline, scratch};
use crate::watch::nvml::{Baseline, Freed};
use crate::watch::sampler::Pids;
use crate::watch::{Gpus, Sampler, SamplerOptions, wait_until_free};

/// How often records, limits and signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);

/// Between TERM and KILL: a script that saves on TERM does so into the sandbox, nobody needs that.
const GRACE: Duration = Duration::from_secs(2);

/// Device memory is given back within a second of a process's death; more is another's.
const DEVICE_FREE: Duration = Duration::from_secs(10);

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
    /// NVML, where there is one.
    pub gpus: Option<Arc<Gpus>>,
    /// Indices of the devices that the script can see.
    pub visible: Vec<usize>,
    /// This machine's place, where several run each trial together.
    pub seat: Option<Seat>,
}

/// Launches trials one after the other.
pub struct LocalExecutor<P> {
    site: Site,
    agent: AgentFiles,
    stop: watch::Receiver<Stop>,
    tell: P,
    inspection: Option<Inspection>,
    references: References,
    budget_left: Box<dyn Fn() -> Option<f64>>,
    noted: Vec<String>,
    profile: bool,
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
        let references = References::default();
        let mut executor = Self {
            site,
            agent,
            stop,
            tell,
            inspection: None,
            references,
            budget_left,
            noted: vec![],
            profile: false,
        };
        for observation in history {
            executor.learn(observation);
        }
        executor
    }

    /// Tells the user something.
    pub fn tell(&mut self, progress: Progress) {
        (self.tell)(progress);
    }

    fn learn(&mut self, observation: &Observation) {
        if self.inspection.is_none() {
            self.inspection.clone_from(&observation.inspection);
        }
        self.references.learn(observation);
    }
}

impl<P: FnMut(Progress)> Executor for LocalExecutor<P> {
    async fn run(&mut self, number: u32, spec: &TrialSpec) -> anyhow::Result<Observation> {
        let (mut trial, part) = self.carry_out(number, spec).await?;
        let parts = match trial.team.take() {
            None => Parts::alone(part),
            Some(mut team) => {
                let hear = |rank, event| trial.records.extend(rank, [event]);
                team.gather(part, hear, || *self.stop.borrow() == Stop::Now).await
            }
        };
        let found = self.inspection.as_ref();
        let observation = observe(&self.site, number, spec, &trial, &parts, &self.references, found);
        room::refuse_full(&self.site.scratch, &observation, trial.least_free)?;
        let observation = self.with_inspection(observation);
        self.learn(&observation);
        Ok(observation)
    }
}

impl<P: FnMut(Progress)> LocalExecutor<P> {
    /// Runs this machine's part of a trial that another one judges.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn follow(&mut self, number: u32, spec: &TrialSpec) -> anyhow::Result<()> {
        let (mut trial, part) = self.carry_out(number, spec).await?;
        let mut team = trial.team.take().context("this machine alone runs the trial")?;
        team.report(part.told());
        Ok(())
    }

    async fn carry_out(&mut self, number: u32, spec: &TrialSpec) -> anyhow::Result<(Trial, Part)> {
        let baseline = self.device_baseline();
        let mut trial = self.launch(number, spec, &baseline).await?;
        let ended = match trial.running.clone() {
            Ok(running) => Some(self.attend(number, &mut trial, &running).await),
            Err(_) => None,
        };
        self.wait_for_device(&baseline).await;
        for (rank, event) in trial.hear() {
            trial.records.extend(rank, [event]);
        }
        let part = observe::part(&mut trial, ended.as_ref());
        Ok((trial, part))
    }
}

impl<P> Launches for LocalExecutor<P> {
    fn inspection(&self) -> Option<&Inspection> {
        self.inspection.as_ref()
    }

    fn profile(&mut self) {
        self.profile = true;
    }

    fn trial_dir(&self, number: u32) -> PathBuf {
        self.site.scratch.join(format!("trial-{number}"))
    }

    fn prepare(&self, spec: &TrialSpec) -> Prepared {
        let Site { command, device, cap, .. } = &self.site;
        prepare(spec, command, self.inspection(), *device, cap, nonce())
    }
}

/// A trial that was started, or could not be.
pub(super) struct Trial {
    pub dir: PathBuf,
    pub prepared: Prepared,
    pub running: Result<Arc<Running>, Arc<StartError>>,
    pub sampler: Option<Sampler>,
    pub reader: EventReader,
    pub records: Records,
    pub started: Instant,
    /// The machines that run it together, where there are several.
    pub team: Option<Team>,
    /// Of the place where it writes, bytes.
    pub least_free: Option<u64>,
}

impl Trial {
    /// What agents have written since, on this machine and, where it leads several, on the others.
    fn hear(&mut self) -> Vec<(u32, Event)> {
        let mut events = self.reader.read();
        if let Some(team) = &mut self.team {
            let others = team.exchange(&events);
            events.extend(others);
        }
        events
    }

    fn hear_of_space(&mut self, free: Option<u64>) {
        self.least_free = [self.least_free, free].into_iter().flatten().min();
    }
}

impl<P: FnMut(Progress)> LocalExecutor<P> {
    async fn launch(&mut self, number: u32, spec: &TrialSpec, baseline: &Baseline) -> anyhow::Result<Trial> {
        let dir = self.trial_dir(number);
        // A directory of that name is left from a trial that was killed together with its launcher.
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut prepared = self.prepare(spec);
        let team = match &self.site.seat {
            None => None,
            Some(seat) => {
                let stopped = || *self.stop.borrow() == Stop::Now;
                Some(Team::meet(seat, &dir, prepared.plan.nonce.clone(), stopped).await?)
            }
        };
        if let Some(team) = &team {
            team.nonce().clone_into(&mut prepared.plan.nonce);
            prepared.plan.several_machines = true;
        }
        prepared.plan.trial_dir = Some(dir.display().to_string());
        prepared.plan.profile = self.profile;
        if self.profile {
            // What the comparison keeps of the first steps would be found among the script's tensors.
            prepared.plan.parity_steps = 0;
        }
        let plan = dir.join("plan.json");
        std::fs::write(&plan, serde_json::to_vec_pretty(&prepared.plan)?)
            .with_context(|| format!("cannot write {}", plan.display()))?;
        (self.tell)(Progress::TrialStarted {
            trial: number,
            of: None,
            settings: spec.settings.clone(),
            purpose: spec.purpose,
            budget_left: (self.budget_left)(),
        });
        let mut launch = self.site.launch(&dir, &plan, &prepared, &self.agent);
        if let Some(team) = &team {
            launch.argv = team.command(&prepared.argv)?.into_iter().map(OsString::from).collect();
        }
        let started = Instant::now();
        let running = process::start(launch).await.map(Arc::new).map_err(Arc::new);
        let sampler = match &running {
            Ok(running) => {
                for note in running.notes() {
                    self.note_once(note);
                }
                let pids = Arc::clone(running);
                let options = SamplerOptions {
                    gpus: self.site.gpus.clone(),
                    baseline: baseline.clone(),
                    cgroup: running.cgroup().map(Path::to_owned),
                    shm: running.shared_memory(),
                };
                let pids: Pids = Arc::new(move || pids.pids().into_iter().map(i32::cast_unsigned).collect());
                Some(Sampler::start(pids, options).context("cannot watch the trial")?)
            }
            Err(_) => None,
        };
        let reader = EventReader::new(&dir);
        let records = Records::default();
        Ok(Trial { dir, prepared, running, sampler, reader, records, started, team, least_free: None })
    }

    /// Reads, tells and guards until the trial is over.
    async fn attend(&mut self, number: u32, trial: &mut Trial, running: &Running) -> Ended {
        let plan = &trial.prepared.plan;
        let mut patience = Patience::with_timeout(self.site.timeout, &plan.settings);
        if plan.profile {
            patience = patience.while_looking();
        }
        let mut reclaim = Reclaim::default();
        let mut pulse = Pulse::default();
        let mut told = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = running.wait() => {
                    trial.hear_of_space(ended.room_left);
                    return ended;
                }
                // A script may remove what it could not write whole.
                _ = ticks.tick() => trial.hear_of_space(scratch::free(&trial.dir)),
            }
            let now = trial.started.elapsed().as_secs_f64();
            for (rank, event) in trial.hear() {
                pulse.hear(&event.record, now);
                patience.hear(rank, &event.record, now);
                reclaim.hear(&event.record);
                trial.records.extend(rank, [event]);
            }
            let latest = trial.sampler.as_ref().map(Sampler::latest).unwrap_or_default();
            let hopeless = latest.cgroup.is_some_and(|reading| reclaim.hopeless(&reading, now));
            if *self.stop.borrow() == Stop::Now {
                running.end(ProcessEnd::Interrupted);
            } else if hopeless {
                running.end(ProcessEnd::Thrashed);
            } else if let Some(end) = patience.verdict(now) {
                running.end(end);
            } else if let Some(end) = trial.team.as_ref().and_then(Team::wants_end) {
                running.end(end);
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let host = Some(running.memory_now()).filter(|b| *b > 0).or(latest.host);
                (self.tell)(Progress::Tick {
                    trial: number,
                    elapsed: now,
                    steps: pulse.steps,
                    steps_per_second: pulse.rate(),
                    memory: if self.site.device == Device::Cuda { latest.device } else { host },
                    limit: trial.prepared.plan.cap_bytes,
                    budget_left: (self.budget_left)(),
                });
            }
        }
    }

    fn device_baseline(&self) -> Baseline {
        match &self.site.gpus {
            Some(gpus) if self.site.device == Device::Cuda => Baseline::now(gpus, &self.site.visible),
            _ => Baseline::default(),
        }
    }

    /// The next trial must not start while the device still holds memory of the last one.
    async fn wait_for_device(&mut self, baseline: &Baseline) {
        let Some(gpus) = self.site.gpus.clone().filter(|_| !baseline.devices.is_empty()) else { return };
        let baseline = baseline.clone();
        let freed = tokio::task::spawn_blocking(move || wait_until_free(&gpus, &baseline, DEVICE_FREE)).await;
        if let Ok(Freed::Held { uuid, bytes, pids }) = freed {
            (self.tell)(Progress::Note(format!(
                "{} of {uuid} are still in use {} s after the trial (processes {pids:?}); the next figures may be off",
                Bytes(bytes),
                DEVICE_FREE.as_secs()
            )));
        }
    }

    fn note_once(&mut self, note: &str) {
        if !self.noted.iter().any(|n| n == note) {
            self.noted.push(note.to_owned());
            (self.tell)(Progress::Note(note.to_owned()));
        }
    }

    fn with_inspection(&self, mut observation: Observation) -> Observation {
        // The journal keeps one copy, with the launch that found it.
        if self.inspection.is_some() {
            observation.inspection = None;
        }
        observation
    }
}

impl Site {
    fn launch(&self, dir: &Path, plan: &Path, prepared: &Prepared, agent: &AgentFiles) -> Launch {
        let mut env: BTreeMap<OsString, OsString> = self.env.iter().cloned().collect();
        if let Some(seed) = prepared.plan.seed {
            // The seed of Python's own hashing can only be set from outside: the order of a set of words is the same
            // in every trial, so that their losses can be compared.
            env.entry("PYTHONHASHSEED".into()).or_insert_with(|| seed.to_string().into());
        }
        env.extend(offline::variables(dir, !prepared.plan.inspect));
        env.extend(rendezvous::variables(&self.env));
        env.extend(prepared.env.iter().map(|(n, v)| (n.into(), v.into())));
        let inherited = self.env.iter().find(|(n, _)| n == "PYTHONPATH").map(|(_, v)| v.clone());
        env.extend(agent.env(plan, inherited.as_deref()).into_iter().map(|(n, v)| (n.into(), v)));
        if self.device == Device::Cpu {
            // So that a script which would take a GPU trains where the cap is enforced.
            env.insert("CUDA_VISIBLE_DEVICES".into(), "".into());
        }
        Launch {
            argv: prepared.argv.iter().map(OsString::from).collect(),
            cwd: self.cwd.clone(),
            env: env.into_iter().collect(),
            trial_dir: dir.to_owned(),
            log: dir.join("output.log"),
            isolation: self.isolation,
            share: self.share.clone(),
            writable: Vec::new(),
            caches: Vec::new(),
            cache_layer: Some(self.scratch.join("caches")),
            memory_limit: prepared.plan.cap_bytes.filter(|_| self.device == Device::Cpu),
            grace: GRACE,
        }
    }
}

/// The latest steps, for the display.
#[derive(Debug, Default)]
struct Pulse {
    steps: u64,
    recent: Vec<f64>,
}

impl Pulse {
    fn hear(&mut self, record: &Record, _now: f64) {
        if let Record::Step(step) = record {
            self.steps = self.steps.max(step.index + 1);
            self.recent.push(step.seconds);
            if self.recent.len() > 8 {
                self.recent.remove(0);
            }
        }
    }

    fn rate(&self) -> Option<f64> {
        let seconds: f64 = self.recent.iter().sum();
        (seconds > 0.0).then(|| self.recent.len() as f64 / seconds)
    }
}

/// Unguessable enough to tell this trial's records from another's.
pub(super) fn nonce() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let mut text = String::new();
    for _ in 0..2 {
        let hasher = std::hash::RandomState::new().build_hasher();
        text.push_str(&format!("{:016x}", hasher.finish()));
    }
    text
}
