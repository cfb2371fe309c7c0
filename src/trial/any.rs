//! Whichever executor was asked for.

use std::path::PathBuf;

use super::local::LocalExecutor;
use super::prepare::Prepared;
use super::slurm::SlurmExecutor;
use super::{Executor, Launches};
use crate::model::{Inspection, Observation, Progress, TrialSpec};

/// Launches trials here or elsewhere.
#[allow(clippy::large_enum_variant, reason = "there is one of these at a time")]
pub enum AnyExecutor<P> {
    /// On this machine, one after the other; with the trial that was started, which runs while it is waited for.
    Local(LocalExecutor<P>, Option<(u32, TrialSpec)>),
    /// As jobs.
    Slurm(SlurmExecutor<P>),
}

impl<P: FnMut(Progress)> AnyExecutor<P> {
    /// On this machine.
    pub fn local(executor: LocalExecutor<P>) -> Self {
        Self::Local(executor, None)
    }

    /// How many trials may run at a time.
    pub fn places(&self) -> usize {
        match self {
            Self::Local(..) => 1,
            Self::Slurm(slurm) => slurm.places(),
        }
    }

    /// Starts one of [`Self::places`] trials.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn start(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<()> {
        match self {
            Self::Local(_, started) => {
                *started = Some((trial, spec.clone()));
                Ok(())
            }
            Self::Slurm(slurm) => slurm.start(trial, spec).await,
        }
    }

    /// Runs this machine's part of a trial that another one judges.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn follow(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<()> {
        match self {
            Self::Local(local, _) => local.follow(trial, spec).await,
            Self::Slurm(_) => anyhow::bail!("a launcher of jobs follows nobody"),
        }
    }

    /// Waits for the one that ends first of those that were started.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn ended(&mut self) -> anyhow::Result<Observation> {
        match self {
            Self::Local(local, started) => {
                let (trial, spec) = started.take().ok_or_else(|| anyhow::anyhow!("no trial was started"))?;
                local.run(trial, &spec).await
            }
            Self::Slurm(slurm) => slurm.ended().await,
        }
    }
}

impl<P> AnyExecutor<P> {
    fn launches(&self) -> &dyn Launches {
        match self {
            Self::Local(local, _) => local,
            Self::Slurm(slurm) => slurm,
        }
    }
}

impl<P> Launches for AnyExecutor<P> {
    fn inspection(&self) -> Option<&Inspection> {
        self.launches().inspection()
    }

    fn profile(&mut self) {
        match self {
            Self::Local(local, _) => local.profile(),
            Self::Slurm(slurm) => slurm.profile(),
        }
    }

    fn trial_dir(&self, number: u32) -> PathBuf {
        self.launches().trial_dir(number)
    }

    fn prepare(&self, spec: &TrialSpec) -> Prepared {
        self.launches().prepare(spec)
    }
}

impl<P: FnMut(Progress)> Executor for AnyExecutor<P> {
    async fn run(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<Observation> {
        self.start(trial, spec).await?;
        self.ended().await
    }
}
