//! Launches that were made before, read back from a grid.
//!
//! A grid is a JSON list of observations in which every configuration was measured, several times each.  With it a
//! search is run, and its cost and its shortfall are counted, without a script, a process or a GPU.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::Executor;
use crate::model::observation::Kind;
use crate::model::{Configuration, Observation, TrialSpec};

/// Answers with recorded launches, each configuration's in the order in which they were recorded.
#[derive(Debug, Clone)]
pub struct RecordedExecutor {
    /// By configuration, and apart for each kind of launch.
    grid: BTreeMap<(Configuration, Kind), Vec<Observation>>,
    /// How many of each were handed out.
    used: BTreeMap<(Configuration, Kind), usize>,
}

impl RecordedExecutor {
    /// Reads a grid.
    ///
    /// # Errors
    /// The text is no list of observations.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let all: Vec<Observation> = serde_json::from_str(text).context("this is no recorded grid")?;
        let mut grid: BTreeMap<_, Vec<Observation>> = BTreeMap::new();
        for o in all {
            grid.entry((o.settings.clone(), o.purpose.kind())).or_default().push(o);
        }
        Ok(Self { grid, used: BTreeMap::new() })
    }
}

impl Executor for RecordedExecutor {
    /// # Errors
    /// The grid has no (further) launch of this configuration: an answer that was not measured is not made up.
    async fn run(&mut self, trial: u32, spec: &TrialSpec) -> anyhow::Result<Observation> {
        let key = (spec.settings.clone(), spec.purpose.kind());
        let used = self.used.entry(key.clone()).or_default();
        let recorded = self.grid.get(&key).and_then(|all| all.get(*used));
        let mut o = recorded
            .with_context(|| format!("the grid has no launch {} of {}", *used + 1, spec.settings))?
            .clone();
        *used += 1;
        (o.trial, o.purpose) = (trial, spec.purpose);
        Ok(o)
    }
}
