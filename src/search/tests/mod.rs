//! The search against simulated machines.

mod machine;

use machine::Machine;

use super::*;

const CPU: &[(Knob, &[&str])] = &[
    (Knob::Accumulation, &["2", "4", "8", "16", "32"]),
    (Knob::Checkpoint, &["alternate", "all"]),
    (Knob::Malloc, &["retain", "huge", "trim"]),
    (Knob::OmpThreads, &["1"]),
    (Knob::Amp, &["bf16"]),
];

#[test]
fn under_every_cap_the_winner_is_the_fastest_that_fits() {
    for cap in [4000, 800, 700, 620, 560, 520, 490, 460] {
        let machine = Machine::cpu(cap);
        let run = machine.search(&machine.plan());
        let (best, rate) = machine.best(CPU);
        let winner = run.winner();
        assert!(machine.truth(&winner).rate >= 0.96 * rate, "cap {cap}: {winner} instead of {best}{run}");
        assert!(run.history.len() <= 16, "cap {cap}{run}");
    }
}
