//! The winner -> what production is launched with.
//!
//! * [`config::RunDocument`] is the one value that carries everything (`AUTOFIT_CONFIG`).
//! * [`env`] writes and reads `autofit.env`.
//! * [`run`] turns a document and the command that the user types into arguments and environment, and names what
//!   differs from what was measured.
//! * [`sbatch`] writes a job script for SLURM around it.

pub mod config;
pub mod env;
pub mod fingerprint;
pub mod installed;
pub mod run;
pub mod sbatch;

pub use config::RunDocument;
