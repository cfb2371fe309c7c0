//! Trials as jobs of SLURM.
//!
//! # Theory of operation
//! A trial is an [`order::Order`] in a folder that launcher and nodes share ([`folder`]), and a job that runs this same
//! binary with it: outside of an allocation `sbatch`, inside of one `srun` ([`client`]).  The node runs the trial with
//! [`super::local::LocalExecutor`], as it would be run without SLURM, and writes the observation beside the order; where
//! a trial runs on several nodes, each runs its part, and the first one writes ([`super::nodes`]).  The launcher
//! ([`executor`]) asks `squeue` where its jobs stand ([`state`], [`jobs`]), and makes of a job's end and of what its node
//! wrote an observation ([`verdict`]).
//!
//! Jobs of one launcher bear one name.  Whatever ends the launcher, its jobs are ended by that name: by itself, or where
//! it was killed, by the next one that is started in the same place.
//!
//! **Architecture invariant:** what a trial measures is measured on its nodes; the launcher only adds how the job ended.

pub mod client;
mod executor;
pub mod folder;
mod jobs;
pub mod order;
pub mod state;
pub mod verdict;

pub use executor::{Site, SlurmExecutor};
pub use jobs::ask_node;
