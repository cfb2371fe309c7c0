//! Whichever executor was asked for.

use std::path::PathBuf;

use super::Executor;
use super::local::LocalExecutor;
use super::prepare::Prepared;
use super::slurm::SlurmExecutor;
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

    /// What the first launch found out, if it did.
    pub fn inspection(&self) -> Option<&Inspection> {
        match self {
            Self::Local(local, _) => local.inspection(),
            Self::Slurm(slurm) => slurm.inspection(),
        }
    }

    /// From now on a steady step of each trial is profiled.
    pub fn profile(&mut self) {
        match self {
            Self::Local(local, _) => local.profile(),
            Self::Slurm(slurm) => slurm.profile(),
        }
    }

    /// Where a trial's records are, and what its agent has written beside them.
    pub fn trial_dir(&self, number: u32) -> PathBuf {
        match self {
            Self::Local(local, _) => local.trial_dir(number),
            Self::Slurm(slurm) => slurm.trial_dir(number),
        }
    }

    /// Prepares a trial as it would be launched now.
    pub fn prepare(&self, spec: &TrialSpec) -> Prepared {
        match self {
            Self::Local(local, _) => local.prepare(spec),
            Self::Slurm(slurm) => slurm.prepare(spec),
        }
    }
}

impl<P: FnMut(Progress)> Executor for AnyExecutor<P> {
    async fn run(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<Observation> {
        self.start(trial, spec).await?;
        self.ended().await
    }
}
