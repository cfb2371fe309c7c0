//! What each of several ranks did, and which one holds the others up.  Pure.
//!
//! Ranks that train together end each step together, so that their step times are alike whoever is slow.  What tells
//! them apart is the time in which a rank worked: its threads computed, or it waited for its own loader.

use std::collections::BTreeMap;

use super::collect::{RankRecords, Records};
use crate::model::event::{Record, Step};
use crate::model::observation::RankFigures;
use crate::model::plan::Device;
use crate::verdict::stats::median;

/// A rank that works this many times as long as the median of the others holds them up ...
const SLOW: f64 = 1.25;
/// ... if what it works longer is this part of a step.
const WORTH_NAMING: f64 = 0.1;
/// Fewer steady steps than this name nobody.
const ENOUGH: usize = 5;

/// Figures of every rank that trained; empty where one process alone did.  `hosts` has the machine of each, where there
/// are several.
pub(super) fn figures(records: &Records, device: Device, hosts: &BTreeMap<u32, String>) -> Vec<RankFigures> {
    let steps = records.steps();
    let trained: Vec<u32> = steps.iter().filter(|(_, s)| !s.is_empty()).map(|(r, _)| *r).collect();
    if trained.len() < 2 {
        return Vec::new();
    }
    let mut all: Vec<RankFigures> =
        trained.iter().map(|r| of_rank(*r, &steps[r], &records.ranks[r], device)).collect();
    let enough = trained.iter().all(|r| steady(&steps[r]).count() >= ENOUGH);
    let step = median(&trained.iter().filter_map(|r| step_seconds(&steps[r])).collect::<Vec<_>>());
    if let (Some(slow), Some(step)) = (slowest(&all), step)
        && enough
        && slow.1 > WORTH_NAMING * step
        && let Some(figures) = all.iter_mut().find(|f| f.rank == slow.0)
    {
        figures.straggler = true;
    }
    for figures in &mut all {
        figures.host = hosts.get(&figures.rank).cloned();
    }
    all
}

/// `; rank 1 holds the others up: 0.4 s of work a step`, to be put behind a sentence.
pub(super) fn straggler_words(ranks: &[RankFigures]) -> Option<String> {
    let slow = ranks.iter().find(|f| f.straggler)?;
    let others: Vec<f64> = ranks.iter().filter(|f| f.rank != slow.rank).map(|f| f.busy_seconds).collect();
    let on = slow.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    Some(format!(
        "; rank {}{on} holds the others up: {:.3} s of work a step, theirs take {:.3} s",
        slow.rank,
        slow.busy_seconds,
        median(&others).unwrap_or_default()
    ))
}

fn steady(steps: &[Step]) -> impl Iterator<Item = &Step> {
    let any = steps.iter().any(|s| !s.warmup);
    steps.iter().filter(move |s| s.seconds > 0.0 && s.index > 0 && (!s.warmup || !any))
}

fn step_seconds(steps: &[Step]) -> Option<f64> {
    median(&steady(steps).map(|s| s.seconds).collect::<Vec<_>>())
}

fn of_rank(rank: u32, steps: &[Step], records: &RankRecords, device: Device) -> RankFigures {
    let rates: Vec<f64> = steady(steps).map(|s| s.samples as f64 / s.seconds).collect();
    let busy: Vec<f64> = steady(steps).map(|s| worked(s, device)).collect();
    RankFigures {
        rank,
        host: None,
        samples_per_second: median(&rates).unwrap_or_default(),
        busy_seconds: median(&busy).unwrap_or_default(),
        peak: peak(steps, records, device),
        straggler: false,
    }
}

/// A GPU computes while the host waits, and a kernel that waits for another GPU looks like one that computes: only the
/// loader tells there.
fn worked(step: &Step, device: Device) -> f64 {
    let computed = if device == Device::Cpu { step.cpu_seconds } else { 0.0 };
    (computed + step.loader_wait).min(step.seconds)
}

fn peak(steps: &[Step], records: &RankRecords, device: Device) -> u64 {
    let of = |name: &'static str| {
        records.events.iter().filter_map(move |e| match &e.record {
            Record::Memory(m) => m.bytes.get(name).copied(),
            _ => None,
        })
    };
    match device {
        Device::Cuda => {
            let reserved = steps.iter().map(|s| s.reserved_peak).chain(of("reserved_peak")).max();
            reserved.unwrap_or_default() + of("context").max().unwrap_or_default()
        }
        Device::Cpu => steps.iter().map(|s| s.rss).chain(of("rss_peak")).max().unwrap_or_default(),
    }
}

/// The rank that works longest, and by how many seconds longer than the others, if it is slow.
fn slowest(all: &[RankFigures]) -> Option<(u32, f64)> {
    let slow = all.iter().max_by(|a, b| a.busy_seconds.total_cmp(&b.busy_seconds))?;
    let others: Vec<f64> = all.iter().filter(|f| f.rank != slow.rank).map(|f| f.busy_seconds).collect();
    let usual = median(&others)?;
    (slow.busy_seconds > SLOW * usual).then_some((slow.rank, slow.busy_seconds - usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Event;

    fn records(cpu: &[f64]) -> Records {
        let mut records = Records::default();
        for (rank, cpu) in cpu.iter().enumerate() {
            let step = |i| Step {
                index: i,
                seconds: 1.0,
                cpu_seconds: *cpu,
                samples: 8,
                rss: 100 + rank as u64,
                ..Step::default()
            };
            let event = |s| Event { v: 1, at: 0.0, pid: 1, record: Record::Step(s) };
            records.extend(rank as u32, (0..8).map(step).map(event));
        }
        records
    }

    #[test]
    fn each_rank_has_its_own_figures() {
        let all = figures(&records(&[0.5, 0.5]), Device::Cpu, &BTreeMap::new());
        assert_eq!((all[0].samples_per_second, all[0].peak, all[1].peak), (8.0, 100, 101));
        assert!(!all.iter().any(|f| f.straggler));
        assert_eq!(straggler_words(&all), None);
        assert!(
            figures(&records(&[0.5]), Device::Cpu, &BTreeMap::new()).is_empty(),
            "one process has no ranks"
        );
    }

    #[test]
    fn the_rank_that_works_while_the_others_wait_is_named() {
        let all = figures(&records(&[0.3, 0.9, 0.32]), Device::Cpu, &BTreeMap::new());
        assert_eq!(all.iter().filter(|f| f.straggler).map(|f| f.rank).collect::<Vec<_>>(), [1]);
        assert!(straggler_words(&all).unwrap().contains("rank 1 holds the others up: 0.900 s"));
        let hosts = BTreeMap::from([(1, "n2".to_owned())]);
        let all = figures(&records(&[0.3, 0.9, 0.32]), Device::Cpu, &hosts);
        assert!(straggler_words(&all).unwrap().contains("rank 1 on n2 holds the others up"));
        // Twice nothing is nothing.
        assert!(!figures(&records(&[0.01, 0.02]), Device::Cpu, &BTreeMap::new()).iter().any(|f| f.straggler));
    }
}
