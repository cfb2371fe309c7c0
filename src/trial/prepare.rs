//! One configuration -> the arguments, the environment and the agent's plan that put it into force.
//!
//! **Architecture invariant (I2):** a trial and production are prepared by the same function; [`Prepared`] of a
//! confirm trial differs from that of `autofit run` only in the agent's mode, schedule, coverage, cap and seed.

use std::collections::BTreeMap;

use super::schedule::{PARITY_STEPS, SEED, coverage, schedule};
use crate::model::plan::{Device, Way};
use crate::model::{AgentMode, AgentPlan, Configuration, Inspection, Knob, Purpose, TrialSpec, VERSION};

/// A command ready to be launched.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The command with the arguments of the configuration.
    pub argv: Vec<String>,
    /// The arguments that were added to the user's command.
    pub added_args: Vec<String>,
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
    cap_bytes: Option<u64>,
    nonce: String,
) -> Prepared {
    let (added_args, env, ways) = apply(&spec.settings, inspection);
    let argv: Vec<String> = command.iter().chain(&added_args).cloned().collect();
    let plan = AgentPlan {
        version: VERSION,
        nonce,
        mode: AgentMode::Trial,
        trial_dir: None,
        argv: argv.clone(),
        device,
        settings: spec.settings.clone(),
        ways,
        schedule: schedule(spec.purpose, device, &spec.settings),
        coverage: coverage(spec.purpose),
        inspect: spec.purpose == Purpose::Baseline,
        cap_bytes,
        parity_steps: PARITY_STEPS,
        quiet: spec.purpose == Purpose::Parity,
        seed: Some(SEED),
        required: required(&spec.settings),
        training_loader: inspection.and_then(Inspection::training_loader).map(|l| l.index),
    };
    Prepared { argv, added_args, env, plan }
}

/// The same for production.
pub fn for_production(prepared: &Prepared) -> AgentPlan {
    AgentPlan {
        mode: AgentMode::Run,
        trial_dir: None,
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
    const MEMORY: [Knob; 5] =
        [Knob::Accumulation, Knob::Checkpoint, Knob::Offload, Knob::Strategy, Knob::Amp];
    settings.0.keys().copied().filter(|k| MEMORY.contains(k)).collect()
}

type Applied = (Vec<String>, BTreeMap<String, String>, BTreeMap<Knob, Way>);

fn apply(settings: &Configuration, inspection: Option<&Inspection>) -> Applied {
    let (mut args, mut env, mut ways) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (knob, value) in &settings.0 {
        let site = inspection.and_then(|i| i.site(*knob));
        ways.insert(*knob, site.and_then(|s| s.way).unwrap_or(Way::Agent));
        let Some(site) = site else { continue };
        args.extend(site.args_for(value));
        env.extend(site.env_for(value));
    }
    (args, env, ways)
}
