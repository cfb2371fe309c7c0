//! An allocator that flushes its cache again and again.
//!
//! When a device allocation fails, PyTorch frees its cached blocks and tries once more (`num_alloc_retries`).  Once or
//! twice while the working set settles this is harmless.  Step after step it means that the run lives at the edge:
//! each flush synchronises the device, and the next longer sequence ends in an out-of-memory error.

use crate::model::event::Step;

use super::stats::median;

/// Retries in this many consecutive steady steps are thrashing.
const CONSECUTIVE: u32 = 3;
/// Fewer of them are too, when the steps that retried took this many times as long as the others.
const SLOWDOWN: f64 = 2.0;

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Thrash {
    /// Steady steps in which the allocator had to retry.
    pub steps: u32,
    /// Of so many.
    pub of: u32,
    /// Retries in them.
    pub retries: u64,
    /// Median time of the steps with retries over that of the others, where there are both.
    pub slowdown: Option<f64>,
}

impl std::fmt::Display for Thrash {
    /// A sentence for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, of, retries, .. } = self;
        write!(f, "the allocator flushed its cache {retries} times in {steps} of {of} steps")?;
        if let Some(x) = self.slowdown {
            write!(f, ", which took {x:.1} times as long as the others")?;
        }
        Ok(())
    }
}

/// Looks through one rank's steps (warm-up is left out).
pub fn thrashing(steps: &[Step]) -> Option<Thrash> {
    let mut sorted: Vec<&Step> = steps.iter().collect();
    sorted.sort_by_key(|s| s.index);
    let (mut run, mut longest, mut retries, mut of) = (0, 0, 0, 0);
    let (mut hit, mut calm) = (Vec::new(), Vec::new());
    for pair in sorted.windows(2).filter(|p| !p[1].warmup) {
        of += 1;
        let grown = pair[1].alloc_retries.saturating_sub(pair[0].alloc_retries);
        if grown > 0 {
            run += 1;
            longest = longest.max(run);
            retries += grown;
            hit.push(pair[1].seconds);
        } else {
            run = 0;
            calm.push(pair[1].seconds);
        }
    }
    let slowdown = match (median(&hit), median(&calm)) {
        (Some(h), Some(c)) if c > 0.0 => Some(h / c),
        _ => None,
    };
    let exploding = hit.len() >= 2 && slowdown.is_some_and(|x| x >= SLOWDOWN);
    (longest >= CONSECUTIVE || exploding).then_some(Thrash { steps: hit.len() as u32, of, retries, slowdown })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(rows: &[(f64, u64)]) -> Vec<Step> {
        let step = |(i, (seconds, alloc_retries)): (usize, &(f64, u64))| Step {
            index: i as u64,
            seconds: *seconds,
            alloc_retries: *alloc_retries,
            ..Step::default()
        };
        rows.iter().enumerate().map(step).collect()
    }

    #[test]
    fn a_retry_while_the_working_set_settles_is_harmless() {
        assert_eq!(thrashing(&steps(&[(1.0, 0), (1.0, 1), (1.0, 1), (1.0, 2), (1.0, 2), (1.0, 2)])), None);
        assert_eq!(thrashing(&[]), None);
    }

    #[test]
    fn retries_step_after_step_are_thrashing() {
        let t = thrashing(&steps(&[(1.0, 0), (1.2, 1), (1.2, 3), (1.2, 4), (1.0, 4)])).unwrap();
        assert_eq!((t.steps, t.of, t.retries), (3, 4, 4));
        assert!(t.to_string().starts_with("the allocator flushed its cache 4 times in 3 of 4 steps"));
    }

    #[test]
    fn fewer_retries_are_too_when_they_make_steps_explode() {
        assert!(thrashing(&steps(&[(1.0, 0), (5.0, 1), (1.0, 1), (6.0, 2), (1.0, 2)])).is_some());
        assert!(thrashing(&steps(&[(1.0, 0), (5.0, 1), (1.0, 1), (1.0, 1)])).is_none(), "once is chance");
    }

    #[test]
    fn warm_up_does_not_count() {
        let mut s = steps(&[(1.0, 0), (1.0, 1), (1.0, 2), (1.0, 3), (1.0, 3)]);
        s[1].warmup = true;
        assert_eq!(thrashing(&s), None);
    }
}
