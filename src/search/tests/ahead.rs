//! Two launches at a time.

use super::machine::{Machine, settings};
use super::*;
use crate::model::{Observation, TrialSpec};

/// Rounds of at most two launches, the one that was asked for and one ahead, until the search has its answer.
struct Rounds {
    history: Vec<Observation>,
    rounds: Vec<Vec<TrialSpec>>,
    outcome: Outcome,
}

fn in_pairs(machine: &Machine) -> Rounds {
    let plan = machine.plan();
    let (mut history, mut rounds) = (Vec::new(), Vec::new());
    loop {
        let spec = match next(&plan, &history) {
            Next::Trial(spec) => spec,
            Next::Stop(outcome) => return Rounds { history, rounds, outcome },
        };
        let mut round = vec![spec];
        round.extend(ahead(&plan, &history, &round));
        // The one that was begun last ends first.
        let mut ended: Vec<Observation> = round.iter().map(|s| machine.launch(s, &history)).collect();
        for (i, o) in ended.iter_mut().rev().enumerate() {
            o.trial = u32::try_from(history.len() + i + 1).unwrap();
        }
        history.extend(ended.into_iter().rev());
        rounds.push(round);
    }
}

#[test]
fn two_at_a_time_find_what_one_at_a_time_finds_and_sooner() {
    let (mut alone, mut in_twos) = (0, 0);
    for (machine, knobs) in [
        (Machine::cpu(4000), CPU),
        (Machine::cpu(620), CPU),
        (Machine::cpu(500), CPU),
        (Machine::cuda(11_000), CUDA),
        (Machine::cuda(5_000), CUDA),
    ] {
        let pairs = in_pairs(&machine);
        let settings = pairs.outcome.settings.clone().unwrap();
        let (_, rate) = machine.best(knobs);
        assert!(machine.truth(&settings).rate >= 0.95 * rate, "{settings}");
        alone += machine.search(&machine.plan()).history.len();
        in_twos += pairs.rounds.len();
        assert!(pairs.history.len() <= 2 * pairs.rounds.len());
    }
    // The script as it is, sweeps, comparisons and confirm trials are waited for: that is half of a short search.
    assert!(in_twos * 10 <= alone * 9, "{in_twos} rounds for {alone} launches");
}

#[test]
fn what_others_are_judged_by_is_waited_for() {
    for round in in_pairs(&Machine::cpu(620)).rounds {
        let alone = |s: &TrialSpec| {
            s.settings.is_baseline() || s.purpose.kind() != crate::model::observation::Kind::Measured
        };
        assert!(round.len() == 1 || !round.iter().any(alone), "{round:?}");
    }
}

#[test]
fn a_guess_that_was_wrong_changes_nothing() {
    let machine = Machine::cpu(620);
    let plan = machine.plan();
    let history = machine.search(&plan).history;
    for cut in 1..history.len() {
        let mut with_more = history[..cut].to_vec();
        let wrong = TrialSpec::new(settings("malloc=trim,accumulation=32"), Purpose::Climb);
        if !history.iter().any(|o| o.settings == wrong.settings) {
            with_more.push(machine.launch(&wrong, &history[..cut]));
        }
        assert_eq!(next(&plan, &with_more), next(&plan, &history[..cut]), "after {cut} launches");
    }
}
