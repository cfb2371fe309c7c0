//! [`TuneResult`] and observations -> [`Page`], everything that the report shows.  Pure.

use super::commands::{self, Command};
use super::sizes::Curve;
use super::{charts, head};
use crate::model::size::Bytes;
use crate::model::trace::MemoryTrace;
use crate::model::{Observation, Verdict};
use crate::report::result::{Trial, TuneResult};
use crate::report::table::{self, Row};

/// A cap is drawn up to this many times what was used.
const CAP_IN_SIGHT: f64 = 2.5;

/// Everything that a report shows.
pub struct Page<'a> {
    /// Where it is from.
    pub result: &'a TuneResult,
    /// What came out, in a line.
    pub headline: String,
    /// The figures that matter most.
    pub figures: Vec<Figure>,
    /// What must be known beside them.
    pub facts: Vec<(&'static str, String)>,
    /// What to type.
    pub commands: Vec<Command>,
    /// Unit of the rates.
    pub unit: &'a str,
    /// What relative figures are relative to, and the like.
    pub legend: String,
    /// The ladder as it was climbed.
    pub ladder: Vec<Rung>,
    /// Throughput against memory; empty where nothing was measured.
    pub dots: Vec<Dot>,
    /// Memory over time.
    pub traces: Vec<Trace>,
    /// Batch sizes that were measured in one launch.
    pub curves: Vec<Curve>,
    /// Loss of the winner beside the script as it is.
    pub losses: Option<Losses>,
    /// How the winner trains, in a sentence.
    pub parity: Option<String>,
    /// Where the time went.
    pub times: Vec<TimeUse>,
    /// The surroundings.
    pub environment: Vec<(&'static str, String)>,
}

/// One figure of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// The figure.
    pub value: String,
    /// Its unit, where it is not part of the figure.
    pub unit: String,
    /// What it is to be seen beside.
    pub note: String,
    /// Share of what is allowed, 0 to 1.
    pub share: Option<f64>,
}

/// One launch in the ladder.
#[derive(Debug, Clone)]
pub struct Rung {
    /// In words.
    pub(in crate::report) row: Row,
    /// Number of the trial.
    pub trial: u32,
    /// The judgement.
    pub verdict: Verdict,
    /// One sentence on it.
    pub why: String,
    /// Throughput as a share of the highest.
    pub share: f64,
}

/// One launch between memory and throughput.
#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// The judgement.
    pub verdict: Verdict,
    /// Peak in the memory that the cap is about, bytes.
    pub bytes: u64,
    /// Rate and its interval; absent for what was not measured.
    pub rate: Option<(f64, f64, f64)>,
    /// In words: rate, peak.
    pub text: String,
    /// It only advises: it is beyond the bound.
    pub advice: bool,
    /// No other launch within the bound is as fast with as little memory.
    pub front: bool,
    /// The winner's launch.
    pub winner: bool,
}

/// Memory over the time of one launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// The verdict in words.
    pub verdict: String,
    /// The winner's launch.
    pub winner: bool,
    /// When the first step was done, seconds after the launch.
    pub first_step: Option<f64>,
    /// The figures.
    pub memory: MemoryTrace,
}

/// Losses of the same steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Trials of the reference and of the winner's settings.
    pub trials: (u32, u32),
    /// Of the script as it is.
    pub reference: Vec<f64>,
    /// With the winner's settings.
    pub winner: Vec<f64>,
}

/// Where the time of one launch went, seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeUse {
    /// Number of the trial.
    pub trial: u32,
    /// What changed.
    pub what: String,
    /// From the launch to the end of the first step; absent where there was none.
    pub start: Option<f64>,
    /// Steps that were timed.
    pub measured: f64,
    /// Warm-up, evaluation, saving, the end.
    pub rest: f64,
}

impl Trace {
    /// The memory that the cap is about.
    pub fn shown(&self) -> &[u64] {
        if self.memory.device.is_empty() { &self.memory.host } else { &self.memory.device }
    }

    /// Its highest value, and when that was.
    pub fn highest(&self) -> (u64, f64) {
        let points = self.shown().iter().copied().zip(self.memory.at.iter().copied());
        points.fold((0, 0.0), |best, p| if p.0 > best.0 { p } else { best })
    }
}

impl TimeUse {
    /// From the launch to the end of the last process.
    pub fn total(&self) -> f64 {
        self.start.unwrap_or(0.0) + self.measured + self.rest
    }
}

impl<'a> Page<'a> {
    /// What is said of a search.
    pub fn of(result: &'a TuneResult, observations: &[Observation]) -> Self {
        let winner = result.winner.as_ref().map(|w| w.trial);
        let unit = table::unit(result);
        Self {
            result,
            headline: head::headline(result),
            figures: head::figures(result),
            facts: head::facts(result),
            commands: commands::of(result),
            unit,
            legend: head::legend(result),
            ladder: charts::ladder(result, winner),
            dots: charts::dots(result, winner, unit),
            traces: charts::traces(result, observations, winner),
            curves: result.trials.iter().filter_map(Curve::of).collect(),
            losses: result.winner.as_ref().and_then(|w| charts::losses(w, result, observations)),
            parity: result.winner.as_ref().and_then(|w| table::trains_alike(w, result)),
            times: charts::times(result, observations),
            environment: head::environment(result),
        }
    }

    /// The cap in words, where there is one.
    pub fn cap(&self) -> Option<String> {
        self.result.cap.bytes.map(|b| Bytes(b).to_string())
    }

    /// Whether the charts reach up to the cap: far above everything that was used it would press them flat.
    pub fn cap_in_sight(&self) -> bool {
        let dots = self.dots.iter().map(|d| d.bytes);
        let traces = self.traces.iter().flat_map(|t| t.shown().iter().copied());
        let largest = dots.chain(traces).max().unwrap_or(0);
        self.result.cap.bytes.is_some_and(|cap| cap as f64 <= CAP_IN_SIGHT * largest as f64)
    }

    /// What the cap is about: device memory, or host memory.
    pub fn memory_name(&self) -> &'static str {
        let device = |t: &Trial| t.measured.peak_device_bytes.is_some();
        if self.result.trials.iter().any(device) { "device memory" } else { "host memory" }
    }

    /// Seconds of launches; of the search beside them.
    pub fn seconds(&self) -> (f64, f64) {
        let launches: f64 = self.times.iter().map(TimeUse::total).sum();
        (launches, (self.result.cost.seconds - launches).max(0.0))
    }
}
