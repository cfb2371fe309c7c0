//! The winner once more, under its own peak as the limit.

use super::machine::{MIB, Machine, Run};
use super::*;

fn proving(machine: &Machine, change: impl Fn(&mut SearchPlan)) -> Run {
    let mut plan = machine.plan();
    plan.limits.prove_peak = true;
    change(&mut plan);
    machine.search(&plan)
}

fn proofs(run: &Run) -> Vec<&Observation> {
    run.history.iter().filter(|o| o.purpose == Purpose::Prove).collect()
}

#[test]
fn a_winner_is_launched_once_more_under_its_own_peak() {
    for machine in [Machine::cpu(4000), Machine::cuda(80_000)] {
        // Evaluation needs more than training: what the confirm trial has shown counts.
        let machine = machine.law(|_, mut law| {
            law.confirm_more = 200.0;
            law
        });
        let run = proving(&machine, |_| {});
        let winner = run.winner();
        let [proof] = proofs(&run)[..] else { panic!("{run}") };
        assert_eq!((&proof.settings, proof.verdict), (&winner, Verdict::Fit), "{run}");
        let peak = machine.truth(&winner).peak + 200.0;
        let limit = proof.cap.bytes.unwrap() as f64 / MIB as f64;
        // Three per cent, and on the processor what the kernel needs beside.
        assert!(limit >= 1.03 * peak && limit <= 1.03 * peak + 34.0, "{limit} for {peak}{run}");
        assert!(proof.cap.bytes < machine.plan().cap.bytes, "{run}");
        assert!(run.outcome.notes.is_empty(), "{run}");
    }
}

#[test]
fn nothing_is_proved_where_nobody_asks() {
    let machine = Machine::cpu(620);
    assert!(proofs(&machine.search(&machine.plan())).is_empty());
}

#[test]
fn a_winner_that_does_not_hold_under_its_own_peak_stays_the_winner_and_it_is_said() {
    let machine = Machine::cpu(4000).law(|_, mut law| {
        law.proof_more = 200.0;
        law
    });
    let run = proving(&machine, |_| {});
    assert_eq!(run.winner(), machine.search(&machine.plan()).winner(), "{run}");
    assert_eq!(proofs(&run)[0].verdict, Verdict::Oom, "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("did not hold under its own peak")), "{run}");
}

#[test]
fn a_peak_that_comes_to_the_limit_itself_needs_no_launch() {
    let machine = Machine::cpu(860).law(|c, mut law| {
        if !c.is_baseline() {
            law.end = Some(Verdict::Failed);
        }
        law
    });
    let run = proving(&machine, |_| {});
    assert!(run.winner().is_baseline() && proofs(&run).is_empty(), "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("come to the limit itself")), "{run}");
}

#[test]
fn a_limit_on_launches_leaves_one_for_the_proof() {
    for most in 3..=12 {
        let run = proving(&Machine::cpu(620), |plan| plan.limits.max_trials = Some(most));
        assert!(run.history.len() as u32 <= most, "{most}{run}");
        if run.outcome.winner.is_some() {
            assert_eq!(proofs(&run).len(), 1, "{most}{run}");
        }
    }
    // The script as it is, its confirm trial, and nothing left.
    let run = proving(&Machine::cpu(4000), |plan| plan.limits.max_trials = Some(2));
    assert!(run.winner().is_baseline(), "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("left no launch to prove")), "{run}");
}

#[test]
fn the_proof_comes_before_a_better_figure() {
    let machine = Machine::cpu(4000).set(|m| m.disturbed = [2, 3].into());
    let run = proving(&machine, |plan| plan.limits.max_trials = Some(3));
    let purposes: Vec<Purpose> = run.history.iter().map(|o| o.purpose).collect();
    assert_eq!(purposes, [Purpose::Baseline, Purpose::Confirm, Purpose::Prove], "{run}");
    assert!(run.outcome.notes.iter().all(|n| !n.contains("left no launch")), "{run}");
}

#[test]
fn a_finished_search_goes_on_with_the_proof_alone() {
    let machine = Machine::cpu(620);
    let mut plan = machine.plan();
    let finished = machine.search(&plan);
    plan.limits.prove_peak = true;
    let Next::Trial(spec) = next(&plan, &finished.history) else { panic!("{finished}") };
    assert_eq!((spec.purpose, spec.settings), (Purpose::Prove, finished.winner()), "{finished}");
}
