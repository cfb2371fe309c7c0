//! `autofit plan -- COMMAND`: what would be launched, and launch nothing.

use super::workplace::Workplace;
use super::{Job, finish, terminal};
use crate::exit;
use crate::model::plan::Device;
use crate::model::{Configuration, Knob, Purpose, TrialSpec, Value};
use crate::recipe::{Executor, Rung};
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
    let place = here(job)?;
    let (ladder, skipped) = ladder(&place);
    let baseline = Configuration::baseline();
    let text = PlanText {
        command: place.command.clone(),
        invocation: job.invocation.iter().filter(|a| *a != "plan").cloned().collect(),
        cap: place.cap.clone(),
        numerics: place.recipe.policy.numerics,
        ladder,
        skipped,
        launches: place.recipe.limits.max_trials,
        trial_seconds: schedule(Purpose::Climb, place.device, &baseline).max_seconds,
        budget: place.recipe.limits.budget,
        trial_timeout: place.recipe.limits.trial_timeout,
        isolation: finish::isolation(&Workplace::sandbox(job)?),
        disk: disk(),
        writes: ["autofit.env", ".autofit/"].map(|n| finish::shown(&place.out.join(n), &place)).to_vec(),
    };
    terminal::print(&render(&text, Style::of(Stream::Stdout)));
    Ok(exit::TUNED)
}

/// Nothing may be launched, so only this machine can be looked at.
fn here(job: &Job) -> anyhow::Result<Workplace> {
    let place = Workplace::here(job)?;
    if place.recipe.executor == Executor::Slurm {
        let words = [vec!["srun".to_owned()], place.recipe.slurm.words()].concat();
        let message = format!(
            "what would be launched depends on the node; ask there: {} autofit plan --executor local ...",
            shell_words::join(words)
        );
        return Err(exit::Exit::new(exit::USAGE, message).into());
    }
    Ok(place)
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
