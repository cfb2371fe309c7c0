//! The sampler's series and the agent's records -> memory over time, as small as a chart needs it.  Pure.

use super::collect::Records;
use crate::model::event::{Event, Record};
use crate::model::trace::{AllocatorTrace, MemoryTrace};
use crate::watch::series::Series;

/// A chart is a few hundred pixels wide; a journal of twenty trials grows by about 50 kB.
const POINTS: usize = 160;

/// `None` where nothing was sampled.
pub(super) fn trace(series: &Series, records: &Records) -> Option<MemoryTrace> {
    let points = series.thinned(POINTS);
    if points.is_empty() {
        return None;
    }
    let watched = points.iter().any(|p| p.device.is_some());
    Some(MemoryTrace {
        at: points.iter().map(|p| hundredths(p.at)).collect(),
        host: points.iter().map(|p| p.host).collect(),
        device: if watched { points.iter().map(|p| p.device.unwrap_or(0)).collect() } else { Vec::new() },
        allocator: allocator(records),
    })
}

/// The agent starts milliseconds after the launch, so its clock is taken for the sampler's.
fn allocator(records: &Records) -> Option<AllocatorTrace> {
    let mut steps: Vec<(f64, u64, u64)> =
        records.ranks.values().flat_map(|r| &r.events).filter_map(reading).collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut trace = AllocatorTrace::default();
    // Each rank's figures only grow; the worst rank's, so far.
    let (mut allocated, mut reserved) = (0, 0);
    for chunk in steps.chunks(steps.len().div_ceil(POINTS).max(1)) {
        for step in chunk {
            (allocated, reserved) = (allocated.max(step.1), reserved.max(step.2));
        }
        trace.at.push(hundredths(chunk[chunk.len() - 1].0));
        trace.allocated.push(allocated);
        trace.reserved.push(reserved);
    }
    trace.reserved.iter().any(|b| *b > 0).then_some(trace)
}

fn reading(event: &Event) -> Option<(f64, u64, u64)> {
    match &event.record {
        Record::Step(s) => Some((event.at, s.allocated_peak, s.reserved_peak)),
        _ => None,
    }
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Step;
    use crate::watch::series::Point;

    fn step(at: f64, allocated: u64, reserved: u64) -> Event {
        let step = Step { allocated_peak: allocated, reserved_peak: reserved, ..Step::default() };
        Event { v: 1, at, pid: 7, record: Record::Step(step) }
    }

    #[test]
    fn a_long_trial_is_kept_small_and_keeps_its_peak() {
        let mut series = Series::default();
        for i in 0..5000_u32 {
            let host = if i == 4321 { 9 << 30 } else { 1 << 30 };
            series.push(Point { at: f64::from(i) / 10.0, host, ..Point::default() });
        }
        let trace = trace(&series, &Records::default()).unwrap();
        assert!(trace.at.len() <= POINTS && trace.at.len() == trace.host.len());
        assert_eq!(trace.host.iter().max(), Some(&(9 << 30)));
        assert_eq!(
            (trace.device.len(), trace.allocator.as_ref()),
            (0, None),
            "nothing was trained on a device"
        );
        assert!(serde_json::to_string(&trace).unwrap().len() < 4000);
    }

    #[test]
    fn device_and_allocator_are_there_where_they_were_seen() {
        let mut series = Series::default();
        series.push(Point { at: 0.0, host: 5, ..Point::default() });
        series.push(Point { at: 0.123, host: 5, device: Some(70), ..Point::default() });
        let mut records = Records::default();
        records.extend(0, [step(1.0, 40, 60), step(2.0, 41, 64)]);
        records.extend(1, [step(1.5, 43, 62)]);
        let trace = trace(&series, &records).unwrap();
        assert_eq!((trace.at, trace.device), (vec![0.0, 0.12], vec![0, 70]));
        let allocator = trace.allocator.unwrap();
        assert_eq!(allocator.allocated, [40, 43, 43]);
        assert_eq!(allocator.reserved, [60, 62, 64]);
        assert_eq!(super::trace(&Series::default(), &records), None);
    }
}
