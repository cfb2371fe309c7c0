//! Launches that compare how the winner trains.

use super::machine::{Machine, Run};
use crate::model::{Knob, Purpose, Verdict};

fn compared(run: &Run) -> Vec<String> {
    let of = |p| run.history.iter().filter(move |o| o.purpose == p);
    of(Purpose::Parity).map(|o| o.settings.to_string()).collect()
}

#[test]
fn where_the_script_as_it_is_does_not_fit_both_run_with_a_smaller_batch_and_nothing_of_it_is_emitted() {
    let run = Machine::cpu(560).search(&Machine::cpu(560).plan());
    let winner = run.winner();
    let launches = compared(&run);
    // A quarter of the script's own batch.
    let with_batch = winner.with(Knob::BatchSize, 8).to_string();
    assert_eq!(launches, ["batch_size=8".to_owned(), with_batch], "{run}");
    assert!(winner.get(Knob::BatchSize).is_none(), "{run}");
}

#[test]
fn where_it_fits_and_nothing_is_drawn_no_launch_is_spent() {
    let run = Machine::cpu(4000).search(&Machine::cpu(4000).plan());
    assert_eq!(compared(&run), [""; 0], "{run}");
}

#[test]
fn a_winner_that_trains_otherwise_at_the_smaller_batch_hands_over() {
    let machine = Machine::cpu(560).law(|c, mut law| {
        if c.text(Knob::Malloc) == Some("huge") {
            law.losses = law.losses.map(|l| l * 4.0);
        }
        law
    });
    let run = machine.search(&machine.plan());
    assert_ne!(run.winner().text(Knob::Malloc), Some("huge"), "{run}");
    let diverged = run.history.iter().find(|o| o.verdict == Verdict::Diverged);
    assert!(diverged.is_some_and(|o| o.purpose == Purpose::Parity && o.why.contains("at step 0")), "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("trains otherwise")), "{run}");
}

#[test]
fn a_setting_that_diverges_is_struck_out_after_one_look_at_the_baselines_own_spread() {
    let machine = Machine::cpu(4000).law(|c, mut law| {
        if c.text(Knob::Malloc) == Some("huge") {
            law.losses = law.losses.map(|l| l * 1.2);
        }
        law
    });
    let run = machine.search(&machine.plan());
    let at = run.history.iter().position(|o| o.verdict == Verdict::Diverged).unwrap();
    assert!(run.history[at + 1].settings.is_baseline(), "{run}");
    assert!(
        run.outcome.skipped.iter().any(|s| s.what == "malloc=huge" && s.why.contains("diverged")),
        "{run}"
    );
    assert_ne!(run.winner().text(Knob::Malloc), Some("huge"), "{run}");
}

#[test]
fn a_script_that_does_not_repeat_itself_is_tuned_and_that_is_said() {
    let machine = Machine::cpu(4000).law(|_, mut law| {
        law.chance = 0.01;
        law
    });
    let run = machine.search(&machine.plan());
    assert_eq!(run.history.iter().filter(|o| o.verdict == Verdict::Diverged).count(), 1, "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("does not repeat itself")), "{run}");
    assert!(!run.winner().is_baseline(), "{run}");
}

#[test]
fn where_nothing_is_trained_what_is_set_beside_a_larger_batch_is_compared_at_the_scripts_own() {
    let machine = Machine::cpu(4000).set(|m| m.serves = true);
    let mut plan = machine.plan();
    plan.policy = crate::recipe::shipped("inference").unwrap().policy;
    let run = machine.search(&plan);
    let winner = run.winner();
    assert!(winner.int(Knob::BatchSize).is_some_and(|b| b > 32) && winner.0.len() > 1, "{run}");
    let rest = winner.without(Knob::BatchSize).to_string();
    assert_eq!(compared(&run), ["as the script is".to_owned(), rest], "{run}");
    let refused = run.history.iter().filter(|o| o.settings.get(Knob::Accumulation).is_some());
    assert_eq!(refused.count(), 0, "{run}");
}
