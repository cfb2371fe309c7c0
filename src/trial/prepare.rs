//! One configuration -> the arguments, the environment and the agent's plan that put it into force.
//!
//! **Architecture invariant (I2):** a trial and production are prepared by the same function; [`Prepared`] of a
//! confirm trial differs from that of `autofit run` only in the agent's mode, schedule, coverage, cap and seed.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::schedule::{PARITY_STEPS, SEED, coverage, schedule};
use crate::model::arguments::{Edit, apply};
use crate::model::inspection::OptionTurn;
use crate::model::observation::Cap;
use crate::model::plan::{Device, OptionAsked, Way};
use crate::model::{AgentMode, AgentPlan, Configuration, Inspection, Knob, Purpose, TrialSpec, VERSION};

/// A command ready to be launched.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The command with the arguments of the configuration.
    pub argv: Vec<String>,
    /// What was changed in the user's command.
    pub edits: Vec<Edit>,
    /// Environment variables that the configuration sets.
    pub env: BTreeMap<String, String>,
    /// For the agent.
    pub plan: AgentPlan,
}

/// Prepares a trial.  Without an inspection (the first launch) nothing but the agent is added.
pub fn prepare(
    spec: &TrialSpec,
    command: &[String],
    inspection: Option<&Inspection>,
    device: Device,
    cap: &Cap,
    nonce: String,
) -> Prepared {
    let Applied { edits, env, mut ways, options } = set(&spec.settings, inspection);
    for knob in spec.windows.iter().flat_map(|settings| settings.0.keys()) {
        ways.entry(*knob).or_insert_with(|| way(*knob, inspection));
    }
    let typed: Vec<OsString> = command.iter().map(OsString::from).collect();
    // Words of a configuration are text, and so is the command: nothing is lost.
    let argv: Vec<String> =
        apply(&typed, &edits).iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let plan = AgentPlan {
        version: VERSION,
        nonce,
        mode: AgentMode::Trial,
        trial_dir: None,
        argv: argv.clone(),
        device,
        settings: spec.settings.clone(),
        ways,
        options,
        script_accumulation: inspection.map_or(1, Inspection::script_accumulation),
        script_ranks: inspection.map_or(1, |i| i.launched.world_size.max(1)),
        windows: spec.windows.clone(),
        schedule: schedule(spec.purpose, device, &spec.settings),
        coverage: coverage(spec.purpose),
        inspect: spec.purpose == Purpose::Baseline,
        cap_bytes: cap.lowered(spec.limit).bytes,
        parity_steps: PARITY_STEPS,
        serves: inspection.is_some_and(Inspection::serves),
        quiet: spec.purpose == Purpose::Parity,
        profile: false,
        several_machines: false,
        seed: Some(SEED),
        required: required(&spec.settings),
        training_loader: inspection.and_then(Inspection::training_loader).map(|l| l.index),
    };
    Prepared { argv, edits, env, plan }
}

/// The same for production.
pub fn for_production(prepared: &Prepared) -> AgentPlan {
    AgentPlan {
        mode: AgentMode::Run,
        trial_dir: None,
        windows: Vec::new(),
        coverage: None,
        inspect: false,
        cap_bytes: None,
        parity_steps: 0,
        seed: None,
        ..prepared.plan.clone()
    }
}

/// Knobs that the fit depends on: without them a run would go out of memory later.
fn required(settings: &Configuration) -> Vec<Knob> {
    const MEMORY: [Knob; 8] = [
        Knob::Accumulation,
        Knob::Checkpoint,
        Knob::Offload,
        Knob::Strategy,
        Knob::Amp,
        Knob::ActivationMemoryBudget,
        Knob::IdleModels,
        Knob::GradientAsBucketView,
    ];
    settings.0.keys().copied().filter(|k| MEMORY.contains(k)).collect()
}

fn way(knob: Knob, inspection: Option<&Inspection>) -> Way {
    inspection.and_then(|i| i.site(knob)).and_then(|s| s.way).unwrap_or(Way::Agent)
}

/// What puts a configuration into force, besides the agent.
struct Applied {
    edits: Vec<Edit>,
    env: BTreeMap<String, String>,
    ways: BTreeMap<Knob, Way>,
    options: BTreeMap<Knob, Vec<OptionAsked>>,
}

fn set(settings: &Configuration, inspection: Option<&Inspection>) -> Applied {
    let mut done =
        Applied { edits: vec![], env: BTreeMap::new(), ways: BTreeMap::new(), options: BTreeMap::new() };
    // An option may be set for two knobs (the batch size, and the accumulation that makes it smaller): the later one
    // knows of the earlier.
    let mut wanted: BTreeMap<&str, (&OptionTurn, String)> = BTreeMap::new();
    let mut asked: Vec<(Knob, &str)> = Vec::new();
    for (knob, value) in &settings.0 {
        let site = inspection.and_then(|i| i.site(*knob));
        done.ways.insert(*knob, way(*knob, inspection));
        let (Some(site), Some(inspection)) = (site, inspection) else { continue };
        done.edits.extend(Edit::of_words(&site.args_for(value), &inspection.script_words()));
        done.env.extend(site.env_for(value));
        if site.turns.iter().any(|turn| turn.uneven(value, settings)) {
            continue; // Nothing is set, and the agent reads back that the knob is not in force.
        }
        for turn in &site.turns {
            let Some(text) = turn.text(value, settings) else { continue };
            wanted.insert(&turn.option.dest, (turn, text));
            asked.push((*knob, &turn.option.dest));
        }
    }
    done.edits.extend(wanted.values().map(|(turn, text)| turn.edit(text)));
    // Last, so that the words of the command are where they were seen.
    launch_several(&mut done, settings, inspection);
    for (knob, dest) in asked {
        let value = wanted[dest].1.clone();
        done.options.entry(knob).or_default().push(OptionAsked { dest: dest.to_owned(), value });
    }
    done
}

/// Several processes: the program that starts them, and what they have in common.
fn launch_several(done: &mut Applied, settings: &Configuration, inspection: Option<&Inspection>) {
    let strategy = settings.text(Knob::Strategy).filter(|word| *word != "single");
    let site = strategy.and_then(|_| inspection?.site(Knob::Strategy));
    let Some(launcher) = site.and_then(|s| s.launcher.as_ref()) else { return };
    let asked = settings.int(Knob::Processes).and_then(|n| u32::try_from(n).ok());
    let processes = asked.unwrap_or(launcher.processes).max(1);
    let words = launcher.words.iter().map(|w| w.replace("{processes}", &processes.to_string()));
    done.edits.push(Edit::before(words.collect()));
    // The order of a set of words is the same in all of them, and in a trial the baseline's.
    done.env.insert("PYTHONHASHSEED".to_owned(), SEED.to_string());
    if launcher.threads > 0 && settings.get(Knob::OmpThreads).is_none() {
        // torchrun gives each one thread where nobody says otherwise.
        done.env.insert("OMP_NUM_THREADS".to_owned(), (launcher.threads / processes).max(1).to_string());
    }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
