//! How likely a configuration is to fit, from what fitted and what did not.
//!
//! Peak = fixed + transient x factor(settings), with factors from [`super::priors`].  Fixed and transient are not known;
//! each pair on a grid is weighted by how well it explains the launches so far.  A measured peak says much, a launch
//! that ran out of memory says that its peak lies above the cap.  The model is rough on purpose (a fifth of error in
//! every peak), so that it gives way to what is measured; it never says that something fits.  Where something alike has
//! been measured, only the difference to it is predicted, and only the difference has a large error.

use std::cmp::Ordering;

use super::earlier::Known;
use super::launches::{State, state_of};
use super::priors::Context;
use super::replay::Session;
use crate::model::{Configuration, Observation};

/// Relative error of a predicted peak: the factors are guesses.
const ERROR: f64 = 0.2;
/// Error of a predicted difference to a measured peak, relative to that difference ...
const DIFFERENCE_ERROR: f64 = 0.4;
/// ... and of the measured peak itself, relative to the cap: peaks of equal launches differ a little.
const PEAK_ERROR: f64 = 0.015;
/// Points of the grid in each direction.
const GRID: usize = 24;
/// What asks for at least as much as something that did not fit keeps this part of its chance.
const DOMINATED: f64 = 0.1;

/// A weighted grid of (fixed, transient), in shares of the cap.
pub(super) struct MemoryModel {
    points: Vec<(f64, f64, f64)>,
    /// The smallest factor that did not fit.
    too_large: f64,
    /// Peaks of what fitted, windows of sweeps among them.
    measured: Vec<Peak>,
}

/// What was measured.
pub(super) struct Evidence<'a> {
    /// Launches of one configuration.
    pub seen: &'a [&'a Observation],
    /// Launches of several.
    pub sweeps: &'a [&'a Observation],
    /// What earlier searches know.
    pub known: &'a [&'a Known],
}

/// A measured peak.
struct Peak {
    settings: Configuration,
    /// Of the settings, on transient memory.
    factor: f64,
    /// Share of the cap.
    share: f64,
}

impl MemoryModel {
    /// `cap` in bytes.  `root_bytes`: parameters and buffers of the model.
    pub fn new(evidence: &Evidence<'_>, context: &Context<'_>, cap: u64, root_bytes: u64) -> Self {
        let cap = cap.max(1) as f64;
        let known = facts(evidence);
        // Interpreter and libraries, then parameters, gradients and two moments of the optimizer.
        let expected_fixed = (400.0 * 1024.0 * 1024.0 + 4.0 * root_bytes as f64) / cap;
        let mut points = Vec::with_capacity(GRID * GRID);
        for i in 0..GRID {
            let fixed = log_step(0.02, 1.5, i);
            let prior = -0.5 * ((fixed / expected_fixed).ln() / 0.7).powi(2);
            for j in 0..GRID {
                let transient = log_step(0.02, 60.0, j);
                // Most scripts that are tuned ask for something like what there is, not for fifty times as much.
                points.push((fixed, transient, prior - 0.5 * (transient.ln() / 1.2).powi(2)));
            }
        }
        for (settings, state, peak) in &known {
            let factor = context.transient(settings);
            let peak = peak.map(|p| p as f64 / cap).filter(|p| *p > 0.0);
            for (fixed, transient, weight) in &mut points {
                let predicted = (*fixed + *transient * factor).ln();
                *weight += match (state, peak) {
                    (State::TooLarge, _) => below(predicted / ERROR).max(1e-6).ln(),
                    (State::Fits, Some(peak)) => -0.5 * ((predicted - peak.ln()) / (ERROR / 2.0)).powi(2),
                    (State::Fits, None) => below(-predicted / ERROR).max(1e-6).ln(),
                    _ => 0.0,
                };
            }
        }
        let top = points.iter().map(|p| p.2).fold(f64::NEG_INFINITY, f64::max);
        for p in &mut points {
            p.2 = (p.2 - top).exp();
        }
        points.retain(|p| p.2 > 1e-3);
        let factor = |settings: &Configuration| context.transient(settings);
        let too_large = known.iter().filter(|k| k.1 == State::TooLarge).map(|k| factor(k.0));
        let fitted = known.iter().filter(|k| k.1 == State::Fits);
        let measured = fitted.filter_map(|(settings, _, peak)| {
            let share = (*peak)? as f64 / cap;
            Some(Peak { settings: (*settings).clone(), factor: factor(settings), share })
        });
        Self { points, too_large: too_large.fold(f64::INFINITY, f64::min), measured: measured.collect() }
    }

    /// The expected peak as a share of the cap: from the most alike that was measured, else from the grid alone.
    pub fn expected_peak(&self, context: &Context<'_>, settings: &Configuration) -> Option<f64> {
        let factor = context.transient(settings);
        let alike = self.alike(settings, factor);
        let (mut sum, mut all) = (0.0, 0.0);
        for (fixed, transient, weight) in &self.points {
            sum += weight
                * alike.map_or(fixed + transient * factor, |k| k.share + transient * (factor - k.factor));
            all += weight;
        }
        (all > 0.0).then(|| (sum / all).max(0.0))
    }

    /// What was measured and differs least: the same settings, if they were.
    fn alike(&self, settings: &Configuration, factor: f64) -> Option<&Peak> {
        let distance = |m: &&Peak| (m.settings != *settings, (m.factor - factor).abs());
        self.measured.iter().min_by(|a, b| distance(a).partial_cmp(&distance(b)).unwrap_or(Ordering::Equal))
    }

    /// Probability, 0 to 1, that the peak stays below the cap.
    pub fn fits(&self, context: &Context<'_>, settings: &Configuration) -> f64 {
        let factor = context.transient(settings);
        let alike = self.alike(settings, factor);
        let (mut sum, mut all) = (0.0, 0.0);
        for (fixed, transient, weight) in &self.points {
            let absolute = -(fixed + transient * factor).ln() / ERROR;
            let z = match alike {
                Some(known) => {
                    let change = transient * (factor - known.factor);
                    let error = (DIFFERENCE_ERROR * change).hypot(PEAK_ERROR);
                    // The one with the smaller error.
                    if error < ERROR { (1.0 - known.share - change) / error } else { absolute }
                }
                None => absolute,
            };
            sum += weight * below(z);
            all += weight;
        }
        let chance = if all > 0.0 { sum / all } else { 0.5 };
        // What was measured itself needs no comparison with others.
        let itself = alike.is_some_and(|k| k.settings == *settings);
        if !itself && factor >= self.too_large - 1e-9 { DOMINATED * chance } else { chance }
    }
}

/// What is known of each configuration: whether it fits, and its peak in bytes.
fn facts<'a>(evidence: &Evidence<'a>) -> Vec<(&'a Configuration, State, Option<u64>)> {
    let launches = evidence.seen.iter().map(|o| (&o.settings, state_of(o), o.peak()));
    let windows = evidence.sweeps.iter().flat_map(|o| &o.windows).filter_map(|w| {
        let state = if w.too_large { State::TooLarge } else { State::Fits };
        // A window without a peak was not measured.
        (w.too_large || w.peak.is_some()).then_some((&w.settings, state, w.peak))
    });
    // Whatever the cap was then: it ran, and had this peak.
    let earlier = evidence.known.iter().map(|k| (&k.settings, State::Fits, Some(k.peak)));
    launches.chain(windows).chain(earlier).collect()
}

impl Session<'_> {
    /// The model of memory, from all that was seen so far.
    pub fn memory(&self, context: &Context<'_>) -> MemoryModel {
        let known: Vec<&Known> = self.known_elsewhere().collect();
        let evidence = Evidence { seen: &self.seen, sweeps: &self.sweeps, known: &known };
        MemoryModel::new(&evidence, context, self.cap_bytes(), self.root_bytes())
    }
}

fn log_step(low: f64, high: f64, i: usize) -> f64 {
    low * (high / low).powf(i as f64 / (GRID - 1) as f64)
}

/// The normal distribution function.
pub(super) fn below(z: f64) -> f64 {
    // Abramowitz and Stegun 26.2.17: right to 1e-7.
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let poly = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = density(z) * poly;
    if z >= 0.0 { 1.0 - tail } else { tail }
}

/// The normal density.
pub(super) fn density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}
