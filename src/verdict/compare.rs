//! Which of two configurations is faster, from interleaved launches of both.
//!
//! Two launches of one configuration differ by more than the steps inside a launch do: memory layout, clocks, the
//! state of caches.  So launches are the units: the `i`-th launch of one is paired with the `i`-th of the other (they
//! ran next to each other, slow drift cancels), and the logarithm of each pair's ratio is one value.  Its variance is
//! estimated from the pairs together with what is known before: [`LAUNCH_SPREAD`] for each launch plus the spread
//! inside it, worth [`PRIOR_WEIGHT`] more pairs.  With one pair the interval is that knowledge alone; with many pairs
//! it fades away.  Two pairs by themselves would need Student's 12.7.

use crate::model::observation::Timing;

use super::stats::{mean, t95};

/// Standard deviation of a launch's rate beyond its own interval, relative.  On a machine with other work far larger
/// spreads were seen; repeats show them.
pub const LAUNCH_SPREAD: f64 = 0.03;
/// Pairs that the spread known beforehand is worth.
const PRIOR_WEIGHT: f64 = 4.0;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// `a` is faster than `b`: all of the interval lies above 1.
    Faster,
    /// `a` is slower: all of it lies below 1.
    Slower,
    /// The interval holds 1.
    Tie,
}

/// `a` against `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Rate of `a` over rate of `b` (geometric mean of the pairs).
    pub ratio: f64,
    /// 95 % interval of the ratio.
    pub interval: (f64, f64),
    /// What can be said.
    pub verdict: Speed,
}

/// Compares launches of `a` with launches of `b`, both in the order in which they ran; surplus launches of one side
/// are left out.  `None` when there is no pair, or when the rates have different units.
pub fn compare(a: &[&Timing], b: &[&Timing]) -> Option<Comparison> {
    compare_with(a, b, LAUNCH_SPREAD)
}

/// [`compare`] with another launch-to-launch spread (relative standard deviation).
pub fn compare_with(a: &[&Timing], b: &[&Timing], launch_spread: f64) -> Option<Comparison> {
    let pairs: Vec<(&Timing, &Timing)> = a.iter().copied().zip(b.iter().copied()).collect();
    let usable = |t: &Timing| t.samples_per_second.is_finite() && t.samples_per_second > 0.0;
    if !pairs.iter().all(|(x, y)| x.unit == y.unit && usable(x) && usable(y)) {
        return None;
    }
    let logs: Vec<f64> =
        pairs.iter().map(|(x, y)| (x.samples_per_second / y.samples_per_second).ln()).collect();
    let centre = mean(&logs)?;
    let n = logs.len() as f64;
    let expected: Vec<f64> = pairs.iter().map(|(x, y)| pair_variance(x, y, launch_spread)).collect();
    let seen: f64 = logs.iter().map(|l| (l - centre).powi(2)).sum();
    let degrees = n - 1.0 + PRIOR_WEIGHT;
    let variance = (seen + PRIOR_WEIGHT * mean(&expected)?) / degrees;
    let half = t95(degrees) * (variance / n).sqrt();
    let interval = ((centre - half).exp(), (centre + half).exp());
    let verdict = if interval.0 > 1.0 {
        Speed::Faster
    } else if interval.1 < 1.0 {
        Speed::Slower
    } else {
        Speed::Tie
    };
    Some(Comparison { ratio: centre.exp(), interval, verdict })
}

fn pair_variance(a: &Timing, b: &Timing, launch_spread: f64) -> f64 {
    let within = |t: &Timing| {
        let half = (t.interval.1 - t.interval.0) / 2.0;
        (half / 1.96 / t.samples_per_second).powi(2)
    };
    2.0 * launch_spread.powi(2) + within(a) + within(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(r: f64) -> Timing {
        let unit = "samples/s".to_owned();
        Timing { samples_per_second: r, interval: (r * 0.99, r * 1.01), unit, ..Timing::default() }
    }

    fn rates(values: &[f64]) -> Vec<Timing> {
        values.iter().map(|r| rate(*r)).collect()
    }

    fn verdict(a: &[f64], b: &[f64]) -> Speed {
        let (a, b) = (rates(a), rates(b));
        compare(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>()).unwrap().verdict
    }

    #[test]
    fn one_launch_each_tells_only_large_differences() {
        assert_eq!(verdict(&[100.0], &[104.0]), Speed::Tie);
        assert_eq!(verdict(&[100.0], &[130.0]), Speed::Slower);
        assert_eq!(verdict(&[130.0], &[100.0]), Speed::Faster);
    }

    #[test]
    fn repeats_tell_smaller_ones() {
        assert_eq!(verdict(&[108.0], &[100.0]), Speed::Tie);
        assert_eq!(verdict(&[108.0, 107.0, 108.0, 109.0], &[100.0, 100.0, 101.0, 100.0]), Speed::Faster);
    }

    #[test]
    fn repeats_that_disagree_widen_the_interval() {
        // One configuration, eight fresh processes on a busy machine: medians over 34 % apart.
        assert_eq!(verdict(&[100.0, 134.0, 98.0, 120.0], &[118.0, 99.0, 95.0, 100.0]), Speed::Tie);
    }

    #[test]
    fn drift_that_hits_both_cancels_in_pairs() {
        assert_eq!(verdict(&[100.0, 80.0, 60.0, 50.0], &[88.0, 70.0, 53.0, 44.0]), Speed::Faster);
    }

    #[test]
    fn different_units_and_no_launches_are_not_compared() {
        let (a, mut b) = (rate(1.0), rate(1.0));
        b.unit = "steps/s".to_owned();
        assert!(compare(&[&a], &[&b]).is_none());
        assert!(compare(&[], &[&a]).is_none());
        assert!(compare(&[&a], &[&rate(0.0)]).is_none());
    }
}
