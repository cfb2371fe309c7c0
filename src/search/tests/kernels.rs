//! Knobs of the optimizer, the kernels and the compiler in a search: tried once each where they can pay.

use super::finds_the_best;
use super::machine::{Law, Machine, Run, settings};
use crate::model::{Knob, NumericsClass, Verdict};

const CPU: &[(Knob, &[&str])] = &[
    (Knob::Malloc, &["retain", "huge", "pages", "trim"]),
    (Knob::OmpThreads, &["1"]),
    (Knob::Compile, &["default"]),
    (Knob::Optimizer, &["foreach", "fused"]),
];

const CUDA: &[(Knob, &[&str])] = &[
    (Knob::Amp, &["bf16"]),
    (Knob::Compile, &["default", "reduce-overhead"]),
    (Knob::Optimizer, &["loop", "fused"]),
    (Knob::Tf32, &["true"]),
];

fn cpu() -> Machine {
    Machine::cpu(4000)
        .set(|m| m.kernels = true)
        .knob(Knob::Compile, "default", 1.25, 0.95)
        .knob(Knob::Optimizer, "fused", 1.06, 1.0)
        .knob(Knob::Optimizer, "foreach", 0.97, 1.05)
}

fn cuda() -> Machine {
    Machine::cuda(40_000)
        .set(|m| m.kernels = true)
        .knob(Knob::Compile, "default", 1.35, 0.9)
        .knob(Knob::Compile, "reduce-overhead", 1.40, 0.95)
        .knob(Knob::Optimizer, "fused", 1.03, 1.0)
        .knob(Knob::Optimizer, "loop", 0.9, 1.0)
        .knob(Knob::Tf32, "true", 1.02, 1.0)
}

fn tried(run: &Run, knob: Knob) -> usize {
    let with = |o: &&crate::model::Observation| o.settings.get(knob).is_some();
    run.history.iter().filter(with).count()
}

fn why(run: &Run, what: &str) -> String {
    let found = run.outcome.skipped.iter().find(|s| s.what == what);
    found.map(|s| s.why.clone()).unwrap_or_default()
}

#[test]
fn on_the_processor_compiled_code_and_one_kernel_for_the_update_are_found() {
    // Six per cent are at the edge of what three launches can show on this machine.
    let run = finds_the_best(&cpu(), CPU, 0.07, 18);
    assert_eq!(run.winner().text(Knob::Compile), Some("default"), "{run}");
    for gpu_only in ["tf32", "cudnn_benchmark", "empty_cache"] {
        assert_eq!(why(&run, gpu_only), format!("{gpu_only} concerns GPUs only"), "{run}");
    }
    assert!(why(&run, "channels_last").contains("no convolution"), "{run}");
}

#[test]
fn on_a_gpu_the_search_does_not_grow_with_every_knob() {
    let run = finds_the_best(&cuda(), CUDA, 0.05, 20);
    assert!(run.winner().get(Knob::Compile).is_some(), "{run}");
    assert_eq!(tried(&run, Knob::EmptyCache), 0, "{run}");
}

#[test]
fn what_loses_is_tried_and_left() {
    let machine = cpu().knob(Knob::Compile, "default", 0.8, 1.0).knob(Knob::Optimizer, "fused", 0.9, 1.0);
    let run = finds_the_best(&machine, CPU, 0.04, 16);
    assert!(tried(&run, Knob::Compile) >= 1, "{run}");
    assert_eq!((run.winner().get(Knob::Compile), run.winner().get(Knob::Optimizer)), (None, None), "{run}");
}

#[test]
fn a_model_that_cannot_be_compiled_is_tried_once() {
    let machine = cpu().law(|c, mut law| {
        if c.get(Knob::Compile).is_some() {
            law.not_applied = Some(Knob::Compile);
        }
        law
    });
    let without: Vec<_> = CPU.iter().filter(|(knob, _)| *knob != Knob::Compile).copied().collect();
    let run = finds_the_best(&machine, &without, 0.07, 16);
    assert_eq!(tried(&run, Knob::Compile), 1, "{run}");
    assert!(run.history.iter().any(|o| o.verdict == Verdict::NotApplied), "{run}");
}

#[test]
fn an_exact_bound_leaves_other_rounding_out() {
    let machine = cpu();
    let mut plan = machine.plan();
    plan.policy.numerics = NumericsClass::Exact;
    let run = machine.search(&plan);
    assert_eq!(tried(&run, Knob::Compile), 0, "{run}");
    assert_eq!(why(&run, "compile"), "it is of class precision, beyond the bound", "{run}");
    assert!(tried(&run, Knob::Optimizer) >= 1, "{run}");
}

#[test]
fn a_short_update_is_no_reason_for_a_launch() {
    let run = Machine::cpu(4000).search(&Machine::cpu(4000).plan());
    assert_eq!(tried(&run, Knob::Optimizer), 0, "{run}");
    assert_eq!(why(&run, "optimizer"), "updating the parameters takes 1.0 % of a step", "{run}");
    assert_eq!(why(&run, "compile"), "there is no compiler", "{run}");
}

#[test]
fn a_copy_of_the_gradients_is_spared_where_the_script_has_copies_of_its_model() {
    let views = Knob::GradientAsBucketView;
    let search = |copies| {
        let machine =
            cuda().set(|m| (m.copies, m.cap, m.model) = (copies, 11_000 << 20, 1_500)).law(move |c, law| {
                Law { peak: law.peak - if c.get(views).is_some() { 1_500.0 } else { 0.0 }, ..law }
            });
        machine.search(&machine.plan())
    };
    let run = search(true);
    assert!(tried(&run, views) > 0, "{run}");
    // `strategy=ddp` would have buckets too, but nobody asks for it.
    let run = search(false);
    assert_eq!(tried(&run, views), 0, "{run}");
}

/// Only a compiled model with one of the budgets fits: the smaller one, or the larger one.
#[test]
fn budgets_are_rungs_of_a_compiled_model_and_no_order_of_them_is_taken_for_granted() {
    for (half, quarter, fits) in [(0.9, 0.45, "0.25"), (0.45, 0.9, "0.5")] {
        let budget = Knob::ActivationMemoryBudget;
        let mut machine = cuda()
            .knob(budget, "0.5", 0.9, half)
            .knob(budget, "0.25", 0.8, quarter)
            .set(|m| (m.cap, m.batch_norm, m.blocks) = (8_000 << 20, true, false));
        for ((knob, _), memory) in &mut machine.memory {
            *memory = if [budget, Knob::Compile].contains(knob) { *memory } else { 1.0 };
        }
        let run = machine.search(&machine.plan());
        assert_eq!(run.winner().text(budget), Some(fits), "{run}");
        let alone = |o: &&crate::model::Observation| {
            o.settings.get(budget).is_some() && o.settings.get(Knob::Compile).is_none()
        };
        assert_eq!(run.history.iter().filter(alone).count(), 0, "{run}");
    }
}

#[test]
fn memory_that_runs_out_in_evaluation_is_answered_between_the_phases() {
    let machine = cuda().set(|m| m.cap = 9_000 << 20).law(|c, mut law| {
        law.confirm_more = if c.get(Knob::EmptyCache).is_some() { 0.0 } else { 4_000.0 };
        law
    });
    let run = machine.search(&machine.plan());
    assert_eq!(
        run.winner().get(Knob::EmptyCache),
        settings("empty_cache=true").get(Knob::EmptyCache),
        "{run}"
    );
    assert!(run.outcome.notes.iter().any(|n| n.contains("was not confirmed")), "{run}");
}
