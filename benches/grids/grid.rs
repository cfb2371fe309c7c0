//! What a grid file holds.

use std::collections::BTreeMap;
use std::path::Path;

use autofit::inspect::MachineFacts;
use autofit::model::plan::Device;
use autofit::model::{Configuration, Observation, Purpose};
use autofit::recipe::{self, Recipe};
use autofit::search::SearchPlan;
use serde::{Deserialize, Serialize};

/// Steps of a launch that are kept: enough for a median.
const STEPS: usize = 21;

/// A script, the settings that were combined, and what was measured.
#[derive(Serialize, Deserialize)]
pub struct Grid {
    /// The command.
    pub command: Vec<String>,
    /// Text of the recipe whose `knobs: values` are combined.
    pub recipe: String,
    pub device: Device,
    pub cores: u32,
    pub ram_bytes: u64,
    pub cpu_bf16: bool,
    /// Load average of a minute when recording began and ended.
    pub load: (f64, f64),
    pub versions: BTreeMap<String, String>,
    /// In the order of the launches; the first one inspects.
    pub observations: Vec<Observation>,
}

impl Grid {
    pub fn read(file: &Path) -> Self {
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    pub fn write(&self, file: &Path) {
        // Whose machine it was is nobody's business.
        let home = std::env::var("HOME").unwrap_or_default();
        let text = serde_json::to_string(self).unwrap().replace(&format!("\"{home}/"), "\"~/");
        std::fs::write(file, text + "\n").unwrap();
    }

    pub fn recipe(&self) -> Recipe {
        recipe::load(&self.recipe, Path::new("grid.yaml")).unwrap()
    }

    /// A search over this grid under `cap` bytes.
    pub fn plan(&self, cap: u64) -> SearchPlan {
        let facts = MachineFacts {
            cores: self.cores,
            ram_bytes: self.ram_bytes,
            cpu_bf16: self.cpu_bf16,
            shm_bytes: self.ram_bytes / 2,
            ..MachineFacts::default()
        };
        let mut plan = SearchPlan::new(self.device, &self.recipe(), facts);
        plan.cap.bytes = Some(cap);
        plan.limits.budget = None;
        plan
    }

    /// Launches of each configuration, in order.
    pub fn launches(&self) -> BTreeMap<Configuration, Vec<&Observation>> {
        let mut all: BTreeMap<Configuration, Vec<&Observation>> = BTreeMap::new();
        for o in self.observations.iter().filter(|o| o.purpose != Purpose::Sweep) {
            all.entry(o.settings.clone()).or_default().push(o);
        }
        all
    }
}

/// Every combination of the values that a recipe lists, the script as it is first.
pub fn combinations(recipe: &Recipe) -> Vec<Configuration> {
    let mut all = vec![Configuration::baseline()];
    for (knob, rule) in &recipe.knobs {
        let before = all.clone();
        for value in &rule.values {
            all.extend(before.iter().map(|c| c.clone().with(*knob, value.clone())));
        }
    }
    all
}

/// Without what a replay does not look at.
pub fn slim(mut o: Observation) -> Observation {
    (o.memory, o.tail, o.after) = (None, Vec::new(), None);
    o.why.truncate(200);
    if let Some(t) = &mut o.timing {
        let every = t.step_seconds.len().div_ceil(STEPS).max(1);
        t.step_seconds = t.step_seconds.iter().copied().step_by(every).collect();
        t.cpu_seconds = Vec::new();
    }
    o
}
