//! When a trial has no room left for its own program.  Pure: readings in, judgement out.
//!
//! At its limit a cgroup first loses the pages of files: the code of libtorch, which is some 200 MiB.  The kernel drops
//! pages that are needed a moment later and reads them again, and as long as that succeeds it kills nobody.  Such a
//! trial can stand still for hours at a few MiB below its limit (seen: 25 MiB of file pages left, read again thirty
//! times a second, and no step in two minutes).

use crate::model::event::Record;
use crate::watch::CgroupReading;

/// So long a trial must stand still like this, seconds.
const WINDOW: f64 = 5.0;
/// Share of the limit that is taken by memory which cannot be dropped.
const FULL: f64 = 0.9;
/// How often a second all the file pages that are left are read again.
const TURNOVERS: f64 = 1.0;
/// The least that counts as "all the file pages": bytes.
const FEW: u64 = 8 << 20;
/// Waits for a page of a mapped file, each second: a script that reads a long file twice has none.
const FAULTS: f64 = 20.0;

/// What was read at a window's beginning.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: f64,
    refaulted: u64,
    faults: u64,
}

/// Looks at one trial's cgroup, window after window.
#[derive(Debug, Default)]
pub struct Reclaim {
    mark: Option<Mark>,
    most_cached: u64,
}

impl Reclaim {
    /// A record of the agent; a step shows that the trial goes on, however slowly.
    pub fn hear(&mut self, record: &Record) {
        if matches!(record, Record::Step(_)) {
            self.step();
        }
    }

    fn step(&mut self) {
        self.mark = None;
    }

    /// Whether a trial that is read like this `now` (seconds since its launch) does nothing but read its own files.
    pub fn hopeless(&mut self, reading: &CgroupReading, now: f64) -> bool {
        let (Some(limit), Some(demand), Some(cached), Some(refaulted), Some(faults)) =
            (reading.limit, reading.demand(), reading.cached, reading.refaulted, reading.major_faults)
        else {
            return false;
        };
        if (demand as f64) < FULL * limit as f64 {
            self.mark = None;
            return false;
        }
        let Some(mark) = self.mark else {
            self.mark = Some(Mark { at: now, refaulted, faults });
            self.most_cached = cached;
            return false;
        };
        self.most_cached = self.most_cached.max(cached);
        let seconds = now - mark.at;
        if seconds < WINDOW {
            return false;
        }
        let again = refaulted.saturating_sub(mark.refaulted) as f64;
        let waits = faults.saturating_sub(mark.faults) as f64;
        self.mark = None;
        again >= TURNOVERS * seconds * self.most_cached.max(FEW) as f64 && waits >= FAULTS * seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// At `demand` of 900 MiB, with `cached` MiB of files; each second `again` MiB are read again in `faults` waits.
    fn ends_at(demand: u64, cached: u64, again: u64, faults: u64, steps: &[u64]) -> Option<u64> {
        let mut reclaim = Reclaim::default();
        (0..60).find(|second| {
            if steps.contains(second) {
                reclaim.step();
            }
            let reading = CgroupReading {
                limit: Some(900 * MIB),
                anonymous: Some(demand * MIB),
                cached: Some(cached * MIB),
                refaulted: Some(second * again * MIB),
                major_faults: Some(second * faults),
                ..CgroupReading::default()
            };
            reclaim.hopeless(&reading, *second as f64)
        })
    }

    #[test]
    fn as_it_was_seen() {
        assert_eq!(ends_at(867, 25, 800, 180, &[]), Some(5));
    }

    #[test]
    fn a_step_shows_that_it_goes_on() {
        assert_eq!(ends_at(867, 25, 800, 180, &[3]), Some(8));
        assert_eq!(ends_at(867, 25, 800, 180, &(0..60).step_by(4).collect::<Vec<_>>()), None);
    }

    #[test]
    fn room_for_files_few_reads_or_no_waits_are_no_standstill() {
        assert_eq!(ends_at(700, 200, 800, 180, &[]), None, "the kernel has something to drop");
        assert_eq!(ends_at(867, 25, 20, 180, &[]), None, "most of what is kept is not read again");
        assert_eq!(ends_at(867, 25, 800, 2, &[]), None, "reads a file, and does not wait for its own code");
    }

    #[test]
    fn a_kernel_that_does_not_tell_ends_nothing() {
        let mut reclaim = Reclaim::default();
        assert!((0..60).all(|s| !reclaim.hopeless(&CgroupReading::default(), f64::from(s))));
    }
}
