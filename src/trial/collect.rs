//! Records of the agent -> what is known about a trial.  Pure.

use std::collections::BTreeMap;

use crate::model::blocks::Filled;
use crate::model::event::{EndReason, Event, KnobReport, Phase, Record, Step};
use crate::model::observation::{Coverage, Peaks};
use crate::model::parity::AfterSteps;
use crate::model::{Inspection, Knob};
use crate::verdict::OomFact;
use crate::verdict::timing::step_lost;

/// Everything that one rank's agent wrote.
#[derive(Debug, Clone, Default)]
pub struct RankRecords {
    /// In the order in which they were written.
    pub events: Vec<Event>,
}

/// Records of all ranks.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By rank.
    pub ranks: BTreeMap<u32, RankRecords>,
    /// Lines that could not be read.
    pub broken_lines: u64,
}

impl Records {
    /// Adds records of one rank.
    pub fn extend(&mut self, rank: u32, events: impl IntoIterator<Item = Event>) {
        self.ranks.entry(rank).or_default().events.extend(events);
    }

    fn all(&self) -> impl Iterator<Item = &Record> {
        self.ranks.values().flat_map(|r| &r.events).map(|e| &e.record)
    }

    /// Whether an agent of this trial (by nonce) reported.
    pub fn hello(&self, nonce: &str) -> bool {
        self.all().any(|r| matches!(r, Record::Hello(h) if h.nonce == nonce))
    }

    /// Whether torch was imported where the agent was.
    pub fn torch(&self) -> bool {
        self.all().any(|r| matches!(r, Record::Framework { name, .. } if name == "torch"))
    }

    /// Steps of each rank.
    pub fn steps(&self) -> BTreeMap<u32, Vec<Step>> {
        let of = |r: &RankRecords| {
            r.events
                .iter()
                .filter_map(|e| match &e.record {
                    Record::Step(s) => Some(s.clone()),
                    _ => None,
                })
                .collect()
        };
        self.ranks.iter().map(|(rank, r)| (*rank, of(r))).collect()
    }

    /// Steps that the slowest rank finished.
    pub fn step_count(&self) -> u64 {
        self.steps()
            .values()
            .filter(|s| !s.is_empty() || self.ranks.len() == 1)
            .map(|s| s.last().map_or(0, |s| s.index + 1))
            .min()
            .unwrap_or(0)
    }

    /// When the first step ended, seconds after the agent started.
    pub fn first_step_at(&self) -> Option<f64> {
        self.ranks
            .values()
            .flat_map(|r| &r.events)
            .filter(|e| matches!(e.record, Record::Step(_)))
            .map(|e| e.at)
            .reduce(f64::min)
    }

    /// Every read-back, in the order in which it was written.
    pub fn all_knobs(&self) -> Vec<KnobReport> {
        self.all()
            .filter_map(|r| match r {
                Record::Knob(report) => Some(report.clone()),
                _ => None,
            })
            .collect()
    }

    /// The last word on each knob, worst rank: a knob that is out of force in one rank is out of force.
    pub fn knobs(&self) -> Vec<KnobReport> {
        let mut by_knob: BTreeMap<Knob, KnobReport> = BTreeMap::new();
        for rank in self.ranks.values() {
            let mut last: BTreeMap<Knob, &KnobReport> = BTreeMap::new();
            for event in &rank.events {
                if let Record::Knob(report) = &event.record {
                    last.insert(report.knob, report);
                }
            }
            for (knob, report) in last {
                match by_knob.get(&knob) {
                    Some(seen) if seen.effective.is_none() => {}
                    Some(_) if report.effective.is_some() => {}
                    _ => {
                        by_knob.insert(knob, report.clone());
                    }
                }
            }
        }
        by_knob.into_values().collect()
    }

    /// Every time memory ran out, as far as the agent saw it.
    pub fn ooms(&self) -> Vec<OomFact> {
        let mut facts = Vec::new();
        for (rank, steps) in self.steps() {
            for event in &self.ranks[&rank].events {
                if let Record::Oom { device, phase, message, step, fatal } = &event.record {
                    facts.push(OomFact {
                        device: device.clone(),
                        phase: *phase,
                        message: message.clone(),
                        fatal: *fatal,
                        step_lost: step_lost(&steps, *step),
                    });
                }
            }
        }
        facts
    }

    /// What was alive when memory ran out for the first time.
    pub fn filled(&self) -> Option<Filled> {
        self.all().find_map(|r| match r {
            Record::Filled(filled) if filled.bytes > 0 => Some((**filled).clone()),
            _ => None,
        })
    }

    /// Where each of several ranks was when it was last heard: `(rank, "train.py:41")`.
    pub fn places(&self) -> Vec<(u32, String)> {
        let last = |r: &RankRecords| {
            r.events.iter().rev().find_map(|e| match &e.record {
                Record::Heartbeat { place, .. } => Some(place.clone()),
                _ => None,
            })
        };
        self.ranks.iter().filter_map(|(rank, r)| Some((*rank, last(r)??))).collect()
    }

    /// Faults of the agent itself.
    pub fn faults(&self) -> Vec<String> {
        self.all()
            .filter_map(|r| match r {
                Record::Fault { hook, error } => Some(format!("{hook}: {error}")),
                _ => None,
            })
            .collect()
    }

    /// Why the agent ended, worst rank first: an exception outweighs a good end.
    pub fn end_reason(&self) -> Option<EndReason> {
        let ends = || {
            self.all().filter_map(|r| match r {
                Record::End { reason, .. } => Some(*reason),
                _ => None,
            })
        };
        ends().find(|r| matches!(r, EndReason::Exception | EndReason::Refused)).or_else(|| ends().last())
    }

    /// Loss of the first steps, mean over ranks.
    pub fn losses(&self, steps: usize) -> Vec<f64> {
        self.first(steps, |s| s.loss)
    }

    /// Pre-clip gradient norm of the first steps.
    pub fn grad_norms(&self, steps: usize) -> Vec<f64> {
        self.first(steps, |s| s.grad_norm)
    }

    /// Norm of what the optimizer takes, of the first steps.
    pub fn taken_norms(&self, steps: usize) -> Vec<f64> {
        self.first(steps, |s| s.taken_norm)
    }

    /// What the first steps have made of the model, as the first rank tells.
    pub fn after_steps(&self) -> Option<AfterSteps> {
        self.all().find_map(|r| match r {
            Record::Parity(after) => Some(after.clone()),
            _ => None,
        })
    }

    fn first(&self, count: usize, value: impl Fn(&Step) -> Option<f64>) -> Vec<f64> {
        let ranks = self.steps();
        (0..count)
            .map_while(|i| {
                let values: Vec<f64> = ranks.values().filter_map(|s| s.get(i)).filter_map(&value).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            })
            .collect()
    }

    /// Allocator peaks and host peaks as the agents read them, worst rank.
    pub fn peaks(&self) -> Peaks {
        let mut peaks = Peaks::default();
        let most = |old: Option<u64>, new: u64| if new == 0 { old } else { Some(old.unwrap_or(0).max(new)) };
        let mut context = 0;
        for record in self.all() {
            match record {
                Record::Step(s) => {
                    peaks.allocated = most(peaks.allocated, s.allocated_peak);
                    peaks.reserved = most(peaks.reserved, s.reserved_peak);
                    peaks.alloc_retries = peaks.alloc_retries.max(s.alloc_retries);
                }
                Record::Memory(m) => {
                    let of = |name: &str| m.bytes.get(name).copied().unwrap_or(0);
                    peaks.allocated = most(peaks.allocated, of("allocated_peak"));
                    peaks.reserved = most(peaks.reserved, of("reserved_peak"));
                    context = context.max(of("context"));
                }
                _ => {}
            }
        }
        peaks.device = peaks.reserved.map(|r| r + context);
        peaks
    }

    /// What was seen beyond training steps.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        for record in self.all() {
            match record {
                Record::Phase { phase: Phase::Eval, count, .. } if *count > 0 => coverage.eval_seen = true,
                Record::Phase { phase: Phase::Save, count, .. } if *count > 0 => coverage.save_seen = true,
                Record::Look { batches, of, .. } => {
                    coverage.looked_at = *batches;
                    coverage.of_batches = *of;
                    // It is handed out when the first step is over (`autofit_agent/coverage.py`).
                    coverage.largest_trained = *batches > 0 && self.step_count() > 1;
                }
                _ => {}
            }
        }
        coverage
    }

    /// The phase that the script was in when memory ran out, if it did.
    pub fn oom_phase(&self) -> Option<Phase> {
        self.ooms().first().map(|o| o.phase)
    }

    /// Rank 0's records, from which an inspection is built.
    pub fn inspection_events(&self) -> &[Event] {
        self.ranks.values().next().map_or(&[], |r| &r.events)
    }

    /// Where training happened, if a root was seen.
    pub fn trained_on(&self) -> Option<&str> {
        self.all().find_map(|r| match r {
            Record::Root(root) => Some(root.device.as_str()),
            _ => None,
        })
    }
}

/// An inspection says whether a loader feeds training; used to word coverage.
pub fn has_loader(inspection: Option<&Inspection>) -> bool {
    inspection.is_some_and(|i| i.training_loader().is_some())
}
