//! What `tune`, `plan`, `try` and `inspect` set up before anything is launched: recipe, command, device, cap, places.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::cap::cap;
use super::cluster::{Cluster, Ground};
use super::{BatchPolicy, DeviceChoice, IsolationChoice, Job, lookup, recipe_python};
use crate::exit::{self, Exit};
use crate::inspect;
use crate::journal::{SearchKey, hash_file};
use crate::model::observation::Cap;
use crate::model::plan::Device;
use crate::model::torchrun::without_srun;
use crate::model::{NumericsClass, Observation};
use crate::process::abilities;
use crate::recipe::{self, Executor, Recipe};
use crate::sandbox::{self, Isolation, SandboxPlan};
use crate::search::SearchPlan;
use crate::trial::local::Site;
use crate::trial::nodes::Seat;
use crate::trial::schedule::SEED;
use crate::watch::{Gpus, MachineFacts};

/// A trial that says nothing about its limit may take this long; downloads and tokenising happen in the first one.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(600);

/// Files among the command's words above this size are data, not scripts; they do not make another search.
const SCRIPT_BYTES: u64 = 4 << 20;

/// Everything that is known before the first launch.
pub struct Workplace {
    /// What may be tried, with the command line's word over the recipe's.
    pub recipe: Recipe,
    /// The command.
    pub command: Vec<String>,
    /// Where it is launched.
    pub cwd: PathBuf,
    /// Where `autofit.env` and `.autofit/` go.
    pub out: PathBuf,
    /// Where training happens.
    pub device: Device,
    /// The limit.
    pub cap: Cap,
    /// The machine.
    pub machine: MachineFacts,
    /// NVML, where there is one.
    pub gpus: Option<Arc<Gpus>>,
    /// Devices that the script can see.
    pub visible: Vec<usize>,
    /// Where trials are jobs: what launches them.
    pub cluster: Option<Cluster>,
    /// This machine's place, where several run each trial together.
    pub seat: Option<Seat>,
}

impl Workplace {
    /// Checks what can be checked without a launch; trials run on this machine, or as jobs, as the user wants.
    ///
    /// # Errors
    /// [`Exit`] with status 2 for a wrong recipe or command, 6 for a place that cannot be used.
    pub async fn open(job: &Job) -> anyhow::Result<Self> {
        match Cluster::wanted(job, load_recipe(job.recipe.as_deref())?)? {
            None => Self::here(job),
            Some(wanted) => {
                let (cluster, ground) = Cluster::open(job, &wanted).await?;
                Ok(Self { cluster: Some(cluster), ..Self::on(job, ground, None)? })
            }
        }
    }

    /// The same for trials on this machine, whatever else the user wants.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn here(job: &Job) -> anyhow::Result<Self> {
        let opened = Gpus::open();
        let ground = Ground::read(&opened);
        Self::on(job, ground, opened.ok().map(Arc::new))
    }

    /// The same for nodes that nobody has looked at: nothing is known of their memory, and of their GPUs only whether
    /// some are asked for.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn unseen(job: &Job, gpus: bool) -> anyhow::Result<Self> {
        let mut ground = Ground::read(&Gpus::open());
        let recipe = load_recipe(job.recipe.as_deref())?;
        let named = job.device == DeviceChoice::Cuda || recipe.and_then(|r| r.device) == Some(Device::Cuda);
        ground.machine.gpus.clear();
        ground.visible = if gpus || named { vec![0] } else { Vec::new() };
        ground.memory_limit = u64::MAX;
        Self::on(job, ground, None)
    }

    fn on(job: &Job, ground: Ground, gpus: Option<Arc<Gpus>>) -> anyhow::Result<Self> {
        let here = current_dir()?;
        let Ground { machine, visible, memory_limit, .. } = ground;
        let mut recipe = load_recipe(job.recipe.as_deref())?;
        let device = device(job.device, recipe.as_ref().and_then(|r| r.device), &machine, &visible)?;
        let mut recipe = match recipe.take() {
            Some(recipe) => recipe,
            None => recipe::default_for(device)?,
        };
        override_recipe(&mut recipe, job);
        let (mut command, cwd) = command(job, &recipe, &here)?;
        if recipe.executor == Executor::Slurm {
            // Each trial is started on its nodes by a job's own srun.
            command = without_srun(&command).to_vec();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        if job.command.is_empty() {
            command = recipe_python::with_torch(command, job.yes)?;
        }
        lookup::check(&command, &cwd, &path).map_err(|e| Exit::new(exit::USAGE, e.to_string()))?;
        let cap = cap(&recipe, device, &machine, memory_limit, &visible)?;
        let out = job.out.as_ref().map_or_else(|| here.clone(), |o| here.join(o));
        let (cluster, seat) = (None, None);
        Ok(Self { recipe, command, cwd, out, device, cap, machine, gpus, visible, cluster, seat })
    }

    /// What makes this search this search.
    pub fn key(&self, job: &Job) -> SearchKey {
        let mut files = BTreeMap::new();
        for word in &self.command {
            let path = self.cwd.join(word);
            let small = path.metadata().is_ok_and(|m| m.is_file() && m.len() <= SCRIPT_BYTES);
            if small && let Ok(hash) = hash_file(&path) {
                files.insert(word.clone(), hash);
            }
        }
        let mut policy = BTreeMap::from([
            ("numerics".to_owned(), self.recipe.policy.numerics.name().to_owned()),
            ("batch".to_owned(), self.recipe.policy.batch.name().to_owned()),
            ("max_batch".to_owned(), format!("{:?}", self.recipe.policy.max_batch)),
            ("isolate".to_owned(), format!("{:?}", job.isolate)),
        ]);
        let device_ids = match self.device {
            Device::Cpu => vec![self.machine.cpu.clone(), self.machine.usable_cores().to_string()],
            // Each job may get another one of the same kind.
            Device::Cuda if self.cluster.is_some() => {
                self.machine.gpus.iter().map(|g| g.name.clone()).collect()
            }
            Device::Cuda => self.uuids(),
        };
        if let Some(cluster) = &self.cluster {
            policy.insert("executor".to_owned(), "slurm".to_owned());
            if cluster.nodes > 1 {
                policy.insert("nodes".to_owned(), cluster.nodes.to_string());
            }
        }
        SearchKey {
            argv: self.command.clone(),
            cwd: self.cwd.display().to_string(),
            recipe: Some(format!("{:?}", (&self.recipe.knobs, &self.recipe.ladder))),
            files,
            packages: BTreeMap::new(),
            device: self.device,
            device_ids,
            cap_bytes: self.cap.bytes,
            seed: Some(SEED),
            policy,
        }
    }

    /// How the user's files are kept here, and what that leaves open.  Finding out makes (and removes) a little room for
    /// scratch, so what killed launchers left is to be ended before.
    ///
    /// # Errors
    /// [`Exit`] with status 6 when what was asked for does not work here.
    pub fn sandbox(job: &Job) -> Result<SandboxPlan, Exit> {
        sandbox::plan(isolation(job.isolate), &job.share, abilities())
            .map_err(|e| Exit::new(exit::PLACE, e.to_string()))
    }

    /// UUIDs of the devices that the script can see.
    pub fn uuids(&self) -> Vec<String> {
        let Some(gpus) = &self.gpus else { return Vec::new() };
        self.visible.iter().filter_map(|i| gpus.devices().get(*i)).map(|g| g.uuid.clone()).collect()
    }

    /// What stays the same for all trials.
    pub fn site(&self, job: &Job, scratch: PathBuf) -> Site {
        Site {
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            env: environment(),
            device: self.device,
            cap: self.cap.clone(),
            isolation: isolation(job.isolate),
            share: job.share.iter().map(|p| self.cwd.join(p)).collect(),
            scratch,
            timeout: self.recipe.limits.trial_timeout.map_or(TRIAL_TIMEOUT, Duration::from_secs_f64),
            recipe: self.recipe.clone(),
            machine: self.inspect_facts(),
            gpus: self.gpus.clone(),
            visible: self.visible.clone(),
            seat: self.seat.clone(),
        }
    }

    /// What a search here depends on, with what `history` found out about the script.
    pub fn search_plan(&self, history: &[Observation]) -> SearchPlan {
        let mut plan = SearchPlan::new(self.device, &self.recipe, self.inspect_facts());
        plan.inspection = history.iter().find_map(|o| o.inspection.clone());
        plan.cap = self.cap.clone();
        plan
    }

    /// The machine, as far as it decides what can be turned.
    pub fn inspect_facts(&self) -> inspect::MachineFacts {
        inspect::MachineFacts {
            cores: self.machine.usable_cores(),
            cuda_devices: u32::try_from(self.visible.len()).unwrap_or(u32::MAX),
            shm_bytes: self.machine.shm_bytes,
            ram_bytes: self.machine.usable_ram(),
            cpu_bf16: self.machine.cpu_bf16,
            alloc_conf: alloc_conf(),
            threads_set: std::env::var_os("OMP_NUM_THREADS").is_some(),
        }
    }
}

/// The environment that the script gets; nothing of an outer autofit may leak into it.
fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("AUTOFIT_")).collect()
}

/// The user's own allocator settings, which ours are merged with.
fn alloc_conf() -> Option<String> {
    ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"].iter().find_map(|n| std::env::var(n).ok())
}

/// The recipe of this name, or in this file.
///
/// # Errors
/// There is none, or it is wrong.
pub(super) fn load_recipe(name: Option<&str>) -> anyhow::Result<Option<Recipe>> {
    let Some(name) = name else { return Ok(None) };
    let path = Path::new(name);
    let wrong = |e: recipe::RecipeError| Exit::new(exit::USAGE, e.to_string());
    // A shipped name wins over a directory of that name, a file wins over a shipped name.
    if path.is_file() {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Exit::new(exit::USAGE, format!("{name} cannot be read: {e}")))?;
        return Ok(Some(recipe::load(&text, path).map_err(wrong)?));
    }
    if name.contains('/') && path.is_dir() {
        return Err(Exit::new(exit::USAGE, format!("{name} is a folder; name the recipe file in it")).into());
    }
    if name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml") {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let hint = match recipe::names().contains(&stem) {
            true => format!("; the shipped recipe of that name is used with --recipe {stem}"),
            false => String::new(),
        };
        return Err(Exit::new(exit::USAGE, format!("there is no recipe file {name}{hint}")).into());
    }
    Ok(Some(recipe::shipped(name).map_err(wrong)?))
}

pub(super) fn override_recipe(recipe: &mut Recipe, job: &Job) {
    if let Some(numerics) = job.numerics {
        recipe.policy.numerics = numerics;
    }
    if let Some(batch) = job.batch {
        recipe.policy.batch = batch;
    }
    if job.max_batch.is_some() {
        recipe.policy.max_batch = job.max_batch;
    }
    if recipe.policy.batch != BatchPolicy::Keep {
        // Asking for another batch is asking for its numerics class.
        recipe.policy.numerics = NumericsClass::Dynamics;
    }
    if job.memory_cap.is_some() {
        recipe.memory_cap = job.memory_cap;
    }
    let seconds = |d: Duration| d.as_secs_f64();
    recipe.limits.budget = job.budget.map(seconds).or(recipe.limits.budget);
    recipe.limits.trial_timeout = job.trial_timeout.map(seconds).or(recipe.limits.trial_timeout);
    recipe.limits.max_trials = job.max_trials.or(recipe.limits.max_trials);
    recipe.limits.margin = job.margin.unwrap_or(recipe.limits.margin);
    recipe.limits.prove_peak |= job.prove_peak;
    recipe.executor = job.executor.unwrap_or(recipe.executor);
    recipe.slurm.args.extend(job.slurm.iter().cloned());
    recipe.slurm.jobs = job.jobs.or(recipe.slurm.jobs);
}

pub(super) fn current_dir() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("the current directory cannot be read")
}

/// The command, and where it runs.
///
/// # Errors
/// There is none, or it cannot be written down.
pub(super) fn command(job: &Job, recipe: &Recipe, here: &Path) -> Result<(Vec<String>, PathBuf), Exit> {
    if job.command.is_empty() {
        let Some(command) = recipe.command.clone() else {
            let message = format!(
                "the recipe `{}` carries no command; type one after `--`, for example: autofit --recipe {} -- python train.py",
                recipe.name,
                job.recipe.as_deref().unwrap_or(&recipe.name)
            );
            return Err(Exit::new(exit::USAGE, message));
        };
        // Without the `.` that a recipe in this very folder has for its directory.
        let cwd = here.join(&recipe.directory).components().collect();
        return Ok((command, cwd));
    }
    let words: Result<Vec<String>, _> = job.command.iter().cloned().map(OsString::into_string).collect();
    let words = words.map_err(|w| {
        let message = format!(
            "the word {} of the command is not UTF-8, and a search has to be written down; give the file another name, \
             or a link with one",
            w.display()
        );
        Exit::new(exit::USAGE, message)
    })?;
    Ok((words, here.to_owned()))
}

fn device(
    choice: DeviceChoice,
    recipe: Option<Device>,
    machine: &MachineFacts,
    visible: &[usize],
) -> Result<Device, Exit> {
    let wanted = match choice {
        DeviceChoice::Auto => recipe,
        DeviceChoice::Cuda => Some(Device::Cuda),
        DeviceChoice::Cpu => Some(Device::Cpu),
    };
    match (wanted, visible.is_empty()) {
        (Some(Device::Cpu), _) | (None, true) => Ok(Device::Cpu),
        (Some(Device::Cuda) | None, false) => Ok(Device::Cuda),
        (Some(Device::Cuda), true) => {
            let hidden = || "CUDA_VISIBLE_DEVICES hides all of them".to_owned();
            let why = machine.gpus_absent.clone().unwrap_or_else(hidden);
            Err(Exit::new(
                exit::PLACE,
                format!("there is no GPU to tune for: {why}; --device cpu tunes for the processor"),
            ))
        }
    }
}

fn isolation(choice: IsolationChoice) -> Isolation {
    match choice {
        IsolationChoice::Auto => Isolation::Auto,
        IsolationChoice::Overlay => Isolation::Overlay,
        IsolationChoice::Landlock => Isolation::Landlock,
        IsolationChoice::Copy => Isolation::Copy,
        IsolationChoice::None => Isolation::None,
    }
}
