//! The Python side, embedded: unpacked into a private folder, put first on `PYTHONPATH`, read through its records.
//!
//! The agent itself is in `python/`; its contract is [`crate::model::plan`] (in) and [`crate::model::event`] (out).
//!
//! **Architecture invariant:** the agent uses nothing but Python's standard library and what the script itself
//! imported; without `AUTOFIT_MODE` in the environment it does nothing at all.

mod files;
mod persistent;
mod reader;

pub use files::{AgentFiles, decode_config, encode_config};
pub use persistent::NoPlace;
pub use reader::{EventReader, Tail};

/// `trial`, `run` or `watch`; without it the agent is inert.
pub const MODE_VARIABLE: &str = "AUTOFIT_MODE";

/// Path of `plan.json`, in a trial and while watching.
pub const PLAN_VARIABLE: &str = "AUTOFIT_PLAN";

/// The plan itself, in production.
pub const CONFIG_VARIABLE: &str = "AUTOFIT_CONFIG";
