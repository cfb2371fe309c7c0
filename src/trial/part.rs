//! What a launcher saw of a trial besides its agents' records: on each machine that ran it, and put together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::observation::{Cap, Disturbance, NodeFigures, Peaks, ProcessEnd};
use crate::process::Ended;
use crate::verdict::failure;
use crate::watch::WatchSummary;
use crate::watch::series::Series;

/// Bytes of output that another machine is told.
const TOLD: usize = 256 << 10;

/// One machine's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, where there are several.
    pub host: Option<String>,
    /// How the command ended.
    pub end: ProcessEnd,
    /// The machines have agreed on that end: it says nothing about this one.
    pub ordered: bool,
    /// From the launch to the end.
    pub seconds: f64,
    /// Processes that the kernel killed for memory; `None` when nobody counted.
    pub oom_kills: Option<u64>,
    /// What limited its memory; `None` where it was not started.
    pub cap: Option<Cap>,
    /// Highest memory of the process tree that was sampled while it was capped, bytes.
    pub peak_bytes: Option<u64>,
    /// What was sampled beside.
    pub watched: Option<WatchSummary>,
    /// Load that was not ours.
    pub disturbance: Disturbance,
    /// The end of the output.
    pub log: String,
    /// Its last lines.
    pub tail: Vec<String>,
}

impl Part {
    /// With what the end of the command says.
    pub fn new(end: ProcessEnd, ended: Option<&Ended>, watched: Option<WatchSummary>) -> Self {
        Self {
            host: None,
            end,
            ordered: false,
            seconds: ended.map_or(0.0, |e| e.seconds),
            // Only a cgroup counts them.
            oom_kills: ended.filter(|e| e.cap.mechanism.starts_with("cgroup")).map(|e| e.oom_kills),
            cap: ended.map(|e| e.cap.clone()),
            peak_bytes: ended.and_then(|e| e.peak_bytes),
            watched,
            disturbance: Disturbance::default(),
            log: String::new(),
            tail: Vec::new(),
        }
    }

    /// As much of it as is worth telling another machine.
    pub fn told(mut self) -> Self {
        let from = self.log.len().saturating_sub(TOLD);
        let from = (from..=self.log.len()).find(|at| self.log.is_char_boundary(*at)).unwrap_or(0);
        self.log.drain(..from);
        self
    }

    /// The sampler's figure and the supervisor's are of the same thing; each misses what falls between its samples.
    fn host_peak(&self) -> Option<u64> {
        let sampled = self.watched.as_ref().and_then(|w| w.host.cgroup_peak.or(w.host.peak));
        self.peak_bytes.max(sampled)
    }

    /// How much its output and its end say about why the trial failed.
    fn tells(&self) -> u32 {
        let read = failure::read_failure(&self.log, Some(&self.end));
        match read.fields.signal.as_deref() {
            _ if read.kind.is_memory() => 2,
            // torchrun's own way of ending the ranks that are left.
            None | Some("SIGTERM") => 0,
            Some(_) => 1,
        }
    }
}

/// All machines'; there is one at least, the leader's first.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    parts: Vec<Part>,
    /// The one whose end is the trial's.
    counts: usize,
    /// Machines that were not heard any more.
    lost: Vec<String>,
    /// The machine of each rank, where there are several.
    hosts: BTreeMap<u32, String>,
}

impl Parts {
    /// Of the machine that alone ran it.
    pub fn alone(part: Part) -> Self {
        Self { parts: vec![part], counts: 0, lost: Vec::new(), hosts: BTreeMap::new() }
    }

    /// Of several: how it ended on each, those that were not heard any more, and which rank was where.
    pub fn new(parts: Vec<Part>, lost: Vec<String>, hosts: BTreeMap<u32, String>) -> Self {
        let counts = counts(&parts);
        Self { parts, counts, lost, hosts }
    }

    /// How the trial ended.
    pub fn end(&self) -> &ProcessEnd {
        &self.parts[self.counts].end
    }

    /// The last lines of the machine whose end that is.
    pub fn tail(&self) -> &[String] {
        &self.parts[self.counts].tail
    }

    /// The output of all, that of the machine whose end counts at the end: there the last word stands.
    pub fn log(&self) -> String {
        let others = self.parts.iter().enumerate().filter(|(at, _)| *at != self.counts).map(|(_, p)| p);
        let all = others.chain([&self.parts[self.counts]]);
        all.map(|p| p.log.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Processes that the kernel killed for memory.
    pub fn oom_kills(&self) -> Option<u64> {
        self.parts.iter().filter_map(|p| p.oom_kills).reduce(|a, b| a + b)
    }

    /// What limited memory, on each machine alike.
    pub fn cap(&self) -> Option<&Cap> {
        self.parts[0].cap.as_ref()
    }

    /// Highest figures of any machine, in place of those that are not known better.
    pub fn add_peaks(&self, peaks: &mut Peaks) {
        let most = |of: fn(&Part) -> Option<u64>| self.parts.iter().filter_map(of).max();
        peaks.device = peaks.device.max(most(|p| p.watched.as_ref()?.device_peak()));
        peaks.host = most(Part::host_peak);
        peaks.shm = most(|p| p.watched.as_ref()?.shm_peak);
    }

    /// Memory over time, where it was highest.
    pub fn series(&self) -> Option<&Series> {
        let worst = self.parts.iter().max_by_key(|p| p.host_peak())?;
        Some(&worst.watched.as_ref()?.series)
    }

    /// The most of each kind on any machine.
    pub fn disturbance(&self) -> Disturbance {
        let worst = |a: Disturbance, b: &Disturbance| Disturbance {
            cpu_pressure: [a.cpu_pressure, b.cpu_pressure].into_iter().flatten().reduce(f64::max),
            steal: a.steal.max(b.steal),
            other_cpu: a.other_cpu.max(b.other_cpu),
        };
        let mut all = self.parts.iter().map(|p| &p.disturbance);
        let first = all.next().cloned().unwrap_or_default();
        all.fold(first, worst)
    }

    /// Each machine's own figures, where there are several.
    pub fn figures(&self) -> Vec<NodeFigures> {
        let figures = |p: &Part| Some(NodeFigures { host: p.host.clone()?, peak_host: p.host_peak() });
        self.parts.iter().filter_map(figures).collect()
    }

    /// Machines that were not heard any more.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// The machine of each rank, where there are several.
    pub fn hosts(&self) -> &BTreeMap<u32, String> {
        &self.hosts
    }
}

/// The part whose end is the trial's.
fn counts(parts: &[Part]) -> usize {
    let stopped = parts.iter().position(|p| p.end == ProcessEnd::Interrupted);
    let well = |p: &Part| p.ordered || p.end == (ProcessEnd::Exited { code: 0 });
    let bad = || parts.iter().enumerate().filter(|(_, p)| !well(p));
    // Of those that say as much the one that ended first: its ranks were what the others missed.
    let most = || {
        bad().max_by(|(_, a), (_, b)| a.tells().cmp(&b.tells()).then_with(|| b.seconds.total_cmp(&a.seconds)))
    };
    // Where one ended well and another had to be ended, the trial has not ended well.
    let not_well = || parts.iter().position(|p| p.end != (ProcessEnd::Exited { code: 0 }));
    stopped.or_else(|| most().map(|(at, _)| at)).or_else(not_well).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: Vec<Part>) -> Parts {
        Parts::new(parts, Vec::new(), BTreeMap::new())
    }

    fn part(host: &str, code: i32, seconds: f64, log: &str) -> Part {
        let part = Part::new(ProcessEnd::Exited { code }, None, None);
        Part {
            host: Some(host.to_owned()),
            seconds,
            log: log.to_owned(),
            tail: vec![host.to_owned()],
            ..part
        }
    }

    const PEER: &str =
        "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:1\n";

    #[test]
    fn the_machine_that_knows_why_counts() {
        let killed = "Root Cause (first observed failure):\n  rank      : 1 (local_rank: 0)\n  exitcode  : -9 (pid: 7)\n";
        let parts = of(vec![part("n1", 1, 5.0, PEER), part("n2", 1, 6.0, killed)]);
        assert_eq!((parts.tail(), parts.end()), (&["n2".to_owned()][..], &ProcessEnd::Exited { code: 1 }));
        assert!(parts.log().ends_with(killed));
        let parts = of(vec![part("n1", 1, 6.0, PEER), part("n2", 1, 5.0, PEER)]);
        assert_eq!(parts.tail(), ["n2"], "it ended first");
        let parts = of(vec![part("n1", 0, 5.0, ""), part("n2", 3, 6.0, "")]);
        assert_eq!(parts.end(), &ProcessEnd::Exited { code: 3 });
    }

    #[test]
    fn an_end_that_was_ordered_says_nothing() {
        let ordered = |p: Part| Part { end: ProcessEnd::RankLost, ordered: true, ..p };
        let parts = of(vec![ordered(part("n1", 0, 6.0, "")), part("n2", 1, 5.0, PEER)]);
        assert_eq!(parts.end(), &ProcessEnd::Exited { code: 1 });
        let hung = Part { end: ProcessEnd::Hung, ..part("n1", 0, 6.0, "") };
        let parts = of(vec![hung, ordered(part("n2", 0, 7.0, ""))]);
        assert_eq!(parts.end(), &ProcessEnd::Hung);
        let parts = of(vec![part("n1", 0, 6.0, ""), ordered(part("n2", 0, 7.0, ""))]);
        assert_eq!(parts.end(), &ProcessEnd::RankLost, "but it is no good end");
    }

    #[test]
    fn figures_of_memory_are_each_machines_own() {
        let used = |host: &str, peak: u64| Part { peak_bytes: Some(peak), ..part(host, 0, 1.0, "") };
        let parts = of(vec![used("n1", 5), used("n2", 7)]);
        let mut peaks = Peaks::default();
        parts.add_peaks(&mut peaks);
        assert_eq!(peaks.host, Some(7));
        assert_eq!(parts.figures()[0], NodeFigures { host: "n1".into(), peak_host: Some(5) });
        let alone = Parts::alone(Part { host: None, ..used("n1", 5) });
        assert!(alone.figures().is_empty());
    }

    #[test]
    fn what_another_machine_is_told_is_bounded() {
        let long = "é".repeat(TOLD);
        let told = part("n1", 1, 1.0, &long).told();
        assert!(told.log.len() <= TOLD && long.ends_with(&told.log));
    }
}
