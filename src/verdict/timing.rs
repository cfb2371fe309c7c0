//! Step samples of a launch to one throughput.
//!
//! # Theory of operation
//! Ranks are put together step by step: a step lasts as long as on its slowest rank, its samples are those of all
//! ranks.  Dropped from the front are the steps that the agent calls warm-up, step 0, and then steps that are still
//! slower than [`SETTLED`] times the median of what follows (at most half of what is left).  Of a script that was over
//! before its warm-up was, the later half of the steps is what there is.
//!
//! The rate is the **median** of the steps' own rates, which a minority of disturbed steps cannot move, with a
//! distribution-free 95 % interval (order statistics, see [`super::stats::median_interval`]).
//!
//! In three cases a median would misstate it.  Waits for a loader come in bursts, one a round of workers: with four
//! workers three fast steps and one slow one, and a median would hide the wait (mean and median of the wait differ by
//! more than [`BURSTY`] of a step).  Samples are counted for some steps only.  Or batches differ in size, as padded texts
//! do (their elements spread by more than [`UNEVEN`]): long ones are few and take most of an epoch.  Then the rate is
//! **samples over seconds** of all steady steps, less those few that were disturbed by something else than their loader
//! and their size; its interval is that of a ratio estimator (Student's t).

use std::collections::BTreeMap;

use crate::model::event::Step;
use crate::model::observation::Timing;

use super::stats::{mean, median, median_interval, spread, t95};

/// A leading step slower than this many medians of the later ones still belongs to the warm-up.
const SETTLED: f64 = 1.5;
/// Difference of mean and median loader wait, in parts of a step, from which the median would misstate the rate.
const BURSTY: f64 = 0.05;
/// Spread of a batch's elements, in parts of their median, from which steps are not alike.
const UNEVEN: f64 = 0.05;
/// A script that ended within its warm-up after this many steps or more is judged by the later half of them.
const SHORTEST: usize = 4;
/// At most this share of steps can be "disturbed"; more of them are the script's own pattern.
const DISTURBED_SHARE: f64 = 0.2;

/// One step of all ranks.
#[derive(Debug, Clone, Copy, Default)]
struct Joint {
    seconds: f64,
    cpu_seconds: f64,
    samples: f64,
    elements: f64,
    wait: f64,
    warmup: bool,
}

/// Throughput of one launch from its ranks' steps; `None` when no steady step was seen.
///
/// `first_step_after` is the time from launch to the end of the first step, in seconds.  Steps that a rank lacks are
/// left out for all ranks.
pub fn measure(ranks: &[&[Step]], first_step_after: f64) -> Option<Timing> {
    let joint = join(ranks);
    let warmup = warmup_length(&joint);
    let steady = &joint[warmup..];
    if steady.is_empty() {
        return None;
    }
    let seconds: Vec<f64> = steady.iter().map(|s| s.seconds).collect();
    let total: f64 = seconds.iter().sum();
    let waits: Vec<f64> = steady.iter().map(|s| s.wait.min(s.seconds)).collect();
    let known = steady.iter().any(|s| s.samples > 0.0);
    let counts: Vec<f64> = steady.iter().map(|s| if known { s.samples } else { 1.0 }).collect();

    let bursty = (mean(&waits)? - median(&waits)?).abs() > BURSTY * median(&seconds)?;
    let patchy = counts.contains(&0.0);
    let uneven = are_uneven(steady);
    let (rate, interval) = match bursty || patchy || uneven {
        true => ratio(steady, &counts, uneven)?,
        false => middle(&seconds, &counts)?,
    };
    let samples_per_step = if !known {
        0.0
    } else if patchy {
        mean(&counts)?
    } else {
        median(&counts)?
    };
    Some(Timing {
        steps: steady.len() as u32,
        warmup_steps: warmup as u32,
        cpu_seconds: steady.iter().map(|s| s.cpu_seconds).collect(),
        samples_per_step,
        samples_per_second: rate,
        interval,
        unit: if known { "samples/s" } else { "steps/s" }.to_owned(),
        loader_wait_share: if total > 0.0 {
            (waits.iter().sum::<f64>() / total).clamp(0.0, 1.0)
        } else {
            0.0
        },
        first_step_after,
        step_seconds: seconds,
    })
}

/// Whether the batch on which memory ran out was lost: the next step consumed more samples than steps usually do
/// (its own batch and the one before it), or there is no next step.  `at` is the number of steps finished before.
/// When samples are unknown a step counts as lost.
pub fn step_lost(steps: &[Step], at: u64) -> bool {
    let others: Vec<f64> = steps.iter().filter(|s| s.index != at).map(|s| s.samples as f64).collect();
    match (steps.iter().find(|s| s.index == at), median(&others)) {
        (Some(next), Some(usual)) if usual > 0.0 => next.samples as f64 > 1.25 * usual,
        _ => true,
    }
}

fn join(ranks: &[&[Step]]) -> Vec<Joint> {
    let mut by_index: BTreeMap<u64, (usize, Joint)> = BTreeMap::new();
    for rank in ranks {
        for step in rank.iter().filter(|s| s.seconds.is_finite() && s.seconds > 0.0) {
            let (seen, joint) = by_index.entry(step.index).or_default();
            *seen += 1;
            joint.seconds = joint.seconds.max(step.seconds);
            joint.cpu_seconds += step.cpu_seconds;
            joint.samples += step.samples as f64;
            joint.elements += step.elements as f64;
            joint.wait = joint.wait.max(step.loader_wait);
            joint.warmup |= step.warmup || step.index == 0;
        }
    }
    by_index.into_values().filter(|(seen, _)| *seen == ranks.len()).map(|(_, j)| j).collect()
}

fn warmup_length(steps: &[Joint]) -> usize {
    let mut n = steps.iter().rposition(|s| s.warmup).map_or(0, |last| last + 1);
    if n == steps.len() && n >= SHORTEST {
        n -= n / 2; // over before its warm-up was
    }
    let most = n + (steps.len() - n) / 2;
    while n < most {
        let later: Vec<f64> = steps[n + 1..].iter().map(|s| s.seconds).collect();
        // A wait for the loader is no sign of a warm-up: it may come back every few steps.
        let busy = steps[n].seconds - steps[n].wait;
        match median(&later) {
            Some(usual) if later.len() >= 3 && busy > SETTLED * usual => n += 1,
            _ => break,
        }
    }
    n
}

/// Median of the steps' rates.
fn middle(seconds: &[f64], counts: &[f64]) -> Option<(f64, (f64, f64))> {
    let rates: Vec<f64> = seconds.iter().zip(counts).map(|(s, c)| c / s).collect();
    Some((median(&rates)?, median_interval(&rates)?))
}

/// Whether batches differ in size by more than chance would.
fn are_uneven(steps: &[Joint]) -> bool {
    let elements: Vec<f64> = steps.iter().map(|s| s.elements).collect();
    median(&elements).zip(spread(&elements)).is_some_and(|(usual, by)| by > UNEVEN * usual)
}

/// Samples over seconds, disturbed steps set aside.
fn ratio(steps: &[Joint], counts: &[f64], uneven: bool) -> Option<(f64, (f64, f64))> {
    let alone: Vec<f64> = steps.iter().map(|s| (s.seconds - s.wait).max(0.0)).collect();
    let usual = median(&alone)?;
    let busy = if uneven { beside_size(steps, &alone) } else { alone };
    let limit = median(&busy)? + (4.0 * spread(&busy)?).max(0.25 * usual);
    let disturbed = busy.iter().filter(|b| **b > limit).count();
    let set_aside = disturbed as f64 <= DISTURBED_SHARE * steps.len() as f64;
    let kept: Vec<(f64, f64)> = steps
        .iter()
        .zip(counts)
        .zip(&busy)
        .filter(|(_, b)| !set_aside || **b <= limit)
        .map(|((s, c), _)| (s.seconds, *c))
        .collect();
    let n = kept.len() as f64;
    let total: f64 = kept.iter().map(|(s, _)| s).sum();
    let rate = kept.iter().map(|(_, c)| c).sum::<f64>() / total;
    if kept.len() < 2 {
        return Some((rate, (rate, rate)));
    }
    let residuals: f64 = kept.iter().map(|(s, c)| (c - rate * s).powi(2)).sum();
    let error = (residuals / (n * (n - 1.0))).sqrt() / (total / n) * t95(n - 1.0);
    Some((rate, ((rate - error).max(0.0), rate + error)))
}

/// What steps took beside what their size explains: the line through the small and the large halves of them.
fn beside_size(steps: &[Joint], seconds: &[f64]) -> Vec<f64> {
    let mut points: Vec<(f64, f64)> =
        steps.iter().zip(seconds).map(|(step, taken)| (step.elements, *taken)).collect();
    let all = points.clone();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (small, large) = points.split_at(points.len() / 2);
    let pairs = small.iter().zip(large).filter(|(a, b)| b.0 > a.0);
    let slope = median(&pairs.map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect::<Vec<_>>()).unwrap_or(0.0);
    all.iter().map(|(elements, taken)| taken - slope * elements).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seconds: &[f64]) -> Vec<Step> {
        let step =
            |(i, s): (usize, &f64)| Step { index: i as u64, seconds: *s, samples: 8, ..Step::default() };
        seconds.iter().enumerate().map(step).collect()
    }

    #[test]
    fn the_first_step_and_slow_leading_steps_are_no_part_of_the_rate() {
        let t = measure(&[&steps(&[9.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])], 12.0).unwrap();
        assert_eq!((t.warmup_steps, t.steps), (2, 5));
        assert_eq!((t.samples_per_second, t.interval), (8.0, (8.0, 8.0)));
        assert_eq!((t.samples_per_step, t.first_step_after, t.unit.as_str()), (8.0, 12.0, "samples/s"));
    }

    #[test]
    fn steps_that_the_agent_calls_warm_up_are_dropped_to_the_last_of_them() {
        let mut s = steps(&[1.0; 8]);
        s[3].warmup = true;
        assert_eq!(measure(&[&s], 0.0).unwrap().steps, 4);
    }

    #[test]
    fn a_script_that_is_over_before_its_warm_up_is_judged_by_its_later_steps() {
        let mut s = steps(&[9.0, 5.0, 1.0, 1.0, 1.0, 1.0]);
        s.iter_mut().for_each(|s| s.warmup = true);
        let t = measure(&[&s], 0.0).unwrap();
        assert_eq!((t.steps, t.samples_per_second), (3, 8.0));
        assert!(measure(&[&s[..3]], 0.0).is_none());
    }

    #[test]
    fn a_few_disturbed_steps_do_not_move_the_rate() {
        let mut seconds = vec![1.0; 20];
        seconds[6] = 7.0;
        seconds[13] = 30.0;
        seconds[14] = 3.0;
        let t = measure(&[&steps(&seconds)], 0.0).unwrap();
        assert_eq!(t.samples_per_second, 8.0);
    }

    #[test]
    fn waits_for_a_loader_that_come_in_bursts_are_not_hidden() {
        // Four workers: three batches are there, for the fourth the loop waits.
        let mut s = steps(&[0.1; 41]);
        for step in s.iter_mut().filter(|s| s.index % 4 == 0) {
            (step.seconds, step.loader_wait) = (0.7, 0.6);
        }
        let t = measure(&[&s], 0.0).unwrap();
        assert!((t.samples_per_second - 8.0 / 0.25).abs() < 0.5, "{}", t.samples_per_second);
        assert!((t.loader_wait_share - 0.6).abs() < 0.01);
        assert!(t.interval.0 < 32.0 && 32.0 < t.interval.1);
        // ... and a disturbance among them is still set aside.
        s[22].seconds = 9.0;
        let disturbed = measure(&[&s], 0.0).unwrap().samples_per_second;
        assert!((disturbed / t.samples_per_second - 1.0).abs() < 0.03, "{disturbed}");
    }

    #[test]
    fn long_batches_that_take_most_of_an_epoch_count_as_much_as_they_take() {
        // Three steps of 0.1 s to one of 0.5 s, which has five times the elements.
        let mut s = steps(&[0.1; 41]);
        for step in &mut s {
            let long = step.index % 4 == 0;
            (step.elements, step.seconds) = if long { (5000, 0.5) } else { (1000, 0.1) };
            // As real ones, no two are alike.
            (step.elements, step.seconds) =
                (step.elements + 10 * step.index, step.seconds + 1e-3 * step.index as f64);
        }
        let even: f64 = s.iter().skip(1).map(|s| s.seconds).sum::<f64>() / 40.0;
        let t = measure(&[&s], 0.0).unwrap();
        assert!((t.samples_per_second * even / 8.0 - 1.0).abs() < 0.01, "{}", t.samples_per_second);
        // A short batch that took as long as a long one was disturbed.
        s[22].seconds = 0.6;
        let disturbed = measure(&[&s], 0.0).unwrap().samples_per_second;
        assert!((disturbed / t.samples_per_second - 1.0).abs() < 0.02, "{disturbed}");
    }

    #[test]
    fn ranks_add_their_samples_and_wait_for_the_slowest() {
        let (fast, slow) = (steps(&[1.0; 6]), steps(&[2.0; 7]));
        let t = measure(&[&fast, &slow], 0.0).unwrap();
        assert_eq!((t.samples_per_second, t.samples_per_step, t.steps), (8.0, 16.0, 5));
    }

    #[test]
    fn without_samples_the_rate_is_in_steps_and_says_so() {
        let mut s = steps(&[0.5; 6]);
        s.iter_mut().for_each(|s| s.samples = 0);
        let t = measure(&[&s], 0.0).unwrap();
        assert_eq!((t.samples_per_second, t.unit.as_str(), t.samples_per_step), (2.0, "steps/s", 0.0));
    }

    #[test]
    fn nothing_steady_is_no_timing() {
        assert!(measure(&[&steps(&[1.0])], 0.0).is_none());
        assert!(measure(&[], 0.0).is_none());
        assert!(measure(&[&steps(&[f64::NAN, 0.0, -1.0])], 0.0).is_none());
    }

    #[test]
    fn a_batch_was_lost_if_the_next_step_ate_two() {
        let mut s = steps(&[1.0; 6]);
        assert!(!step_lost(&s, 3));
        s[3].samples = 16;
        assert!(step_lost(&s, 3));
        assert!(step_lost(&s, 99), "no step came after");
        s.iter_mut().for_each(|s| s.samples = 0);
        assert!(step_lost(&s, 3), "nobody knows");
    }
}
