//! Trials as jobs of SLURM: what is known of the nodes, and what launches there.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::bench::Tell;
use super::signals::Signals;
use super::workplace::{Workplace, command, current_dir, override_recipe};
use super::{Job, Verbosity, finish, nodes, terminal};
use crate::exit::{self, Exit};
use crate::model::Observation;
use crate::process::machine_limit;
use crate::recipe::{self, Executor, Recipe, Slurm};
use crate::report::machine::Machine;
use crate::report::plan::Jobs;
use crate::report::result::Isolation;
use crate::report::words;
use crate::trial::local::Stop;
use crate::trial::slurm::client::{self, Client};
use crate::trial::slurm::folder::Folder;
use crate::trial::slurm::order::{Order, Task};
use crate::trial::slurm::{Site, SlurmExecutor, ask_node};
use crate::watch::nvml::visibility;
use crate::watch::{Gpus, MachineFacts, NvmlUnavailable};

/// A machine that trials may run on, as far as it decides what a search is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ground {
    /// Processor, memory, GPUs.
    pub machine: MachineFacts,
    /// Devices that a script can see.
    pub visible: Vec<usize>,
    /// What a process tree may use of its memory, bytes.
    pub memory_limit: u64,
    /// The same machine, for reports.
    pub host: Machine,
}

impl Ground {
    /// This machine; `opened` as [`Gpus::open`] answered.
    pub fn read(opened: &Result<Gpus, NvmlUnavailable>) -> Self {
        let visible = match opened {
            Ok(gpus) => {
                let (devices, order) = visibility();
                gpus.visible(devices.as_deref(), order.as_deref())
            }
            Err(_) => Vec::new(),
        };
        let machine = MachineFacts::read(opened.as_ref());
        let memory_limit = allotted(machine_limit(), |name| std::env::var(name).ok());
        Self { machine, visible, memory_limit, host: Machine::host() }
    }
}

/// Not more than the job was given, which SLURM may enforce in a way that no cgroup shows.
fn allotted(limit: u64, variable: impl Fn(&str) -> Option<String>) -> u64 {
    let mebibytes = |name: &str| variable(name)?.parse::<u64>().ok().filter(|m| *m > 0);
    let cores = || variable("SLURM_CPUS_ON_NODE")?.parse::<u64>().ok();
    let each = || Some(mebibytes("SLURM_MEM_PER_CPU")? * cores()?);
    let given = mebibytes("SLURM_MEM_PER_NODE").or_else(each).map(|m| m << 20);
    given.map_or(limit, |given| if limit == 0 { given } else { limit.min(given) })
}

/// What a node answers when it is asked what it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Looked {
    /// The machine.
    pub ground: Ground,
    /// How the user's files are kept there.
    pub isolation: Isolation,
}

impl Wanted {
    /// What would be submitted, and when SLURM would start it; nothing is submitted.
    ///
    /// # Errors
    /// [`Exit`] with SLURM's words where it would refuse, with status 6.
    pub fn plan(&self) -> anyhow::Result<Jobs> {
        let client = Client::new("", self.slurm.words(), &current_dir()?);
        let inside = client::allocation().is_some();
        let expected = match inside {
            true => None,
            false => Some(client.would_start(self.nodes).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?),
        };
        let places = places(&self.slurm, self.nodes);
        Ok(Jobs { options: client.asks(self.nodes), nodes: self.nodes, places, inside, expected })
    }

    /// Whether jobs ask for a GPU.
    pub fn gpus(&self) -> bool {
        let asks = |word: &String| word.starts_with("--gpu") || word.starts_with("-G");
        let generic = |word: &String| word.starts_with("--gres") && word.contains("gpu");
        self.slurm.words().iter().any(|word| asks(word) || generic(word))
    }
}

/// What launches jobs, while this lives.
pub struct Cluster {
    /// A node, for reports.
    pub host: Machine,
    /// How the user's files are kept there.
    pub isolation: Isolation,
    /// Nodes of each trial.
    pub nodes: u32,
    client: Client,
    folder: Folder,
    arguments: Vec<String>,
    places: usize,
}

/// What the user wants of SLURM.
pub struct Wanted {
    /// Asked for with each job.
    slurm: Slurm,
    /// Nodes of each trial.
    nodes: u32,
}

impl Cluster {
    /// What SLURM is to be asked for, if the user wants it.
    ///
    /// # Errors
    /// [`Exit`] with status 2 for options that are of no use without it.
    pub fn wanted(job: &Job, recipe: Option<Recipe>) -> anyhow::Result<Option<Wanted>> {
        let mut recipe = match recipe {
            Some(recipe) => recipe,
            // Which of them it is does not matter for where trials run.
            None => recipe::default_for(crate::model::plan::Device::Cpu)?,
        };
        override_recipe(&mut recipe, job);
        if recipe.executor == Executor::Slurm {
            let (command, _) = command(job, &recipe, &current_dir()?)?;
            let nodes = nodes::of_trial(&recipe.slurm, &command, allocated())?;
            return Ok(Some(Wanted { slurm: recipe.slurm, nodes }));
        }
        if job.jobs.is_some() || !job.slurm.is_empty() {
            let message = "--jobs and --slurm are about jobs of SLURM: they need --executor slurm";
            return Err(Exit::new(exit::USAGE, message).into());
        }
        Ok(None)
    }

    /// Ends jobs of launchers that were killed, and asks a node what it is.
    ///
    /// # Errors
    /// [`Exit`] with SLURM's words where it refuses, with status 6.
    pub async fn open(job: &Job, wanted: &Wanted) -> anyhow::Result<(Self, Ground)> {
        let Wanted { slurm, nodes } = wanted;
        let cwd = current_dir()?;
        let out = job.out.as_ref().map_or_else(|| cwd.clone(), |o| cwd.join(o));
        let say = move |text: &str, verbosity| {
            if verbosity != Verbosity::Quiet {
                terminal::say(&format!("{text}\n"));
            }
        };
        let verbosity = job.verbosity;
        let signals = Signals::listen(move |text| say(&format!("note: {text}"), verbosity))?;
        let (folder, ended) = tokio::task::spawn_blocking(move || Folder::make(&out)).await??;
        if ended > 0 {
            let ended = words::count(ended as u64, "job", "jobs");
            say(&format!("note: ended {ended} of a search that was killed"), verbosity);
        }
        let client = Client::new(folder.name(), slurm.words(), &cwd);
        let looked: Looked = {
            let order = Order::new(&job.invocation, Task::Look);
            let stopped = || signals.stopped().then(|| signals.status().exit_status());
            let tell = |text: &str| say(&format!("looking at a node: {text}"), verbosity);
            ask_node(&client, order, &folder.path().join("look"), stopped, tell).await?
        };
        let Looked { ground, isolation } = looked;
        let host = ground.host.clone();
        let arguments = job.invocation.clone();
        let places = places(slurm, *nodes);
        Ok((Self { host, isolation, nodes: *nodes, client, folder, arguments, places }, ground))
    }

    /// Launches trials.
    pub fn executor(
        &self,
        place: &Workplace,
        history: &[Observation],
        stop: watch::Receiver<Stop>,
        budget_left: Box<dyn Fn() -> Option<f64>>,
        tell: Tell,
    ) -> SlurmExecutor<Tell> {
        let site = Site {
            command: place.command.clone(),
            arguments: self.arguments.clone(),
            device: place.device,
            cap: place.cap.clone(),
            folder: self.folder.path().to_owned(),
            places: self.places,
            nodes: self.nodes,
        };
        SlurmExecutor::new(site, self.client.clone(), history, stop, budget_left, tell)
    }
}

/// Trials at a time, if each runs on so many nodes.
fn places(slurm: &Slurm, nodes: u32) -> usize {
    let inside = || Some(allocated()? / nodes);
    slurm.jobs.or_else(inside).unwrap_or(1).max(1) as usize
}

/// Nodes of the allocation that this process runs in, if it runs in one.
fn allocated() -> Option<u32> {
    client::allocation().and_then(|_| std::env::var("SLURM_JOB_NUM_NODES").ok()?.parse().ok())
}

/// What a node says of itself.
///
/// # Errors
/// [`Exit`] with status 6 where the user's files cannot be kept as they want.
pub fn look(job: &Job, dir: &Path) -> anyhow::Result<()> {
    let isolation = finish::isolation(&Workplace::sandbox(job)?);
    let looked = Looked { ground: Ground::read(&Gpus::open()), isolation };
    crate::trial::slurm::order::answer(dir, &looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_own_share_of_memory_is_the_limit() {
        let of = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        };
        assert_eq!(allotted(8 << 30, of(&[])), 8 << 30);
        assert_eq!(allotted(8 << 30, of(&[("SLURM_MEM_PER_NODE", "2048")])), 2 << 30);
        assert_eq!(allotted(1 << 30, of(&[("SLURM_MEM_PER_NODE", "2048")])), 1 << 30);
        let each = [("SLURM_MEM_PER_CPU", "512"), ("SLURM_CPUS_ON_NODE", "4")];
        assert_eq!(allotted(8 << 30, of(Box::leak(Box::new(each)))), 2 << 30);
        assert_eq!(allotted(8 << 30, of(&[("SLURM_MEM_PER_NODE", "0")])), 8 << 30, "0 is all of it");
    }
}
