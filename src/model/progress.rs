//! What happens while a search runs: the one enum between running and reporting.

use super::configuration::Configuration;
use super::observation::{Cap, Observation, Purpose};
use super::plan::Device;

/// Something to show.
#[derive(Debug, Clone)]
pub enum Progress {
    /// The search begins, or goes on.
    Started {
        /// The search's id (`.autofit/<id>`).
        id: String,
        /// As typed.
        command: Vec<String>,
        /// Where training happens.
        device: Device,
        /// The limit.
        cap: Cap,
        /// Seconds in all, if bounded.
        budget: Option<f64>,
        /// Trials read back from the journal.
        resumed: u32,
    },
    /// A process is about to be launched.
    TrialStarted {
        /// From 1.
        trial: u32,
        /// At most this many, if bounded.
        of: Option<u32>,
        /// What it tries.
        settings: Configuration,
        /// Why.
        purpose: Purpose,
        /// Seconds of the budget that are left.
        budget_left: Option<f64>,
    },
    /// The trial lives (twice a second).
    Tick {
        /// Which.
        trial: u32,
        /// Seconds since its launch.
        elapsed: f64,
        /// Steps finished; 0 while it sets up.
        steps: u64,
        /// Steps per second of the latest steps.
        steps_per_second: Option<f64>,
        /// Memory now, in the metric of the cap.
        memory: Option<u64>,
        /// What it may use, bytes.
        limit: Option<u64>,
        /// Seconds of the budget that are left.
        budget_left: Option<f64>,
    },
    /// Where the job of a trial stands, told each time that its scheduler was asked.
    Job {
        /// Which trial.
        trial: u32,
        /// Seconds since it was submitted.
        elapsed: f64,
        /// For people.
        text: String,
    },
    /// The trial is over.
    TrialEnded(Box<Observation>),
    /// A sentence that must not be missed (weaker isolation, a disturbed machine, Ctrl-C seen).
    Note(String),
}
