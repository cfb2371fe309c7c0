//! How searches end: bounds, budgets, failures, confirm trials that fail.

use super::machine::{MIB, Machine, settings};
use crate::model::{BatchPolicy, FailureKind, Knob, NumericsClass, Purpose, Verdict};
use crate::search::{Next, OutcomeEnd, next};

#[test]
fn where_nothing_fits_it_says_what_fits_one_bound_further() {
    // Nothing but a smaller batch fits.
    let machine = Machine::cpu(475).law(|c, mut law| {
        if c.get(Knob::BatchSize).is_none() {
            law.peak = law.peak.max(600.0);
        }
        law
    });
    let run = machine.search(&machine.plan());
    assert_eq!((run.outcome.end, run.outcome.winner), (OutcomeEnd::NothingFits, None), "{run}");
    let beyond = run.outcome.fits_beyond.clone().unwrap_or_else(|| panic!("{run}"));
    assert_eq!((beyond.class, beyond.option.as_str()), (NumericsClass::Dynamics, "--batch lower"));
    assert!(machine.fits(&beyond.settings), "{run}");
    let fitting = run.history.iter().find(|o| o.settings == beyond.settings).unwrap();
    assert_eq!((fitting.purpose, fitting.trial), (Purpose::Advice, beyond.trial));
    assert!(run.history.iter().all(|o| o.purpose != Purpose::Confirm), "nothing is claimed{run}");

    // Whoever accepts it goes on from there; what was launched is not launched again.
    let mut plan = machine.plan();
    plan.policy.numerics = beyond.class;
    let mut history = run.history;
    let before = history.len();
    while let Next::Trial(spec) = next(&plan, &history) {
        history.push(machine.launch(&spec, &history));
    }
    let Next::Stop(outcome) = next(&plan, &history) else { unreachable!() };
    assert_eq!(outcome.end, OutcomeEnd::Tuned);
    assert!(outcome.settings.as_ref().is_some_and(|s| s.get(Knob::BatchSize).is_some()));
    for o in history.iter().skip(before).filter(|o| matches!(o.purpose, Purpose::Climb | Purpose::Advice)) {
        assert!(!history[..before].iter().any(|b| b.settings == o.settings), "{}", o.settings);
    }
}

#[test]
fn lower_precision_is_beyond_an_exact_bound() {
    let mut plan = Machine::cuda(8_900).plan();
    plan.policy.numerics = NumericsClass::Exact;
    let machine = Machine::cuda(8_900).set(|m| {
        (m.batch_norm, m.blocks) = (true, false);
        m.memory.retain(|(knob, _), _| *knob != Knob::Offload);
    });
    let run = machine.search(&plan);
    let beyond = run.outcome.fits_beyond.clone().unwrap_or_else(|| panic!("{run}"));
    assert_eq!(beyond.settings, settings("amp=bf16"));
    assert_eq!(beyond.option, "--numerics precision");
    assert!(
        run.outcome.skipped.iter().any(|s| s.what == "amp" && s.why.contains("beyond the bound")),
        "{run}"
    );
}

#[test]
fn a_split_of_a_model_with_dropout_is_beyond_an_exact_bound() {
    let machine = Machine::cpu(700).set(|m| (m.dropout, m.blocks) = (true, false));
    let mut plan = machine.plan();
    plan.policy.numerics = NumericsClass::Exact;
    let run = machine.search(&plan);
    assert_eq!(run.outcome.fits_beyond.as_ref().map(|b| b.class), Some(NumericsClass::Distribution), "{run}");
    // Within the default bound it is taken.
    assert_eq!(machine.search(&machine.plan()).winner().int(Knob::Accumulation), Some(2));
}

#[test]
fn where_truly_nothing_fits_it_says_so() {
    let machine = Machine::cpu(100);
    let run = machine.search(&machine.plan());
    assert_eq!((run.outcome.end, run.outcome.winner), (OutcomeEnd::NothingFits, None), "{run}");
    assert_eq!(run.outcome.fits_beyond, None);
    // All that is left is said: more memory, where the limit is the user's own.
    assert!(run.outcome.advice.iter().any(|a| a.text.contains("a higher --memory-cap")), "{run}");
    assert!(run.history.iter().all(|o| o.purpose != Purpose::Confirm), "{run}");
}

#[test]
fn the_batch_changes_only_when_asked_for() {
    let machine = Machine::cpu(4000);
    let keep = machine.search(&machine.plan());
    assert_eq!(keep.winner().get(Knob::BatchSize), None);

    let mut plan = machine.plan();
    plan.policy.batch = BatchPolicy::Max;
    plan.policy.max_batch = Some(100);
    let max = machine.search(&plan);
    assert!(max.winner().int(Knob::BatchSize).is_some_and(|b| b > 32), "{max}");
    assert!(max.history.iter().all(|o| o.settings.int(Knob::BatchSize).is_none_or(|b| b <= 100)), "{max}");

    let tight = Machine::cpu(540).set(|m| (m.batch_norm, m.blocks) = (true, false));
    let mut plan = tight.plan();
    plan.policy.batch = BatchPolicy::Lower;
    let lower = tight.search(&plan);
    assert!(lower.winner().int(Knob::BatchSize).is_some_and(|b| b < 32), "{lower}");
}

#[test]
fn a_larger_batch_is_measured_once_for_advice_where_it_is_cheap() {
    let machine = Machine::cpu(4000).law(|c, mut law| {
        if c.get(Knob::BatchSize).is_some() {
            law.rate *= 1.3;
        }
        law
    });
    let advised = |advice: Option<bool>| {
        let mut plan = machine.plan();
        plan.limits.advice = advice;
        machine.search(&plan)
    };
    let run = advised(None);
    let measured: Vec<_> = run.history.iter().filter(|o| o.purpose == Purpose::Advice).collect();
    assert_eq!(measured.len(), 1, "{run}");
    assert_eq!(run.outcome.advice[0].option.as_deref(), Some("--batch max"), "{run}");
    assert_eq!(run.outcome.advice[0].trial, Some(measured[0].trial));
    assert!(advised(Some(false)).history.iter().all(|o| o.purpose != Purpose::Advice));
}

#[test]
fn a_confirm_trial_that_fails_hands_over_to_the_next_best() {
    // Evaluation needs 130 MiB more than training.
    let machine = Machine::cpu(690).law(|_, mut law| {
        law.confirm_more = 130.0;
        law
    });
    let run = machine.search(&machine.plan());
    let winner = run.winner();
    let peak = machine.truth(&winner).peak + 130.0;
    assert!(peak * MIB as f64 <= machine.cap as f64, "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("was not confirmed")), "{run}");
    assert!(run.history.iter().filter(|o| o.purpose == Purpose::Confirm).count() <= 3, "{run}");
}

/// Texts of which the longest is in one late batch: a step adds three times as much there.
#[test]
fn what_whole_runs_need_beyond_their_first_steps_is_learnt_from_a_confirm_trial() {
    for cap in (500..900).step_by(20) {
        let machine = Machine::cpu(cap).law(|_, mut law| {
            law.confirm_more = 2.0 * (law.peak - 450.0);
            law
        });
        let run = machine.search(&machine.plan());
        let winner = run.winner();
        let law = machine.truth(&winner);
        assert!((law.peak + law.confirm_more) * MIB as f64 <= machine.cap as f64, "{run}");
        let confirms = run.history.iter().filter(|o| o.purpose == Purpose::Confirm).count();
        assert!(confirms <= 4, "{confirms} confirm trials{run}");
    }
}

#[test]
fn a_winner_leaves_as_much_room_as_launches_differ_by() {
    // As it is the script needs 850 of 860 MiB, and nothing is faster.
    let machine =
        Machine::cpu(860).set(|m| m.speed.values_mut().for_each(|factor| *factor = factor.min(0.9)));
    let run = machine.search(&machine.plan());
    assert!(machine.truth(&run.winner()).peak <= 0.97 * 860.0, "{run}");
    assert!(run.history.iter().filter(|o| o.purpose == Purpose::Confirm).count() <= 3, "{run}");
    // What a margin keeps free is room enough.
    let mut plan = machine.plan();
    plan.limits.margin = 0.05;
    assert!(machine.search(&plan).winner().is_baseline());
}

#[test]
fn a_script_of_which_nothing_needs_less_is_confirmed_and_it_is_said() {
    let machine = Machine::cpu(860).law(|c, mut law| {
        if !c.is_baseline() {
            law.end = Some(Verdict::Failed);
        }
        law
    });
    let run = machine.search(&machine.plan());
    assert!(run.winner().is_baseline(), "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("a run may go out of memory")), "{run}");
}

#[test]
fn after_a_confirm_trial_without_memory_something_smaller_is_looked_for() {
    // Nothing is faster than the script as it is, so nothing smaller was launched; its evaluation needs too much.
    let machine = Machine::cpu(900)
        .set(|m| m.speed.values_mut().for_each(|factor| *factor = factor.min(0.9)))
        .law(|c, mut law| {
            law.confirm_more = if c.is_baseline() { 100.0 } else { 0.0 };
            law
        });
    let run = machine.search(&machine.plan());
    assert!(!run.winner().is_baseline() && machine.fits(&run.winner()), "{run}");
}

#[test]
fn when_no_confirm_trial_succeeds_nothing_is_claimed() {
    let machine = Machine::cpu(4000).law(|_, mut law| {
        law.confirm_more = 1e6;
        law
    });
    let run = machine.search(&machine.plan());
    assert_eq!((run.outcome.end, run.outcome.winner), (OutcomeEnd::Unconfirmed, None), "{run}");
}

#[test]
fn a_limit_on_launches_is_kept_and_leaves_one_to_confirm() {
    for most in 1..=12 {
        for cap in [4000, 700, 560] {
            let machine = Machine::cpu(cap);
            let mut plan = machine.plan();
            plan.limits.max_trials = Some(most);
            let run = machine.search(&plan);
            assert!(run.history.len() <= most as usize, "{run}");
            let fits = run.history.iter().any(|o| o.verdict == Verdict::Fit);
            if most >= 2 && fits {
                assert_eq!(run.outcome.end, OutcomeEnd::Tuned, "{run}");
                assert!(machine.fits(&run.winner()), "{run}");
            } else {
                assert_eq!(run.outcome.winner, None, "{run}");
            }
        }
    }
}

#[test]
fn a_budget_is_kept_and_leaves_time_to_confirm() {
    for budget in [5.0, 20.0, 40.0, 60.0, 90.0] {
        let machine = Machine::cpu(700);
        let mut plan = machine.plan();
        plan.limits.budget = Some(budget);
        let run = machine.search(&plan);
        let spent: f64 = run.history.iter().map(|o| o.seconds).sum();
        // Without any launch that fits there is nothing to confirm.
        if run.history.iter().any(|o| o.verdict == Verdict::Fit) {
            assert_eq!(run.outcome.end, OutcomeEnd::Tuned, "budget {budget}{run}");
        }
        assert!(spent <= budget + 10.0, "budget {budget}: {spent}{run}");
    }
}

#[test]
fn time_that_is_not_the_trials_own_counts_too() {
    let machine = Machine::cpu(700);
    let mut plan = machine.plan();
    plan.limits.budget = Some(100.0);
    let quick = machine.search(&plan).history.len();
    // Set-up between trials takes as long as the trials themselves.
    let mut history = Vec::new();
    loop {
        plan.seconds_spent = 2.0 * history.iter().map(|o: &crate::model::Observation| o.seconds).sum::<f64>();
        match next(&plan, &history) {
            Next::Trial(spec) => history.push(machine.launch(&spec, &history)),
            Next::Stop(outcome) => {
                assert_eq!(outcome.end, OutcomeEnd::Tuned);
                break;
            }
        }
    }
    assert!(history.len() < quick, "{} and {quick}", history.len());
}

#[test]
fn a_script_that_fails_by_itself_ends_the_search_at_once() {
    for (verdict, end) in [
        (Verdict::Failed, OutcomeEnd::ScriptFails),
        (Verdict::Timeout, OutcomeEnd::ScriptFails),
        (Verdict::AgentMissing, OutcomeEnd::AgentMissing),
    ] {
        let machine = Machine::cpu(700).law(move |_, mut law| {
            law.end = Some(verdict);
            law
        });
        let run = machine.search(&machine.plan());
        assert_eq!((run.outcome.end, run.history.len()), (end, 1), "{run}");
        assert!(run.outcome.reason.contains(verdict.name()), "{run}");
    }
}

#[test]
fn a_launch_that_takes_too_long_names_the_limit() {
    let machine = Machine::cpu(700).law(|_, mut law| {
        law.end = Some(Verdict::Timeout);
        law
    });
    let mut plan = machine.plan();
    plan.limits.trial_timeout = Some(300.0);
    let reason = machine.search(&plan).outcome.reason;
    assert!(reason.contains("in the 300 s that a launch may take"), "{reason}");
}

#[test]
fn disturbed_launches_are_repeated_and_not_believed() {
    let machine = Machine::cpu(4000).set(|m| m.disturbed = vec![1, 3]);
    let run = machine.search(&machine.plan());
    assert_eq!(run.history[1].settings, run.history[0].settings, "{run}");
    assert_eq!(run.winner().text(Knob::Malloc), Some("huge"), "{run}");
}

#[test]
fn a_repeat_that_cannot_be_paid_for_does_not_lose_what_was_measured() {
    // The smaller machine runs out of memory at first.
    for (cap, least) in [(4000, 2), (700, 4)] {
        for most in least..=12 {
            let machine = Machine::cpu(cap).set(|m| m.disturbed = (1..100).collect());
            let mut plan = machine.plan();
            plan.limits.max_trials = Some(most);
            let run = machine.search(&plan);
            assert!(run.history.len() <= most as usize, "{run}");
            assert_eq!(run.outcome.end, OutcomeEnd::Tuned, "{run}");
            assert!(run.outcome.notes.iter().any(|n| n.contains("its speed is uncertain")), "{run}");
        }
    }
}

#[test]
fn a_machine_that_never_comes_to_rest_still_gets_an_answer() {
    let machine = Machine::cpu(700).set(|m| m.disturbed = (1..100).collect());
    let run = machine.search(&machine.plan());
    assert!(machine.fits(&run.winner()), "{run}");
    assert!(run.history.len() <= 20, "{run}");
    assert!(run.outcome.notes.iter().any(|n| n.contains("uncertain")), "{run}");
}

#[test]
fn shared_memory_that_runs_out_is_not_answered_with_smaller_batches() {
    let machine = Machine::cpu(4000)
        .set(|m| {
            m.failure = Some(FailureKind::ShmOom);
            m.own_workers = 4;
            m.cores = 8;
        })
        .law(|c, mut law| {
            if c.int(Knob::NumWorkers).unwrap_or(4) > 1 {
                law.peak = 1e6;
            }
            law
        });
    let run = machine.search(&machine.plan());
    assert!(run.winner().int(Knob::NumWorkers).is_some_and(|n| n <= 1), "{run}");
    assert!(run.winner().get(Knob::Accumulation).is_none(), "{run}");
}

#[test]
fn what_the_budget_cuts_short_stays_as_it_is_unless_something_was_shown_to_be_faster() {
    // Huge pages are 1 % faster, which nobody can see in a launch; then they are 40 % faster.
    for (factor, taken) in [(1.01, false), (1.4, true)] {
        let machine = Machine::cpu(4000).knob(Knob::Malloc, "huge", factor, 1.0);
        let mut plan = machine.plan();
        plan.limits.max_trials = Some(3);
        let run = machine.search(&plan);
        assert_eq!(run.winner().get(Knob::Malloc).is_some(), taken, "{run}");
    }
}
