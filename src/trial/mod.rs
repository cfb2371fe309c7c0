//! One configuration -> one [`Observation`].
//!
//! # Theory of operation
//! [`prepare`] turns a configuration into arguments, environment and the agent's plan.  [`local::LocalExecutor`]
//! writes the plan into a fresh trial directory, launches the command through [`crate::process`], samples memory
//! ([`crate::watch`]) and reads the agent's records while it runs, ends it when it hangs or takes too long, and gives
//! all facts to [`crate::verdict::judge`].  [`collect`] is the pure part: records -> facts -> observation.
//! [`slurm::SlurmExecutor`] submits jobs in which this same binary does just that; [`any`] is whichever was asked for.
//! [`nodes`] runs one trial on several machines; [`part`] is what each of them saw of it.
//! [`windows`] is that of a launch that measures several configurations in turns.
//!
//! **Architecture invariant:** the search never sees a process; it sees [`Executor`], and tests drive it with
//! recorded observations.

pub mod any;
pub mod collect;
pub mod local;
pub mod nodes;
pub mod observe;
pub mod part;
pub mod patience;
pub mod prepare;
mod ranks;
mod reclaim;
pub mod recorded;
pub mod references;
mod rendezvous;
mod room;
pub mod schedule;
pub mod slurm;
mod trace;
pub mod windows;

use std::path::PathBuf;

use crate::model::{Inspection, Observation, TrialSpec};
use prepare::Prepared;

/// Runs trials.
pub trait Executor {
    /// Launches one configuration and measures it; the observation bears the number `trial`.
    ///
    /// # Errors
    /// Only what makes further trials pointless (the trial directory cannot be written, no helper can be started);
    /// a failing script is an observation.
    fn run(&mut self, trial: u32, spec: &TrialSpec) -> impl Future<Output = anyhow::Result<Observation>>;
}

/// What those who launch for real know besides.
pub trait Launches {
    /// What the first launch found out, if it did.
    fn inspection(&self) -> Option<&Inspection>;

    /// From now on a steady step of each trial is profiled.
    fn profile(&mut self);

    /// Where a trial's records are, and what its agent has written beside them.
    fn trial_dir(&self, number: u32) -> PathBuf;

    /// Prepares a trial as it would be launched now.
    fn prepare(&self, spec: &TrialSpec) -> Prepared;
}
