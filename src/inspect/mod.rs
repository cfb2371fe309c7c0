//! What is this script, which knobs can be turned, and how.
//!
//! # Theory of operation
//! The first launch of a search inspects: the agent tells the argument parser's options, the loaders, the root modules
//! and what the script does by itself.  [`build_inspection`] reads those records into an [`Inspection`] with one
//! [`KnobSite`] for each knob: the way in which it is turned, in the order of preference of the design (the recipe's
//! words, the script's own option, a framework's switch, the agent, an environment variable), or the reason why it is not.
//!
//! **Architecture invariant:** this room only reads records.  A launch that died early (out of memory in its first
//! forward pass) leaves fewer of them; what is not known is then not held against a knob, because every launch reads
//! its knobs back and says when one did not take effect.

mod environment;
mod frameworks;
mod kernels;
mod names;
mod options;
mod ranks;
mod sites;

use std::collections::BTreeMap;

use crate::model::event::Record;
use crate::model::inspection::{KnobSite, Launched};
use crate::model::plan::Device;
use crate::model::{Event, Inspection, Knob, VERSION};
use crate::recipe::Recipe;

/// The machine, as far as it decides which knobs can be turned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineFacts {
    /// CPUs that can be kept busy (affinity and quota).
    pub cores: u32,
    /// GPUs that are visible.
    pub cuda_devices: u32,
    /// Size of `/dev/shm`, bytes; 0 without one.
    pub shm_bytes: u64,
    /// Memory of the host that may be used, bytes.
    pub ram_bytes: u64,
    /// The processor multiplies bfloat16 in hardware.
    pub cpu_bf16: bool,
    /// `PYTORCH_CUDA_ALLOC_CONF` of the user's environment.
    pub alloc_conf: Option<String>,
    /// The user's environment says how many threads the processor's kernels take.
    pub threads_set: bool,
}

/// Everything that one launch of `command` found out, with one site for each knob.
pub fn build_inspection(
    events: &[Event],
    command: &[String],
    recipe: &Recipe,
    device: Device,
    machine: &MachineFacts,
) -> Inspection {
    let mut found = Inspection {
        version: VERSION,
        device,
        frameworks: BTreeMap::new(),
        options: None,
        switches: Vec::new(),
        loaders: Vec::new(),
        roots: Vec::new(),
        detected: None,
        launched: Launched { command: command.to_vec(), python: String::new(), world_size: 1 },
        knobs: Vec::new(),
    };
    for event in events {
        match &event.record {
            Record::Framework { name, version, .. } => {
                found.frameworks.insert(name.clone(), version.clone());
            }
            Record::Options(options) => found.options = Some(options.clone()),
            Record::Hello(hello) => {
                found.launched.world_size = found.launched.world_size.max(hello.world_size);
                found.launched.python.clone_from(&hello.executable);
            }
            Record::Switch(switch) => upsert(&mut found.switches, switch.clone(), |s| s.knob),
            // A later record on the same object knows more (whether training drew from it, what the call returned).
            Record::Loader(loader) => upsert(&mut found.loaders, loader.clone(), |l| l.index),
            Record::Root(root) => upsert(&mut found.roots, root.clone(), |r| r.index),
            Record::Detected(detected) => found.detected = Some(detected.clone()),
            _ => {}
        }
    }
    if let Some(options) = &mut found.options {
        (options.command, options.world_size) = (command.to_vec(), found.launched.world_size);
        options::name_abbreviations(options);
    }
    guess_training_loader(&mut found);
    found.knobs = Knob::ALL.iter().map(|knob| site(*knob, &found, recipe, machine)).collect();
    found
}

/// A script that runs out of memory in its first step has not shown which loader feeds training.  One loader alone, or
/// one alone that shuffles, is taken for it.
fn guess_training_loader(found: &mut Inspection) {
    if found.loaders.iter().any(|l| l.training)
        || found.detected.as_ref().is_some_and(|d| d.samples_per_step > 0)
    {
        return;
    }
    let alone = found.loaders.len() == 1;
    let mut likely = found.loaders.iter_mut().filter(|l| alone || l.sampler.contains("Random"));
    if let (Some(one), None) = (likely.next(), likely.next()) {
        one.training = true;
    }
}

fn upsert<T, K: PartialEq>(all: &mut Vec<T>, new: T, key: impl Fn(&T) -> K) {
    match all.iter_mut().find(|old| key(old) == key(&new)) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

/// One knob: off by the recipe, turned by the recipe's words, or as found.
fn site(knob: Knob, found: &Inspection, recipe: &Recipe, machine: &MachineFacts) -> KnobSite {
    if recipe.is_off(knob) {
        return sites::refused(knob, "the recipe switches it off");
    }
    let wanted = recipe.knobs.get(&knob).map_or(&[][..], |r| &r.values);
    let mut site = match recipe.rule(knob) {
        Some(rule) => sites::by_recipe(knob, rule, found),
        None => sites::find(knob, found, machine, wanted),
    };
    if let Some(rule) = recipe.knobs.get(&knob).filter(|r| !r.values.is_empty() && site.way.is_some()) {
        site.values = match site.values.as_slice() {
            [] => rule.values.clone(),
            possible => rule.values.iter().filter(|v| possible.contains(v)).cloned().collect(),
        };
        if site.values.is_empty() {
            return sites::refused(knob, "none of the recipe's values can be set here");
        }
    }
    site
}

#[cfg(test)]
mod tests;
