//! Pulses of the agents -> figures of the training, all ranks together.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::model::event::{AllocatorReading, Phase, Pulse, Record};

/// Rates are of about this many seconds: steadier than a step, and soon true after a change.
const WINDOW: f64 = 10.0;
/// Enough pulses for the window, one a second, with room for a thread that was held up.
const KEPT: usize = 16;

/// Training at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Training {
    /// Processes that train.
    pub ranks: u32,
    /// Train, eval or save, of the first rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Steps finished, of the first rank.
    pub steps: u64,
    /// Steps a second lately, of the slowest rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_second: Option<f64>,
    /// Samples a second lately, of all ranks; absent where samples cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Share of the time lately in which training waited for its loader, of the rank that waited most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader_wait: Option<f64>,
    /// PyTorch's allocator, one entry a rank and device; empty on the processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allocators: Vec<Allocator>,
    /// Memory ran out so often, as the agents saw it, also where the script went on.
    pub ooms: u64,
}

/// The caching allocator of one rank on one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Allocator {
    /// Which rank.
    pub rank: u32,
    /// Its figures.
    #[serde(flatten)]
    pub now: AllocatorReading,
}

impl Allocator {
    /// Share of the reserved memory that no tensor uses.
    pub fn unused(&self) -> Option<f64> {
        let r = self.now;
        (r.reserved > 0).then(|| 1.0 - r.allocated.min(r.reserved) as f64 / r.reserved as f64)
    }
}

/// What the agents have said so far.
#[derive(Debug, Default)]
pub struct Watched {
    ranks: BTreeMap<u32, VecDeque<Pulse>>,
    first: BTreeMap<u32, Pulse>,
    ooms: u64,
    hello: bool,
    faults: Vec<String>,
}

impl Watched {
    /// Takes one record.
    pub fn hear(&mut self, rank: u32, record: &Record) {
        match record {
            Record::Hello(_) => self.hello = true,
            // What ends the script is told twice where a frame of the agent saw it pass, too.
            Record::Oom { fatal, .. } if !fatal || self.ooms == 0 => self.ooms += 1,
            Record::Fault { hook, error } => self.faults.push(format!("{hook}: {error}")),
            Record::Pulse(pulse) => {
                self.first.entry(rank).or_insert_with(|| pulse.clone());
                let pulses = self.ranks.entry(rank).or_default();
                // Pulses in which nothing happened would push the last step out of the window.
                if pulses.len() > 1 && pulses.back().is_some_and(|p| p.steps == pulse.steps) {
                    pulses.pop_back();
                }
                pulses.push_back(pulse.clone());
                while pulses.len() > KEPT {
                    pulses.pop_front();
                }
            }
            _ => {}
        }
    }

    /// Whether the agent has started in any process.
    pub fn heard(&self) -> bool {
        self.hello
    }

    /// Hooks of the agent that failed, in words.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Training now; `None` before any rank trains.
    pub fn now(&self) -> Option<Training> {
        self.figures(|_, pulses| {
            let last = pulses.back()?;
            let from = |p: &&Pulse| moment(last) - moment(p) <= WINDOW || p.steps + 1 >= last.steps;
            Some((pulses.iter().find(from).or(pulses.front())?, last))
        })
    }

    /// Training from its beginning on.
    pub fn overall(&self) -> Option<Training> {
        self.figures(|rank, pulses| Some((self.first.get(&rank)?, pulses.back()?)))
    }

    fn figures<'a>(
        &'a self,
        span: impl Fn(u32, &'a VecDeque<Pulse>) -> Option<(&'a Pulse, &'a Pulse)>,
    ) -> Option<Training> {
        let mut all = Training { ooms: self.ooms, ..Training::default() };
        let mut samples = Vec::new();
        for (rank, pulses) in &self.ranks {
            let Some((from, to)) = span(*rank, pulses) else { continue };
            if all.ranks == 0 {
                (all.phase, all.steps) = (to.phase, to.steps);
            }
            all.ranks += 1;
            all.allocators.extend(to.devices.iter().map(|now| Allocator { rank: *rank, now: *now }));
            let seconds = moment(to) - moment(from);
            if to.steps <= from.steps || seconds <= 0.0 {
                continue;
            }
            let steps = (to.steps - from.steps) as f64 / seconds;
            all.steps_per_second = Some(all.steps_per_second.map_or(steps, |s: f64| s.min(steps)));
            samples.push((to.samples - from.samples) as f64 / seconds);
            let wait = ((to.loader_wait - from.loader_wait) / seconds).clamp(0.0, 1.0);
            all.loader_wait = Some(all.loader_wait.map_or(wait, |w: f64| w.max(wait)));
        }
        let sum: f64 = samples.iter().sum();
        all.samples_per_second = (sum > 0.0).then_some(sum);
        (all.ranks > 0).then_some(all)
    }
}

/// The end of the latest step; before the first one, the beginning.
fn moment(pulse: &Pulse) -> f64 {
    pulse.stepped.or(pulse.begun).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(steps: u64, stepped: f64, samples: u64, loader_wait: f64) -> Record {
        let stepped = (steps > 0).then_some(stepped);
        Record::Pulse(Pulse { steps, begun: Some(1.0), stepped, samples, loader_wait, ..Pulse::default() })
    }

    fn heard(records: &[(u32, Record)]) -> Watched {
        let mut watched = Watched::default();
        records.iter().for_each(|(rank, record)| watched.hear(*rank, record));
        watched
    }

    #[test]
    fn rates_are_between_ends_of_steps() {
        let w =
            heard(&[(0, pulse(0, 0.0, 0, 0.0)), (0, pulse(4, 3.0, 64, 0.5)), (0, pulse(8, 5.0, 128, 1.0))]);
        let now = w.now().unwrap();
        assert_eq!((now.steps, now.steps_per_second, now.samples_per_second), (8, Some(2.0), Some(32.0)));
        assert_eq!(now.loader_wait, Some(0.25));
        assert_eq!(w.overall().unwrap().steps_per_second, Some(2.0));
    }

    #[test]
    fn of_a_long_run_the_latest_seconds_count_and_overall_all_of_them() {
        let mut records = vec![(0, pulse(0, 0.0, 0, 0.0))];
        // One step a second for a minute, then ten a second.
        records.extend((1..=60).map(|s| (0, pulse(s, 1.0 + s as f64, 0, 0.0))));
        records.extend((1..=20).map(|s| (0, pulse(60 + 10 * s, 61.0 + s as f64, 0, 0.0))));
        let w = heard(&records);
        assert_eq!(w.now().unwrap().steps_per_second, Some(10.0));
        assert_eq!(w.overall().unwrap().steps_per_second, Some(260.0 / 80.0));
        assert_eq!(w.now().unwrap().samples_per_second, None, "samples that nobody counted are no rate of 0");
    }

    #[test]
    fn steps_that_take_longer_than_the_window_have_a_rate() {
        let mut records = vec![(0, pulse(0, 0.0, 0, 0.0))];
        for step in 1..=3 {
            records.extend((0..30).map(|_| (0, pulse(step, 1.0 + 30.0 * step as f64, 8 * step, 0.0))));
        }
        assert_eq!(heard(&records).now().unwrap().steps_per_second, Some(1.0 / 30.0));
    }

    #[test]
    fn ranks_are_added_and_the_slowest_counts() {
        let w = heard(&[
            (0, pulse(0, 0.0, 0, 0.0)),
            (1, pulse(0, 0.0, 0, 0.0)),
            (0, pulse(10, 3.0, 100, 0.2)),
            (1, pulse(10, 6.0, 100, 2.5)),
        ]);
        let now = w.now().unwrap();
        assert_eq!((now.ranks, now.steps_per_second, now.samples_per_second), (2, Some(2.0), Some(70.0)));
        assert_eq!(now.loader_wait, Some(0.5));
    }

    #[test]
    fn nothing_is_claimed_before_anybody_trains() {
        assert_eq!(heard(&[]).now(), None);
        let begun = heard(&[(0, pulse(0, 0.0, 0, 0.0))]).now().unwrap();
        assert_eq!((begun.steps, begun.steps_per_second, begun.loader_wait), (0, None, None));
    }
}
