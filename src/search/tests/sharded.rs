//! Scripts that start several processes with DistributedDataParallel: sharded where memory asks for it, without a recipe.

use super::machine::{MIB, Machine, Run};
use crate::model::{Configuration, Knob};

/// MiB of a process beside the model, and of the model.
const PROCESS: f64 = 380.0;
const MODEL: f64 = 300.0;

fn sharded(settings: &Configuration) -> bool {
    settings.text(Knob::Strategy) == Some("fsdp")
}

/// Two processes on the processor under a limit of `cap` MiB: copies of a large model, small activations.
fn two(cap: u64) -> Machine {
    Machine::cpu(cap)
        .set(|m| {
            (m.copies, m.processes, m.model, m.returns_loss) = (true, 2, MODEL as u64, false);
            (m.transient, m.sweeps) = (80.0, false);
        })
        .law(|settings, mut law| {
            let views = settings.get(Knob::GradientAsBucketView).is_some();
            let models = if sharded(settings) { 2.5 } else { 5.0 - f64::from(u8::from(views)) };
            // What blocks leave behind, unless it is given back.
            let left = if settings.text(Knob::Malloc) == Some("trim") { 0.0 } else { 200.0 };
            law.peak += 2.0 * (PROCESS + models * MODEL) - 450.0 + if sharded(settings) { left } else { 0.0 };
            law.rate *= if sharded(settings) { 0.5 } else { 1.0 };
            law
        })
}

fn launches_of(run: &Run) -> usize {
    run.history.iter().filter(|o| sharded(&o.settings)).count()
}

#[test]
fn copies_that_fit_stay_copies() {
    let run = two(5000).search(&two(5000).plan());
    assert_eq!(launches_of(&run), 0, "{run}");
    let why = run.outcome.skipped.iter().find(|s| s.what == "strategy").map(|s| s.why.as_str());
    assert_eq!(why, Some("parts of a model cost time; it is tried only where memory needs it"), "{run}");
}

#[test]
fn copies_that_do_not_fit_are_sharded_after_few_launches() {
    // With views they need 3240 MiB; in parts 2540, and 2340 where freed memory is given back.
    for (cap, most) in [(2800, 4), (2450, 6)] {
        let machine = two(cap);
        let run = machine.search(&machine.plan());
        assert!(sharded(&run.winner()), "{run}");
        let first =
            run.history.iter().position(|o| o.peak().is_some_and(|p| p <= cap * MIB) && sharded(&o.settings));
        assert!(first.is_some_and(|n| n <= most), "{cap}: {first:?} {run}");
    }
}

#[test]
fn the_buckets_of_what_is_sharded_are_not_turned() {
    let machine = two(2800);
    let run = machine.search(&machine.plan());
    let both = |s: &Configuration| sharded(s) && s.get(Knob::GradientAsBucketView).is_some();
    assert!(run.history.iter().all(|o| !both(&o.settings)), "{run}");
}

#[test]
fn a_plain_script_is_not_sharded_without_being_asked() {
    let machine = Machine::cpu(480);
    let run = machine.search(&machine.plan());
    assert_eq!(launches_of(&run), 0, "{run}");
}

#[test]
fn groups_are_tried_where_a_recipe_lists_them() {
    let hybrid = |s: &Configuration| s.text(Knob::Strategy) == Some("hybrid");
    let machine = two(2800).set(|m| m.processes = 4);
    let mut plan = machine.plan();
    let run = machine.search(&plan);
    assert!(!run.history.iter().any(|o| hybrid(&o.settings)) && launches_of(&run) > 0, "{run}");
    plan.rules.entry(Knob::Strategy).or_default().values = vec!["hybrid".into()];
    let run = machine.search(&plan);
    assert!(run.history.iter().any(|o| hybrid(&o.settings)) && launches_of(&run) == 0, "{run}");
}
