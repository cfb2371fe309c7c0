//! The search against simulated machines: each test is a machine and what must come of it.

mod ahead;
mod earlier;
mod ends;
mod kernels;
mod machine;
mod predictions;
mod proof;
mod properties;
mod recorded;
mod same_training;
mod sharded;

use machine::{Machine, Run, settings};

use super::*;
use crate::model::{Configuration, Purpose, Verdict};

pub(super) const CPU: &[(Knob, &[&str])] = &[
    (Knob::Accumulation, &["2", "4", "8", "16", "32"]),
    (Knob::Checkpoint, &["selective", "alternate", "all"]),
    (Knob::Malloc, &["retain", "huge", "pages", "trim"]),
    (Knob::OmpThreads, &["1"]),
    (Knob::Amp, &["bf16"]),
];

const CUDA: &[(Knob, &[&str])] = &[
    (Knob::Accumulation, &["2", "4", "8", "16", "32"]),
    (Knob::Checkpoint, &["selective", "alternate", "all"]),
    (Knob::Amp, &["bf16"]),
    (
        Knob::Allocator,
        &["expandable_segments:True", "garbage_collection_threshold:0.8", "max_split_size_mb:256"],
    ),
];

/// Searches; the winner must come within `slack` of the fastest that fits, in at most `launches`.
fn finds_the_best(machine: &Machine, knobs: &[(Knob, &[&str])], slack: f64, launches: usize) -> Run {
    let run = machine.search(&machine.plan());
    let (best, rate) = machine.best(knobs);
    let winner = run.winner();
    assert!(machine.truth(&winner).rate >= (1.0 - slack) * rate, "{winner} instead of {best}{run}");
    // Those that compare how the winner trains are short and make no choice.
    let measured = run.history.iter().filter(|o| o.purpose != Purpose::Parity).count();
    assert!(measured <= launches, "{measured} launches{run}");
    let compared = run.history.len() - measured;
    assert!(compared <= 3, "{compared} launches to compare losses{run}");
    run
}

fn without_accumulation(m: &mut Machine) {
    m.batch_norm = true;
}

#[test]
fn under_every_cap_the_winner_is_the_fastest_that_fits() {
    for cap in [4000, 800, 700, 620, 560, 540, 500] {
        finds_the_best(&Machine::cpu(cap), CPU, 0.04, 15);
    }
    // Far above its cap: most launches are short ones that run out of memory.
    finds_the_best(&Machine::cpu(480), CPU, 0.08, 20);
}

#[test]
fn on_a_gpu_too() {
    for cap in [40_000, 11_000, 8_000, 6_000, 5_000, 4_000] {
        finds_the_best(&Machine::cuda(cap), CUDA, 0.03, 15);
    }
}

#[test]
fn where_nothing_helps_the_script_stays_as_it_is() {
    let mut machine = Machine::cpu(4000);
    for speed in machine.speed.values_mut() {
        *speed = speed.min(1.0);
    }
    let run = finds_the_best(&machine, CPU, 0.0, 13);
    assert!(run.winner().is_baseline(), "{run}");
    assert!(run.outcome.reason.contains("was not beaten"), "{run}");
}

#[test]
fn ties_inside_the_noise_go_to_the_simpler_configuration() {
    for seed in 1..=8 {
        let mut machine = Machine::cpu(4000).set(|m| (m.noise, m.seed) = (0.04, seed));
        for ((knob, _), speed) in &mut machine.speed {
            *speed = if *knob == Knob::Malloc { 1.002 } else { speed.min(0.99) };
        }
        let run = machine.search(&machine.plan());
        assert!(run.winner().0.len() <= 1, "{run}");
        assert!(machine.truth(&run.winner()).rate > 96.0, "{run}");
    }
}

#[test]
fn only_checkpointing_every_block_fits() {
    let machine = Machine::cpu(580).set(without_accumulation);
    let run = finds_the_best(&machine, &CPU[1..], 0.04, 13);
    assert_eq!(run.winner().text(Knob::Checkpoint), Some("all"), "{run}");
}

#[test]
fn every_second_block_is_found_where_it_is_cheaper_and_fits() {
    let machine = Machine::cpu(720).set(without_accumulation);
    let run = finds_the_best(&machine, &CPU[1..], 0.06, 13);
    assert_eq!(run.winner().text(Knob::Checkpoint), Some("alternate"), "{run}");
}

#[test]
fn accumulation_wins_where_it_is_cheaper_than_checkpointing() {
    let run = finds_the_best(&Machine::cpu(700), CPU, 0.04, 14);
    assert_eq!(run.winner().int(Knob::Accumulation), Some(2), "{run}");
}

#[test]
fn checkpointing_wins_where_a_split_costs_a_forward_pass() {
    let mut machine = Machine::cpu(730).set(|m| m.returns_loss = false);
    for ((knob, _), speed) in &mut machine.speed {
        if *knob == Knob::Accumulation {
            *speed *= 0.74;
        }
    }
    let run = finds_the_best(&machine, CPU, 0.04, 14);
    assert_eq!(run.winner().text(Knob::Checkpoint), Some("alternate"), "{run}");
}

#[test]
fn memory_need_not_be_monotone() {
    // More parts need more memory here, and every block more than every second.
    let machine = Machine::cpu(720).law(|c, mut law| {
        if c.int(Knob::Accumulation).is_some_and(|k| k > 2) || c.text(Knob::Checkpoint) == Some("all") {
            law.peak += 400.0;
        }
        law
    });
    finds_the_best(&machine, CPU, 0.04, 14);
    // The first rung asks for more than the script as it is.
    let machine = Machine::cpu(700).law(|c, mut law| {
        if c.int(Knob::Accumulation) == Some(2) {
            law.peak += 500.0;
        }
        law
    });
    finds_the_best(&machine, CPU, 0.04, 14);
}

#[test]
fn a_rung_that_thrashes_is_not_a_fit() {
    let machine = Machine::cuda(8_000).law(|c, mut law| {
        if c.int(Knob::Accumulation) == Some(2) && c.0.len() == 1 {
            law.end = Some(Verdict::Thrash);
        }
        law
    });
    let run = finds_the_best(&machine, CUDA, 0.03, 15);
    assert_ne!(run.winner(), settings("accumulation=2"));
}

#[test]
fn a_candidate_that_fails_is_struck_out_and_named() {
    let machine = Machine::cpu(700).law(|c, mut law| {
        if c.text(Knob::Malloc) == Some("huge") {
            law.end = Some(Verdict::Failed);
        }
        law
    });
    let run = finds_the_best(&machine, CPU, 0.05, 14);
    let failures = run.history.iter().filter(|o| o.verdict == Verdict::Failed).count();
    assert_eq!(failures, 1, "it is tried once{run}");
    let named = run.outcome.skipped.iter().find(|s| s.what == "malloc=huge");
    assert!(named.is_some_and(|s| s.why.contains("failed: ")), "{run}");
}

#[test]
fn lower_precision_that_diverges_is_struck_out_and_the_climb_goes_on() {
    let machine = Machine::cuda(6_000).set(without_accumulation).law(|c, mut law| {
        if c.get(Knob::Amp).is_some() {
            law.end = Some(Verdict::Diverged);
        }
        law
    });
    let run = finds_the_best(&machine, &CUDA[1..], 0.03, 14);
    assert_eq!(run.winner().text(Knob::Checkpoint), Some("all"), "{run}");
    assert_eq!(run.history.iter().filter(|o| o.verdict == Verdict::Diverged).count(), 1, "{run}");
}

#[test]
fn what_is_not_in_force_strikes_out_larger_counts_too() {
    let machine = Machine::cpu(700).law(|c, mut law| {
        if c.get(Knob::Accumulation).is_some() {
            law.not_applied = Some(Knob::Accumulation);
        }
        law
    });
    // Five per cent are at the edge of what three launches can show on this machine.
    let run = finds_the_best(&machine, CPU, 0.06, 14);
    assert_eq!(run.history.iter().filter(|o| o.verdict == Verdict::NotApplied).count(), 1, "{run}");
    let named = run.outcome.skipped.iter().find(|s| s.what == "accumulation=2 and more");
    assert!(named.is_some_and(|s| s.why.contains("not applied")), "{run}");
}

#[test]
fn a_setting_that_changes_the_effective_batch_is_struck_out() {
    let machine = Machine::cpu(4000).law(|c, mut law| {
        if c.text(Knob::Malloc) == Some("huge") {
            (law.samples, law.rate) = (128.0, 500.0);
        }
        law
    });
    let run = machine.search(&machine.plan());
    assert_eq!(run.winner().text(Knob::Malloc), Some("retain"), "{run}");
    let named = run.outcome.skipped.iter().find(|s| s.what == "malloc=huge");
    assert!(named.is_some_and(|s| s.why.contains("effective batch")), "{run}");
}

#[test]
fn workers_are_tried_where_the_loop_waits_and_only_there() {
    let waiting = Machine::cpu(4000).set(|m| (m.cores, m.loader_wait) = (8, 0.6)).law(|c, mut law| {
        let workers = c.int(Knob::NumWorkers).unwrap_or(0);
        law.rate *= [1.0, 1.5, 2.2, 2.4, 2.4][(64 - (workers as u64).leading_zeros() as usize).min(4)];
        law
    });
    let run = waiting.search(&waiting.plan());
    assert!(run.winner().int(Knob::NumWorkers).is_some_and(|n| n >= 2), "{run}");
    assert!(waiting.truth(&run.winner()).rate > 0.9 * 118.0 * 2.4, "{run}");
    assert!(run.history.len() <= 16, "{run}");

    let busy = Machine::cpu(4000).set(|m| m.cores = 8);
    let run = busy.search(&busy.plan());
    assert!(!run.history.iter().any(|o| o.settings.get(Knob::NumWorkers).is_some()), "{run}");
    let named = run.outcome.skipped.iter().find(|s| s.what == "num_workers");
    assert_eq!(named.map(|s| s.why.as_str()), Some("the loop waits for its loader in 0 % of a step"));
}

#[test]
fn a_rung_is_taken_off_again_when_something_faster_makes_it_needless() {
    // Under this cap lower precision alone fits, and it is the fastest; the ladder starts with other rungs.
    let machine = Machine::cuda(9_500);
    let run = finds_the_best(&machine, CUDA, 0.03, 14);
    assert!(run.winner().get(Knob::Checkpoint).is_none(), "{run}");
    assert!(run.winner().get(Knob::Accumulation).is_none(), "{run}");
}

#[test]
fn fragmentation_tries_the_allocator_first() {
    let machine = Machine::cuda(11_300).set(|m| m.fragmentation = Some(true));
    let run = machine.search(&machine.plan());
    assert_eq!(run.history[1].settings, settings("allocator=expandable_segments:True"), "{run}");
    let whole = Machine::cuda(8_000).set(|m| m.fragmentation = Some(false));
    let run = whole.search(&whole.plan());
    assert!(run.history.iter().take(4).all(|o| o.settings.get(Knob::Allocator).is_none()), "{run}");
}

#[test]
fn on_one_core_threads_are_not_tried() {
    let machine = Machine::cpu(4000).set(|m| m.cores = 1);
    let run = machine.search(&machine.plan());
    assert!(!run.history.iter().any(|o| o.settings.get(Knob::OmpThreads).is_some()), "{run}");
    assert!(
        run.outcome.skipped.iter().any(|s| s.what == "omp_threads" && s.why == "there is one core"),
        "{run}"
    );
}

#[test]
fn knobs_that_are_off_or_limited_by_the_recipe_stay_so() {
    let machine = Machine::cpu(700);
    let text = "knobs: {malloc: {off: true}, omp_threads: {off: true}, accumulation: {values: [4]}}";
    let recipe = crate::recipe::load(text, std::path::Path::new("r.yaml")).unwrap();
    let mut plan = SearchPlan::new(machine.device, &recipe, machine.facts());
    plan.cap = machine.plan().cap;
    plan.inspection = Some(crate::inspect::build_inspection(
        &machine.events(),
        &machine::command(),
        &recipe,
        machine.device,
        &machine.facts(),
    ));
    let run = machine.search(&plan);
    assert_eq!(run.winner(), settings("accumulation=4"), "{run}");
    for o in &run.history {
        assert!(o.settings.int(Knob::Accumulation).is_none_or(|k| k == 4), "{run}");
        assert!(
            o.settings.get(Knob::Malloc).is_none() && o.settings.get(Knob::OmpThreads).is_none(),
            "{run}"
        );
    }
}

#[test]
fn without_an_inspection_the_script_as_it_is_is_confirmed() {
    let machine = Machine::cpu(4000);
    let plan = machine.plan();
    let mut history = Vec::new();
    while let Next::Trial(spec) = next(&plan, &history) {
        let mut o = machine.launch(&spec, &history);
        o.inspection = None;
        history.push(o);
    }
    let Next::Stop(outcome) = next(&plan, &history) else { unreachable!() };
    assert_eq!((outcome.end, outcome.winner, history.len()), (OutcomeEnd::Tuned, Some(2), 2));
    assert_eq!(outcome.settings, Some(Configuration::baseline()));
}

#[test]
fn what_a_sweep_shows_not_to_be_in_force_is_not_launched() {
    let machine = Machine::cpu(4000).law(|c, mut law| {
        if c.get(Knob::OmpThreads).is_some() {
            law.not_applied = Some(Knob::OmpThreads);
        }
        law
    });
    let run = machine.search(&machine.plan());
    let swept =
        run.history.iter().flat_map(|o| &o.windows).any(|w| w.settings.get(Knob::OmpThreads).is_some());
    assert!(swept, "{run}");
    assert!(run.history.iter().all(|o| o.settings.get(Knob::OmpThreads).is_none()), "{run}");
    let named = run.outcome.skipped.iter().find(|s| s.what == "omp_threads");
    assert!(named.is_some_and(|s| s.why.starts_with("not applied: ")), "{run}");
}
