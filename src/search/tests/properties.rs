//! What holds for every search.

use std::collections::BTreeMap;

use super::CPU;
use super::machine::{Machine, Run};
use crate::model::{Configuration, Knob, Observation, Purpose, Verdict};
use crate::search::{Next, SearchPlan, expectations, next};

/// Machines of many kinds, from a number.
fn some_machine(n: u64) -> Machine {
    let pick = |m: u64, k: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (m * 7)) % k;
    let mut machine = if pick(0, 4) == 0 {
        Machine::cuda([40_000, 11_000, 8_000, 6_000, 4_500][pick(1, 5) as usize])
    } else {
        Machine::cpu([4000, 800, 700, 620, 560, 520, 480, 300][pick(1, 8) as usize])
    };
    machine.seed = n;
    machine.noise = [0.01, 0.03, 0.06, 0.12][pick(2, 4) as usize];
    machine.returns_loss = pick(3, 3) > 0;
    machine.blocks = pick(4, 4) > 0;
    machine.batch_norm = pick(5, 5) == 0;
    machine.cores = [1, 2, 16][pick(6, 3) as usize];
    if pick(7, 3) == 0 {
        machine.loader_wait = 0.4;
    }
    if pick(8, 4) == 0 {
        machine.disturbed = vec![2, 5, 6];
    }
    let trouble = pick(3, 6);
    machine.law(move |c, mut law| {
        match trouble {
            0 if c.get(Knob::Malloc).is_some() => law.end = Some(Verdict::Failed),
            1 if c.get(Knob::OmpThreads).is_some() => law.not_applied = Some(Knob::OmpThreads),
            2 => law.confirm_more = 40.0,
            3 if c.get(Knob::Amp).is_some() => law.end = Some(Verdict::Diverged),
            _ => {}
        }
        law
    })
}

#[test]
fn a_resumed_search_takes_the_path_of_an_uninterrupted_one() {
    for n in 1..=24 {
        let machine = some_machine(n);
        let plan = machine.plan();
        let run = machine.search(&plan);
        for length in 0..run.history.len() {
            match next(&plan, &run.history[..length]) {
                Next::Trial(spec) => {
                    let o = &run.history[length];
                    assert_eq!(
                        (&spec.settings, spec.purpose),
                        (&o.settings, o.purpose),
                        "after {length}{run}"
                    );
                }
                Next::Stop(outcome) => panic!("machine {n} stops after {length}: {outcome:?}{run}"),
            }
        }
        assert_eq!(next(&plan, &run.history), Next::Stop(run.outcome.clone()), "the end stays the end");
    }
}

#[test]
fn nothing_is_launched_beyond_its_repeats() {
    for n in 1..=60 {
        let machine = some_machine(n);
        let run = machine.search(&machine.plan());
        let mut counts: BTreeMap<(Configuration, bool), usize> = BTreeMap::new();
        let alone = |o: &&Observation| o.purpose != Purpose::Sweep && o.verdict != Verdict::Disturbed;
        for o in run.history.iter().filter(alone) {
            *counts.entry((o.settings.clone(), o.purpose == Purpose::Confirm)).or_default() += 1;
        }
        for ((settings, confirm), count) in counts {
            let most = if confirm { 1 } else { 3 };
            assert!(count <= most, "{settings} {count} times{run}");
        }
        let bad = |v: Verdict| !matches!(v, Verdict::Fit | Verdict::Disturbed);
        for (i, o) in run.history.iter().enumerate().filter(|(_, o)| bad(o.verdict)) {
            let again = run.history[i + 1..].iter().any(|p| p.settings == o.settings);
            assert!(!again, "{} is launched again after {}{run}", o.settings, o.verdict.name());
        }
        assert!(run.history.len() <= 24, "{} launches{run}", run.history.len());
        if let Some(winner) = run.outcome.winner {
            let o = run.history.iter().find(|o| o.trial == winner).unwrap();
            assert!(matches!(o.verdict, Verdict::Fit | Verdict::Disturbed), "{run}");
        }
    }
}

/// Launches and shortfall against the exact best, over many noisy machines.
#[test]
fn over_many_seeds_the_winner_is_close_to_the_best() {
    for (noise, mean_slack, worst_slack) in [(0.01, 0.012, 0.06), (0.03, 0.02, 0.12), (0.08, 0.07, 0.25)] {
        let (mut lost, mut launches, mut worst) = (Vec::new(), 0, (0.0, String::new()));
        for (i, cap) in [4000, 800, 700, 620, 560, 500].iter().cycle().take(30).enumerate() {
            let machine = Machine::cpu(*cap).set(|m| (m.noise, m.seed) = (noise, 100 + i as u64));
            let run = machine.search(&machine.plan());
            let slack = 1.0 - machine.truth(&run.winner()).rate / machine.best(CPU).1;
            launches += run.history.len();
            if slack > worst.0 {
                worst = (slack, format!("{run}"));
            }
            lost.push(slack);
        }
        let mean = lost.iter().sum::<f64>() / lost.len() as f64;
        let usual = launches as f64 / lost.len() as f64;
        println!(
            "noise {noise}: loses {:.2} % on average, {:.2} % at worst, {usual:.1} launches",
            100.0 * mean,
            100.0 * worst.0
        );
        assert!(mean <= mean_slack, "noise {noise}: {mean}; the worst: {}", worst.1);
        assert!(worst.0 <= worst_slack, "noise {noise}: {}", worst.1);
        assert!(usual <= 11.0, "noise {noise}: {usual} launches");
    }
}

#[test]
fn the_answer_does_not_depend_on_anything_but_plan_and_history() {
    let machine = some_machine(7);
    let plan = machine.plan();
    let Run { history, .. } = machine.search(&plan);
    let again: SearchPlan = plan.clone();
    for length in 0..=history.len() {
        assert_eq!(next(&plan, &history[..length]), next(&again, &history.clone()[..length]));
    }
}

#[test]
fn what_was_expected_depends_on_earlier_launches_only_and_comes_near() {
    let machine = Machine::cpu(700);
    let run = machine.search(&machine.plan());
    let expected = expectations(&machine.plan(), &run.history);
    assert!(!expected.contains_key(&run.history[0].trial), "nothing is known before the first launch");
    for n in 1..=run.history.len() {
        let earlier = expectations(&machine.plan(), &run.history[..n]);
        assert!(earlier.iter().all(|(trial, e)| expected[trial] == *e));
    }
    let told = |o: &&Observation| o.verdict == Verdict::Fit && expected.contains_key(&o.trial);
    let mut fits = run.history.iter().skip(2).filter(told).peekable();
    assert!(fits.peek().is_some());
    for o in fits {
        let (e, rate) = (expected[&o.trial], o.throughput().unwrap());
        let peak = e.peak_bytes.unwrap() as f64 / o.peak().unwrap() as f64;
        assert!((0.7..1.4).contains(&peak), "{}: peak {peak}{run}", o.settings);
        let rate = e.rate.unwrap() / rate;
        assert!((0.5..2.0).contains(&rate), "{}: rate {rate}{run}", o.settings);
    }
}
