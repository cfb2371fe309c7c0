//! A second search of the same command knows what the first one has measured.

use super::machine::{MIB, Machine};
use super::*;
use crate::model::Configuration;

/// A search that knows the launches of an earlier one on `then`.
fn knowing(then: &Machine, now: &Machine) -> (machine::Run, machine::Run) {
    let first = then.search(&then.plan());
    let plan = now.plan();
    let earlier = Earlier::of("0123456789abcdef", &first.history, plan.noise).unwrap();
    let second = now.search(&SearchPlan { earlier: vec![earlier], ..plan });
    (first, second)
}

#[test]
fn the_winner_of_then_is_launched_first() {
    let (mut firsts, mut seconds) = (0, 0);
    for cap in [4000, 700, 560] {
        let machine = Machine::cpu(cap);
        let (first, second) = knowing(&machine, &Machine { seed: 2, ..Machine::cpu(cap) });
        assert_eq!(second.history[1].settings, first.winner(), "{second}");
        let rate = |run: &machine::Run| machine.truth(&run.winner()).rate;
        assert!(rate(&second) >= 0.97 * rate(&first), "{first}{second}");
        assert!(second.outcome.notes[0].contains("search 0123456789abcdef of the same command"), "{second}");
        (firsts, seconds) = (firsts + first.history.len(), seconds + second.history.len());
    }
    assert!(seconds < firsts, "{seconds} launches after {firsts}");
}

#[test]
fn under_a_lower_cap_the_best_that_had_room_comes_first() {
    let (first, second) = knowing(&Machine::cpu(700), &Machine::cpu(600));
    let tried = &second.history[1].settings;
    let known = first.history.iter().filter(|o| o.settings == *tried).filter_map(|o| o.peak()).max();
    assert!(known.is_some_and(|peak| peak < 600 * MIB), "{first}{second}");
}

#[test]
fn a_script_that_does_something_else_now_is_searched_anew() {
    let other = || Machine { transient: 1000.0, ..Machine::cpu(4000) };
    let (_, second) = knowing(&Machine::cpu(4000), &other());
    let alone = other().search(&other().plan());
    let launched =
        |run: &machine::Run| run.history.iter().map(|o| o.settings.clone()).collect::<Vec<Configuration>>();
    assert_eq!(launched(&second), launched(&alone));
    assert!(second.outcome.notes[0].contains("is not used: the script as it is took"), "{second}");
}
