//! The launcher of trials that are jobs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client::{self, Client, Launched};
use super::jobs::{ASK_AT_THE_END, SILENCE, launch, output, states, words};
use super::order::{self, Order, Task, TrialOrder};
use super::state::{self, End, JobState};
use super::verdict::{self, Settled, Unwritten};
use crate::exit::{self, Exit};
use crate::model::observation::{Cap, ProcessEnd};
use crate::model::plan::Device;
use crate::model::{Inspection, Observation, Progress, TrialSpec, Verdict};
use crate::trial::local::{Stop, nonce};
use crate::trial::prepare::{Prepared, prepare};
use crate::trial::{Executor, Launches};

/// How often the shared folder is looked at, which costs nobody anything.
const LOOK: Duration = Duration::from_millis(500);

/// How often SLURM is asked, whose controller serves everybody.
const ASK: Duration = Duration::from_secs(5);

/// A shared file system may show a file late: what a job that has completed wrote is waited for this long.
const LATE: Duration = Duration::from_secs(30);

/// A trial is launched this often, if its job is lost for no reason of its own.
const ATTEMPTS: u32 = 3;

/// What stays the same for all trials of a search.
#[derive(Debug, Clone)]
pub struct Site {
    /// The user's command.
    pub command: Vec<String>,
    /// The launcher's command line.
    pub arguments: Vec<String>,
    /// Where training happens.
    pub device: Device,
    /// What may be used.
    pub cap: Cap,
    /// The shared folder.
    pub folder: PathBuf,
    /// Jobs at a time.
    pub places: usize,
    /// Nodes of each.
    pub nodes: u32,
}

/// Launches trials as jobs.
pub struct SlurmExecutor<P> {
    site: Site,
    client: Client,
    stop: watch::Receiver<Stop>,
    tell: P,
    budget_left: Box<dyn Fn() -> Option<f64>>,
    history: Vec<Observation>,
    profile: bool,
    running: Vec<Running>,
    asked: Instant,
    answered: Instant,
}

/// A trial that was launched and is not over.
struct Running {
    number: u32,
    spec: TrialSpec,
    dir: PathBuf,
    launched: Launched,
    attempt: u32,
    submitted: Instant,
    state: Option<JobState>,
    /// Since when its job is over, though nothing is there to be read.
    silent: Option<Instant>,
    /// The user wants to stop soon: it is not waited for unless it has begun.
    unwanted: bool,
}

impl Running {
    fn never_began(&self) -> bool {
        self.unwanted && self.state == Some(JobState::Ended(End::Cancelled))
    }
}

impl<P: FnMut(Progress)> SlurmExecutor<P> {
    /// Ready to launch; `history` is what an earlier run of the same search observed.
    pub fn new(
        site: Site,
        client: Client,
        history: &[Observation],
        stop: watch::Receiver<Stop>,
        budget_left: Box<dyn Fn() -> Option<f64>>,
        tell: P,
    ) -> Self {
        let (history, now) = (history.to_vec(), Instant::now());
        Self {
            site,
            client,
            stop,
            tell,
            budget_left,
            history,
            profile: false,
            running: Vec::new(),
            asked: now,
            answered: now,
        }
    }

    /// Trials at a time.
    pub fn places(&self) -> usize {
        self.site.places
    }

    /// Submits a trial.
    ///
    /// # Errors
    /// SLURM refuses it, or the shared folder cannot be written.
    pub async fn start(&mut self, number: u32, spec: &TrialSpec) -> anyhow::Result<()> {
        let dir = self.dir(number);
        let launched = self.submit(number, spec, &dir).await?;
        (self.tell)(Progress::TrialStarted {
            trial: number,
            of: None,
            settings: spec.settings.clone(),
            purpose: spec.purpose,
            budget_left: (self.budget_left)(),
        });
        let spec = spec.clone();
        let submitted = Instant::now();
        self.answered = submitted;
        self.running.push(Running {
            number,
            spec,
            dir,
            launched,
            attempt: 1,
            submitted,
            state: None,
            silent: None,
            unwanted: false,
        });
        Ok(())
    }

    /// Waits until one of the trials that were started is over.
    ///
    /// # Errors
    /// Only what makes further trials pointless.
    pub async fn ended(&mut self) -> anyhow::Result<Observation> {
        loop {
            let stop = *self.stop.borrow();
            if stop == Stop::Now {
                return Ok(self.stopped().await);
            }
            self.ask().await?;
            let some_go_on = self.running.iter().any(|r| !r.never_began());
            for at in 0..self.running.len() {
                // What never began is told of last: with it the search ends.
                if self.running[at].never_began() && some_go_on {
                    continue;
                }
                if let Some(observation) = self.settle(at).await? {
                    self.running.remove(at);
                    return Ok(self.learn(observation));
                }
            }
            if stop == Stop::Soon {
                self.cancel_waiting().await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    fn learn(&mut self, observation: Observation) -> Observation {
        if observation.verdict != Verdict::Interrupted {
            self.history.push(observation.clone());
        }
        observation
    }

    async fn submit(&self, number: u32, spec: &TrialSpec, dir: &Path) -> anyhow::Result<Launched> {
        let Site { arguments, device, cap, nodes, .. } = &self.site;
        let task = TrialOrder {
            number,
            spec: spec.clone(),
            device: *device,
            cap: cap.clone(),
            profile: self.profile,
            nodes: *nodes,
            history: self.history.clone(),
        };
        let order = Order::new(arguments, Task::Trial(Box::new(task)));
        launch(self.client.clone(), order, dir.to_owned()).await
    }

    /// Asks SLURM, if it is time to, and tells where the jobs stand.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let ending = |r: &Running| order::has_answer(&r.dir) || matches!(r.launched, Launched::Step(_));
        let every = if self.running.iter().any(ending) { ASK_AT_THE_END } else { ASK };
        let unknown = self.running.iter().any(|r| r.state.is_none());
        if self.asked.elapsed() < every && !unknown {
            return Ok(());
        }
        self.asked = Instant::now();
        match states(self.client.clone(), self.jobs()).await? {
            Ok(states) => {
                self.answered = Instant::now();
                for (running, state) in self.running.iter_mut().zip(states) {
                    if let Some(text) = words(&running.launched, &state) {
                        let elapsed = running.submitted.elapsed().as_secs_f64();
                        (self.tell)(Progress::Job { trial: running.number, elapsed, text });
                    }
                    running.state = Some(state);
                }
                Ok(())
            }
            Err(e) if self.answered.elapsed() < SILENCE => {
                let text = format!("SLURM does not answer ({e}); waiting for it");
                for running in &self.running {
                    let elapsed = running.submitted.elapsed().as_secs_f64();
                    (self.tell)(Progress::Job { trial: running.number, elapsed, text: text.clone() });
                }
                Ok(())
            }
            Err(e) => Err(Exit::new(
                exit::PLACE,
                format!("SLURM has not answered for {} s: {e}", SILENCE.as_secs()),
            )
            .into()),
        }
    }

    /// The observation of a trial whose job is over.
    async fn settle(&mut self, at: usize) -> anyhow::Result<Option<Observation>> {
        let running = &mut self.running[at];
        let Some(JobState::Ended(end)) = running.state else { return Ok(None) };
        let written = order::answered(&running.dir);
        if written.is_none() && end == End::Completed {
            let silent = *running.silent.get_or_insert_with(Instant::now);
            if silent.elapsed() < LATE {
                return Ok(None);
            }
        }
        let output = output(&running.dir) + "\n" + &running.launched.said();
        let end = state::refine(end, &output);
        let unwritten = Unwritten {
            number: running.number,
            spec: &running.spec,
            cap: &self.site.cap,
            seconds: running.submitted.elapsed().as_secs_f64(),
        };
        let job = running.launched.name();
        match verdict::settle(end, written, &unwritten, &output) {
            Settled::Over(observation) => {
                if observation.verdict == Verdict::Interrupted && *self.stop.borrow() == Stop::No {
                    (self.tell)(Progress::Note(format!(
                        "{job} was cancelled by somebody; nothing more is launched"
                    )));
                }
                Ok(Some(observation))
            }
            Settled::Broken(why) => Err(Exit::new(exit::PLACE, format!("{job} {why}")).into()),
            Settled::Again(why) if running.attempt == ATTEMPTS => {
                let why = format!("{job} {why}, the {ATTEMPTS}rd of this trial");
                Ok(Some(unwritten.observation(Verdict::Disturbed, ProcessEnd::Interrupted, why)))
            }
            Settled::Again(why) => {
                (self.tell)(Progress::Note(format!(
                    "{job} {why}; trial {} is launched again",
                    unwritten.number
                )));
                let (number, spec, dir) = (running.number, running.spec.clone(), running.dir.clone());
                let launched = self.submit(number, &spec, &dir).await?;
                let running = &mut self.running[at];
                running.attempt += 1;
                (running.launched, running.state, running.silent) = (launched, None, None);
                Ok(None)
            }
        }
    }

    /// Ends everything at once; the observation of the first that ran.
    async fn stopped(&mut self) -> Observation {
        let (client, jobs) = (self.client.clone(), self.jobs());
        let _ = tokio::task::spawn_blocking(move || client.cancel_all(&jobs)).await;
        let first = self.running.remove(0);
        self.running.clear();
        let seconds = first.submitted.elapsed().as_secs_f64();
        Unwritten { number: first.number, spec: &first.spec, cap: &self.site.cap, seconds }.interrupted()
    }

    /// What has not begun when the user wants to stop soon is not waited for.
    async fn cancel_waiting(&mut self) {
        let waits = |r: &&mut Running| !r.unwanted && matches!(r.state, Some(JobState::Waiting(_)));
        let mut jobs = Vec::new();
        for running in self.running.iter_mut().filter(waits) {
            jobs.push(running.launched.clone());
            running.unwanted = true;
        }
        let _ = tokio::task::spawn_blocking(move || jobs.iter().for_each(client::cancel_waiting)).await;
    }
}

impl<P> SlurmExecutor<P> {
    fn dir(&self, number: u32) -> PathBuf {
        self.site.folder.join(format!("trial-{number}"))
    }

    fn jobs(&self) -> Vec<Launched> {
        self.running.iter().map(|r| r.launched.clone()).collect()
    }
}

impl<P: FnMut(Progress)> Executor for SlurmExecutor<P> {
    async fn run(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<Observation> {
        self.start(trial, spec).await?;
        self.ended().await
    }
}

impl<P> Launches for SlurmExecutor<P> {
    fn inspection(&self) -> Option<&Inspection> {
        self.history.iter().find_map(|o| o.inspection.as_ref())
    }

    fn profile(&mut self) {
        self.profile = true;
    }

    /// There are records in it only if the trial was profiled.
    fn trial_dir(&self, number: u32) -> PathBuf {
        order::files(&self.dir(number))
    }

    /// As its node does.
    fn prepare(&self, spec: &TrialSpec) -> Prepared {
        let Site { command, device, cap, .. } = &self.site;
        prepare(spec, command, self.inspection(), *device, cap, nonce())
    }
}

impl<P> Drop for SlurmExecutor<P> {
    /// What was launched ahead and turned out not to be needed, or whatever runs when an error ends the search.
    fn drop(&mut self) {
        if !self.running.is_empty() {
            self.client.cancel_all(&self.jobs());
        }
    }
}
