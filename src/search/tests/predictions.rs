//! What is expected of peaks.

use super::machine::{Machine, settings};
use crate::model::{BatchPolicy, NumericsClass, Observation, Purpose, TrialSpec};
use crate::search::{SearchPlan, expectations};

fn any_batch(machine: &Machine) -> SearchPlan {
    let mut plan = machine.plan();
    (plan.policy.batch, plan.policy.numerics) = (BatchPolicy::Max, NumericsClass::Dynamics);
    plan
}

/// Launches of these settings in their order, the script as it is before them.
fn launched(machine: &Machine, all: &[&str]) -> Vec<Observation> {
    let mut history = vec![machine.launch(&TrialSpec::new(settings(""), Purpose::Baseline), &[])];
    for text in all {
        history.push(machine.launch(&TrialSpec::new(settings(text), Purpose::Climb), &history));
    }
    history
}

/// |expected - measured| of the last launch, relative to what was measured.
fn off(machine: &Machine, all: &[&str]) -> f64 {
    let history = launched(machine, all);
    let last = history.last().unwrap();
    let expected = expectations(&any_batch(machine), &history)[&last.trial].peak_bytes.unwrap() as f64;
    let measured = last.peak().unwrap() as f64;
    (expected / measured - 1.0).abs()
}

#[test]
fn a_second_batch_tells_what_a_third_needs() {
    let machine = Machine::cpu(8000);
    assert!(off(&machine, &["batch_size=64", "batch_size=128"]) < 0.02);
    assert!(off(&machine, &["batch_size=16", "batch_size=256"]) < 0.05);
    // From one batch alone nobody knows what is fixed.
    assert!(off(&machine, &["batch_size=128"]) > 0.02);
}

#[test]
fn a_knob_that_was_measured_with_one_batch_is_known_with_another() {
    let machine = Machine::cpu(8000);
    // Every block recomputed is expected to leave 30 % of a step's memory; here it leaves 60 %.
    let machine = machine.knob(crate::model::Knob::Checkpoint, "all", 0.75, 0.6);
    assert!(off(&machine, &["batch_size=64", "checkpoint=all,batch_size=128"]) > 0.2);
    let then = ["batch_size=64", "checkpoint=all", "checkpoint=all,batch_size=128"];
    assert!(off(&machine, &then) < 0.05);
}

#[test]
fn what_was_launched_before_needs_what_it_needed() {
    assert!(
        off(&Machine::cpu(8000), &["malloc=huge,checkpoint=all", "amp=bf16", "malloc=huge,checkpoint=all"])
            < 0.002
    );
}

#[test]
fn nothing_is_expected_of_launches_that_are_not_of_their_settings() {
    let machine = Machine::cpu(4000);
    let mut history = launched(&machine, &["checkpoint=all"]);
    for purpose in [Purpose::Parity, Purpose::Sweep] {
        history.push(machine.launch(&TrialSpec::new(settings("checkpoint=all"), purpose), &history));
    }
    let trials: Vec<u32> = expectations(&machine.plan(), &history).into_keys().collect();
    assert_eq!(trials, [2]);
}
