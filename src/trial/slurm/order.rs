//! What a job is told, and what it answers: files in a folder that launcher and node share.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::journal::write_atomic;
use crate::model::observation::Cap;
use crate::model::plan::Device;
use crate::model::{Observation, TrialSpec, VERSION};
use crate::trial::nodes::post;

/// The order's name in its folder.
pub const ORDER: &str = "order.json";
/// The answer's.
const ANSWER: &str = "answer.json";
/// What the job prints, SLURM's daemons included.
pub const OUTPUT: &str = "job.out";
/// Files of the trial that are worth more than their observation.
const FILES: &str = "trial";

/// What a node is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// [`VERSION`].
    pub version: u32,
    /// The launcher's command line, program first: the node reads recipe and command from it as the launcher did.
    pub arguments: Vec<String>,
    /// What for.
    pub task: Task,
}

/// What for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To say what the node is.
    Look,
    /// To run a trial.
    Trial(Box<TrialOrder>),
}

/// One trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialOrder {
    /// Its number.
    pub number: u32,
    /// What is measured.
    pub spec: TrialSpec,
    /// Where training happens: as the first node said, so that all trials are alike.
    pub device: Device,
    /// The same of the limit.
    pub cap: Cap,
    /// A steady step is profiled.
    pub profile: bool,
    /// Nodes that run it together.
    pub nodes: u32,
    /// What was observed before: how each knob is turned, and what training is compared with.
    pub history: Vec<Observation>,
}

impl Order {
    /// An order in this program's words.
    pub fn new(arguments: &[String], task: Task) -> Self {
        Self { version: VERSION, arguments: arguments.to_vec(), task }
    }

    /// Nodes that carry it out together.
    pub fn nodes(&self) -> u32 {
        match &self.task {
            Task::Look => 1,
            Task::Trial(trial) => trial.nodes,
        }
    }

    /// Writes it into a folder that is made for it; what an earlier one left there is removed.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let written = (|| {
            if dir.exists() {
                std::fs::remove_dir_all(dir)?;
            }
            std::fs::create_dir_all(dir)?;
            post::lay_out(dir, self.nodes())?;
            // A command line may hold a secret.
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(ORDER))?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()
        })();
        written.with_context(|| format!("cannot write {}", dir.join(ORDER).display()))
    }

    /// Reads an order.
    ///
    /// # Errors
    /// It is not there, or of another version of autofit.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let order: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no order of this version of autofit", path.display()))?;
        anyhow::ensure!(order.version == VERSION, "{} is of another version of autofit", path.display());
        Ok(order)
    }
}

/// Writes what came of an order: as a whole, or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub fn answer(dir: &Path, answer: &impl Serialize) -> anyhow::Result<()> {
    Ok(write_atomic(&dir.join(ANSWER), &serde_json::to_vec(answer)?)?)
}

/// The answer, once it is there.
pub fn answered<T: DeserializeOwned>(dir: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(dir.join(ANSWER)).ok()?).ok()
}

/// Whether there is one.
pub fn has_answer(dir: &Path) -> bool {
    dir.join(ANSWER).exists()
}

/// Where files of the trial itself go.
pub fn files(dir: &Path) -> PathBuf {
    dir.join(FILES)
}
