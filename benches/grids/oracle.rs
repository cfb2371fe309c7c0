//! One replay: half of each configuration's launches are what a search sees, the other half says how good its pick is.

use std::collections::BTreeMap;

use autofit::model::observation::{ProcessEnd, Window};
use autofit::model::{Configuration, Observation, Purpose, TrialSpec, Verdict};

use crate::grid::Grid;

/// Answers launches from one half of the grid, under a cap.
pub struct Oracle<'a> {
    grid: &'a Grid,
    cap: u64,
    shown: BTreeMap<Configuration, Vec<&'a Observation>>,
    hidden: BTreeMap<Configuration, Vec<&'a Observation>>,
    used: BTreeMap<Configuration, usize>,
    /// Launches so far, and their seconds.
    pub launches: usize,
    pub seconds: f64,
    random: u64,
}

impl<'a> Oracle<'a> {
    pub fn new(grid: &'a Grid, cap: u64, seed: u64) -> Self {
        let mut oracle = Self {
            grid,
            cap,
            shown: BTreeMap::new(),
            hidden: BTreeMap::new(),
            used: BTreeMap::new(),
            launches: 0,
            seconds: 0.0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        };
        for (settings, mut all) in grid.launches() {
            for i in (1..all.len()).rev() {
                let j = oracle.pick(i + 1);
                all.swap(i, j);
            }
            let rest = all.split_off(all.len().div_ceil(2));
            oracle.shown.insert(settings.clone(), all);
            oracle.hidden.insert(settings, rest);
        }
        oracle
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % n as u64) as usize
    }

    /// All configurations.
    pub fn all(&self) -> Vec<Configuration> {
        self.shown.keys().cloned().collect()
    }

    /// One launch's rate; `None` where memory runs out or it does not run.
    pub fn rate(&mut self, settings: &Configuration) -> Option<f64> {
        let o = self.launch(&TrialSpec::new(settings.clone(), Purpose::Climb), 0);
        o.throughput()
    }

    /// One launch as a search sees it.  What is not in the grid fails, and is not counted: it tells nothing, either.  How
    /// something trains is not in a grid; it is answered with what the script as it is did.
    pub fn launch(&mut self, spec: &TrialSpec, trial: u32) -> Observation {
        let answer = match spec.purpose {
            Purpose::Sweep => self.sweep(spec),
            Purpose::Parity => {
                Some(Observation { peaks: Default::default(), ..self.grid.observations[0].clone() })
            }
            _ => self.recorded(spec),
        };
        self.launches += usize::from(answer.is_some());
        let mut o = answer.unwrap_or_else(|| self.missing());
        (o.trial, o.purpose, o.settings) = (trial, spec.purpose, spec.settings.clone());
        o.cap.bytes = Some(spec.limit.unwrap_or(self.cap));
        if o.peak() > o.cap.bytes {
            (o.verdict, o.why, o.timing) = (Verdict::Oom, "its peak lies above the cap".to_owned(), None);
            o.windows.clear();
        }
        self.seconds += o.seconds;
        o
    }

    fn recorded(&mut self, spec: &TrialSpec) -> Option<Observation> {
        let used = self.used.entry(spec.settings.clone()).or_default();
        let all = self.shown.get(&spec.settings).filter(|all| !all.is_empty())?;
        let o = all[*used % all.len()].clone();
        *used += 1;
        if spec.purpose == Purpose::Baseline && o.inspection.is_none() {
            let inspection = self.grid.observations[0].inspection.clone();
            return Some(Observation { inspection, ..o });
        }
        Some(o)
    }

    fn sweep(&mut self, spec: &TrialSpec) -> Option<Observation> {
        let sweeps: Vec<&Observation> = self
            .grid
            .observations
            .iter()
            .filter(|o| o.purpose == Purpose::Sweep && o.settings == spec.settings)
            .collect();
        if sweeps.is_empty() {
            return None;
        }
        let mut o = sweeps[self.pick(sweeps.len())].clone();
        let missing = |settings: &Configuration| Window {
            settings: settings.clone(),
            why_not: Some("it was not recorded".to_owned()),
            ..Window::default()
        };
        let window = |settings: &Configuration| {
            let recorded = o.windows.iter().find(|w| w.settings == *settings);
            let Some(recorded) = recorded.cloned() else { return missing(settings) };
            if recorded.peak.is_none_or(|p| p <= self.cap) {
                return recorded;
            }
            let why_not = Some("its peak lies above the cap".to_owned());
            Window { settings: settings.clone(), too_large: true, why_not, ..Window::default() }
        };
        o.windows = spec.windows.iter().map(window).collect();
        Some(o)
    }

    fn missing(&self) -> Observation {
        let mut o = self.grid.observations[0].clone();
        (o.verdict, o.peaks) = (Verdict::Failed, Default::default());
        (o.timing, o.windows, o.inspection) = (None, Vec::new(), None);
        (o.why, o.end, o.seconds) = ("it was not recorded".to_owned(), ProcessEnd::Exited { code: 1 }, 0.0);
        o
    }

    /// Whether every launch of it stays below the cap.
    fn fits(&self, settings: &Configuration) -> bool {
        let all = self.shown[settings].iter().chain(&self.hidden[settings]);
        all.clone().count() > 0
            && all.clone().all(|o| o.throughput().is_some() && o.peak().is_none_or(|p| p <= self.cap))
    }

    fn mean(launches: &[&Observation]) -> Option<f64> {
        let rates: Vec<f64> = launches.iter().filter_map(|o| o.throughput()).map(f64::ln).collect();
        (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
    }

    /// What is lost with `pick` against the best by the half that was shown, on the half that was not; `None` where it does
    /// not fit.
    pub fn regret(&self, pick: &Configuration) -> Option<f64> {
        let fitting = self.shown.iter().filter(|(c, _)| self.fits(c));
        let best = fitting.max_by(|a, b| Self::mean(a.1).partial_cmp(&Self::mean(b.1)).unwrap())?.0;
        let score = |c: &Configuration| Self::mean(self.hidden.get(c)?);
        self.fits(pick).then(|| Some(1.0 - (score(pick)? - score(best)?).exp())).flatten()
    }

    /// Standard error of the logarithm of a mean of the hidden half, from the spread of equal launches.
    pub fn error(&self) -> f64 {
        let (mut squares, mut degrees, mut sizes) = (0.0, 0.0, Vec::new());
        for (shown, hidden) in self.shown.values().zip(self.hidden.values()) {
            let all: Vec<&Observation> = shown.iter().chain(hidden).copied().collect();
            if let Some(mean) = Self::mean(&all) {
                let rates = all.iter().filter_map(|o| o.throughput());
                squares += rates.map(|r| (r.ln() - mean).powi(2)).sum::<f64>();
                degrees += all.len() as f64 - 1.0;
                sizes.push(hidden.len() as f64);
            }
        }
        let size = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
        (squares / f64::max(degrees, 1.0) / size.max(1.0)).sqrt()
    }
}
