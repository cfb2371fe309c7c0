//! How others choose, as far as it can be done on a grid: each returns its pick.

use autofit::model::{Configuration, Knob};

use crate::oracle::Oracle;

type Rule = fn(&mut Oracle<'_>) -> Option<Configuration>;

pub const RULES: [(&str, Rule); 6] = [
    ("exhaustive, each once", exhaustive),
    ("random, 10 launches", random),
    ("successive halving", halving),
    ("batch finder: double until it fails", doubling),
    ("batch finder: bisection", bisection),
    ("DeepSpeed fast mode: micro-batches", micro_batches),
];

fn exhaustive(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let all = oracle.all();
    best(all.into_iter().filter_map(|c| Some((oracle.rate(&c)?, c))).collect())
}

fn random(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let mut all = oracle.all();
    let mut seen = Vec::new();
    for _ in 0..10.min(all.len()) {
        let c = all.swap_remove(oracle.pick(all.len()));
        seen.extend(oracle.rate(&c).map(|r| (r, c)));
    }
    best(seen)
}

/// All once, then the better half once more, until one is left; a configuration's rate is the mean of its launches.
fn halving(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let mut alive: Vec<(Vec<f64>, Configuration)> =
        oracle.all().into_iter().map(|c| (Vec::new(), c)).collect();
    while !alive.is_empty() {
        alive.retain_mut(|(rates, c)| oracle.rate(c).map(|r| rates.push(r)).is_some());
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        alive.sort_by(|a, b| mean(&b.0).total_cmp(&mean(&a.0)));
        if alive.len() <= 1 {
            break;
        }
        alive.truncate(alive.len().div_ceil(2));
    }
    alive.into_iter().next().map(|(_, c)| c)
}

/// Sizes of the micro-batch at the same effective batch, from the smallest.
fn sizes(oracle: &Oracle<'_>) -> Vec<Configuration> {
    let only = |c: &Configuration| c.0.keys().all(|k| *k == Knob::Accumulation);
    let mut all: Vec<Configuration> = oracle.all().into_iter().filter(only).collect();
    all.sort_by_key(|c| std::cmp::Reverse(c.int(Knob::Accumulation).unwrap_or(1)));
    all
}

fn doubling(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let mut last = None;
    for c in sizes(oracle) {
        match oracle.rate(&c) {
            Some(_) => last = Some(c),
            None => break,
        }
    }
    last
}

fn bisection(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let all = sizes(oracle);
    let (mut low, mut high) = (0, all.len());
    while low < high {
        let middle = (low + high) / 2;
        if oracle.rate(&all[middle]).is_some() { low = middle + 1 } else { high = middle }
    }
    low.checked_sub(1).map(|i| all[i].clone())
}

/// Every micro-batch that fits, the fastest of them; its other knob, the ZeRO stage, has no place on one device.
fn micro_batches(oracle: &mut Oracle<'_>) -> Option<Configuration> {
    let all = sizes(oracle);
    best(all.into_iter().filter_map(|c| Some((oracle.rate(&c)?, c))).collect())
}

fn best(seen: Vec<(f64, Configuration)>) -> Option<Configuration> {
    seen.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, c)| c)
}
