//! `autofit plan -- COMMAND`: what would be launched, and launch nothing.

use super::cluster::Cluster;
use super::workplace::{Workplace, load_recipe};
use super::{Job, finish, terminal};
use crate::exit;
use crate::model::plan::Device;
use crate::model::{Configuration, Knob, Purpose, TrialSpec, Value};
use crate::recipe::Rung;
use crate::report::plan::{Disk, PlanText, render};
use crate::report::result::Skipped;
use crate::report::style::{Stream, Style};
use crate::sandbox::scratch;
use crate::trial::schedule::schedule;

/// Prints; the program's exit status.
///
/// # Errors
/// [`exit::Exit`] for what the user can mend.
pub fn run(job: &Job) -> anyhow::Result<i32> {
    // Nothing may be launched: of nodes only is known what is asked for.
    let wanted = Cluster::wanted(job, load_recipe(job.recipe.as_deref())?)?;
    let place = match &wanted {
        None => Workplace::here(job)?,
        Some(wanted) => Workplace::unseen(job, wanted.gpus())?,
    };
    let local = wanted.is_none();
    let isolation = if local { Some(finish::isolation(&Workplace::sandbox(job)?)) } else { None };
    let (ladder, skipped) = ladder(&place);
    let baseline = Configuration::baseline();
    let text = PlanText {
        command: place.command.clone(),
        invocation: job.invocation.iter().filter(|a| *a != "plan").cloned().collect(),
        cap: Some(place.cap.clone()).filter(|_| local || place.recipe.memory_cap.is_some()),
        numerics: place.recipe.policy.numerics,
        ladder,
        skipped,
        launches: place.recipe.limits.max_trials,
        trial_seconds: schedule(Purpose::Climb, place.device, &baseline).max_seconds,
        budget: place.recipe.limits.budget,
        trial_timeout: place.recipe.limits.trial_timeout,
        isolation,
        disk: disk().filter(|_| local),
        jobs: wanted.map(|wanted| wanted.plan()).transpose()?,
        writes: ["autofit.env", ".autofit/"].map(|n| finish::shown(&place.out.join(n), &place)).to_vec(),
    };
    terminal::print(&render(&text, Style::of(Stream::Stdout)));
    Ok(exit::TUNED)
}

/// The baseline and the recipe's rungs, as far as they are known before the first launch.
fn ladder(place: &Workplace) -> (Vec<TrialSpec>, Vec<Skipped>) {
    let mut specs = vec![TrialSpec::new(Configuration::baseline(), Purpose::Baseline)];
    let mut skipped = Vec::new();
    let bound = place.recipe.policy.numerics;
    for rung in &place.recipe.ladder {
        for settings in configurations(rung) {
            let what = settings.to_string();
            if settings.class() > bound {
                let why = format!("class {}, the bound is {bound}", settings.class());
                skipped.push(Skipped { what, why });
            } else if settings.get(Knob::Allocator).is_some() && place.device == Device::Cpu {
                let why = "the caching allocator is only used on a GPU".to_owned();
                skipped.push(Skipped { what, why });
            } else if settings.get(Knob::IdleModels).is_some() && place.device == Device::Cpu {
                let why = "the models are in host memory already".to_owned();
                skipped.push(Skipped { what, why });
            } else if settings.get(Knob::Offload).is_some() && place.device == Device::Cpu {
                let why = "activations and optimizer state are in host memory already".to_owned();
                skipped.push(Skipped { what, why });
            } else {
                specs.push(TrialSpec::new(settings, Purpose::Climb));
            }
        }
    }
    specs.push(TrialSpec::new(Configuration::baseline(), Purpose::Confirm));
    if place.recipe.limits.prove_peak {
        specs.push(TrialSpec::new(Configuration::baseline(), Purpose::Prove));
    }
    (specs, skipped)
}

/// A rung's configurations; where the recipe leaves the values to autofit, the first that it tries.
fn configurations(rung: &Rung) -> Vec<Configuration> {
    let one = |knob: Knob, value: Value| Configuration::baseline().with(knob, value);
    match rung {
        Rung::Together(settings) => vec![settings.clone()],
        Rung::Knob { knob, values } if !values.is_empty() => {
            values.iter().map(|v| one(*knob, v.clone())).collect()
        }
        Rung::Knob { knob, .. } => {
            let values: Vec<Value> = match knob {
                Knob::Accumulation => vec![2.into(), 4.into(), 8.into()],
                Knob::Checkpoint => vec!["selective".into(), "alternate".into(), "all".into()],
                Knob::Amp => vec!["bf16".into()],
                Knob::Offload => vec!["optimizer".into(), "activations".into()],
                Knob::IdleModels => vec!["host".into()],
                Knob::GradientAsBucketView => vec![true.into()],
                // It brings the compiler along.
                Knob::ActivationMemoryBudget => {
                    return ["0.5", "0.25"]
                        .map(|v| one(*knob, v.into()).with(Knob::Compile, "default"))
                        .into();
                }
                Knob::Allocator => vec!["expandable_segments:True".into()],
                _ => Vec::new(),
            };
            values.into_iter().map(|v| one(*knob, v)).collect()
        }
    }
}

fn disk() -> Option<Disk> {
    let base = scratch::base().ok()?;
    Some(Disk { place: base.display().to_string(), free: scratch::free(&base)?, needed: None })
}
