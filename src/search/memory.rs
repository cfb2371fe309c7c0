//! How likely a configuration is to fit, from what fitted and what did not.
//!
//! Where a peak was measured, everything follows from a fit to what was ([`super::footprint`]).  Before that, while all
//! launches ran out of memory: peak = fixed x factor + transient x factor, with factors from [`super::priors`].  Fixed
//! and transient are not known; each pair on a grid is weighted by how well it explains the launches so far, each of
//! which says that its peak lies above the cap.  The model is rough on purpose (a fifth of error in every peak), so that
//! it gives way to what is measured; it never says that something fits.

use super::earlier::Known;
use super::footprint::{ExpectedPeak, Footprint, Peak, spread};
use super::launches::{Evidence, State, state_of};
use super::priors::Context;
use super::replay::Session;
use crate::model::plan::Device;
use crate::model::{Configuration, Observation, Purpose};

/// Relative error of a peak that is predicted before any was measured: the factors are guesses.
const ERROR: f64 = 0.2;
/// Of a window of a sweep beside the one with the launch's own settings: the heap that the windows before it have left.
const WINDOW: f64 = 0.03;
/// The same where the launch's own settings had no window.
const LONE_WINDOW: f64 = 0.06;
/// Of a peak that an earlier search measured, of which the script may have been edited.
const EARLIER: f64 = 0.05;
/// What runs out of memory needs more than the cap: by this part of it, at a guess.
const BEYOND: f64 = 0.05;
/// Of a step's memory a whole run needs this many times as much, at most.
const MOST_WHOLE: f64 = 10.0;
/// Points of the grid in each direction.
const GRID: usize = 24;
/// What asks for at least as much as something that did not fit keeps this part of its chance.
const DOMINATED: f64 = 0.1;

/// A fit, or a weighted grid of (fixed, transient); all in shares of the cap.
pub(super) struct MemoryModel {
    fit: Option<Footprint>,
    /// By how many times a whole run exceeds what the first steps add to memory: its evaluation, the largest of its
    /// batches.  1 until a confirm trial has shown more.
    whole: f64,
    points: Vec<(f64, f64, f64)>,
    /// Factors (fixed, transient) of what did not fit.
    too_large: Vec<(f64, f64)>,
    /// What fitted.
    measured: Vec<Configuration>,
}

impl MemoryModel {
    /// `cap` in bytes.
    pub fn new(evidence: &Evidence<'_>, context: &Context<'_>, cap: u64) -> Self {
        let cap = cap.max(1) as f64;
        let (peaks, too_large) = (peaks(evidence, context, cap), too_large(evidence));
        let expected_fixed = context.fixed_bytes() / cap;
        let factors: Vec<(f64, f64)> = too_large.iter().map(|c| factors(context, c)).collect();
        let unfit: Vec<Configuration> =
            too_large.iter().filter(|c| !measured(evidence, c)).cloned().collect();
        let fit = Footprint::fit(&peaks, &unfit, context, expected_fixed);
        Self {
            whole: fit.as_ref().map_or(1.0, |fit| whole(evidence, fit, context, cap)),
            fit,
            points: grid(&factors, expected_fixed, context.fixed_spread()),
            too_large: factors,
            measured: peaks.into_iter().map(|p| p.settings).collect(),
        }
    }

    /// The expected peak as a share of the cap.
    pub fn expected_peak(&self, context: &Context<'_>, settings: &Configuration) -> Option<f64> {
        if let Some(fit) = &self.fit {
            return Some(fit.predict(settings, context).mean);
        }
        let (kept, grown) = factors(context, settings);
        self.average(|fixed, transient| fixed * kept + transient * grown)
    }

    /// The expected peak of a whole run as a share of the cap, where peaks were measured.
    pub fn whole_peak(&self, context: &Context<'_>, settings: &Configuration) -> Option<f64> {
        self.fit.as_ref().map(|fit| self.of_whole(fit, settings, context).mean)
    }

    fn of_whole(&self, fit: &Footprint, settings: &Configuration, context: &Context<'_>) -> ExpectedPeak {
        let peak = fit.predict(settings, context);
        let fixed = (fit.fixed() * context.fixed(settings)).min(peak.mean);
        ExpectedPeak { mean: fixed + (peak.mean - fixed) * self.whole, sd: peak.sd * self.whole }
    }

    /// Probability, 0 to 1, that the peak stays below the cap.
    pub fn fits(&self, context: &Context<'_>, settings: &Configuration) -> f64 {
        let (kept, grown) = factors(context, settings);
        let chance = match &self.fit {
            Some(fit) => {
                let peak = self.of_whole(fit, settings, context);
                below((1.0 - peak.mean) / peak.sd)
            }
            None => self
                .average(|fixed, transient| below(-(fixed * kept + transient * grown).ln() / ERROR))
                .unwrap_or(0.5),
        };
        // What was measured itself needs no comparison with others.
        let itself = self.measured.contains(settings);
        let asks_for = |(k, g): &(f64, f64)| kept >= k - 1e-9 && grown >= g - 1e-9;
        if !itself && self.too_large.iter().any(asks_for) { DOMINATED * chance } else { chance }
    }

    /// Over the grid.
    fn average(&self, of: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let all: f64 = self.points.iter().map(|p| p.2).sum();
        let sum: f64 = self.points.iter().map(|(f, t, weight)| weight * of(*f, *t)).sum();
        (all > 0.0).then(|| sum / all)
    }
}

/// What becomes of what is fixed, and of what a step adds to it.
fn factors(context: &Context<'_>, settings: &Configuration) -> (f64, f64) {
    (context.fixed(settings), context.transient(settings))
}

/// Pairs of fixed and transient with their weights; `factors` of what did not fit, `spread` of what is expected.
fn grid(factors: &[(f64, f64)], expected_fixed: f64, spread: f64) -> Vec<(f64, f64, f64)> {
    let mut points = Vec::with_capacity(GRID * GRID);
    for i in 0..GRID {
        let fixed = log_step(0.02, 1.5, i);
        let prior = -0.5 * ((fixed / expected_fixed).ln() / spread).powi(2);
        for j in 0..GRID {
            let transient = log_step(0.02, 60.0, j);
            // Most scripts that are tuned ask for something like what there is, not for fifty times as much.
            let mut weight = prior - 0.5 * (transient.ln() / 1.2).powi(2);
            for (kept, grown) in factors {
                weight += below((fixed * kept + transient * grown).ln() / ERROR).max(1e-6).ln();
            }
            points.push((fixed, transient, weight));
        }
    }
    let top = points.iter().map(|p| p.2).fold(f64::NEG_INFINITY, f64::max);
    for p in &mut points {
        p.2 = (p.2 - top).exp();
    }
    points.retain(|p| p.2 > 1e-3);
    points
}

/// Whether the first steps of `settings` fitted: if they ran out of memory later, it was in a confirm trial.
fn measured(evidence: &Evidence<'_>, settings: &Configuration) -> bool {
    let fitted = |o: &&&Observation| o.purpose != Purpose::Confirm && state_of(o) == State::Fits;
    evidence.seen.iter().filter(fitted).any(|o| o.settings == *settings)
}

/// [`MemoryModel::whole`], by what confirm trials needed beside the launches before them.
fn whole(evidence: &Evidence<'_>, fit: &Footprint, context: &Context<'_>, cap: f64) -> f64 {
    let confirms =
        evidence.seen.iter().filter(|o| o.purpose == Purpose::Confirm && measured(evidence, &o.settings));
    let times = confirms.filter_map(|o| {
        let reached = match state_of(o) {
            State::TooLarge => 1.0 + BEYOND,
            // A GPU's allocator fills what it may use: what it reached there it need not need.
            State::Fits if context.device == Device::Cpu => o.peak()? as f64 / cap,
            _ => return None,
        };
        let fixed = fit.fixed() * context.fixed(&o.settings);
        let grown = fit.predict(&o.settings, context).mean - fixed;
        (grown > 0.0).then(|| (reached - fixed) / grown)
    });
    times.fold(1.0, f64::max).min(MOST_WHOLE)
}

/// What ran out of memory, in a launch or in a window.
fn too_large(evidence: &Evidence<'_>) -> Vec<Configuration> {
    let launches = evidence.seen.iter().filter(|o| state_of(o) == State::TooLarge).map(|o| &o.settings);
    let windows =
        evidence.sweeps.iter().flat_map(|o| &o.windows).filter(|w| w.too_large).map(|w| &w.settings);
    launches.chain(windows).cloned().collect()
}

/// Peaks of what fitted, as shares of the cap.  A window's peak is that of a heap which was swept before: by how much a
/// launch of the same settings needs more, the other windows' launches will need more.
fn peaks(evidence: &Evidence<'_>, context: &Context<'_>, cap: f64) -> Vec<Peak> {
    let Evidence { seen, sweeps, known } = evidence;
    let one = |settings: &Configuration, bytes: f64, error: f64| {
        Some(Peak { settings: settings.clone(), share: bytes / cap, error }).filter(|p| p.share > 0.0)
    };
    // A confirm trial needs more than the first steps do.
    let alike = |o: &&&Observation| o.purpose != Purpose::Confirm || !measured(evidence, &o.settings);
    let fitted = seen.iter().filter(|o| state_of(o) == State::Fits).filter(alike);
    let of_launches = fitted.filter_map(|o| one(&o.settings, o.peak()? as f64, spread(context.device)));
    let mut all: Vec<Peak> = of_launches.collect();
    // Whatever the cap was then: it ran, and had this peak.
    all.extend(known.iter().filter_map(|k| one(&k.settings, k.peak as f64, EARLIER)));
    for sweep in *sweeps {
        let own = sweep.windows.iter().find(|w| w.settings == sweep.settings).and_then(|w| w.peak);
        let launched = seen.iter().filter(|o| o.settings == sweep.settings && state_of(o) == State::Fits);
        let launched = launched.filter_map(|o| o.peak()).next_back();
        let more = own.zip(launched).map(|(window, launch)| launch as f64 - window as f64);
        let error = if more.is_some() { WINDOW } else { LONE_WINDOW };
        let others = sweep.windows.iter().filter(|w| !w.too_large && w.settings != sweep.settings);
        all.extend(others.filter_map(|w| one(&w.settings, w.peak? as f64 + more.unwrap_or(0.0), error)));
    }
    all
}

impl Session<'_> {
    /// The model of memory, from all that was seen so far.
    pub fn memory(&self, context: &Context<'_>) -> MemoryModel {
        let known: Vec<&Known> = self.known_elsewhere().collect();
        let evidence = Evidence { seen: &self.seen, sweeps: &self.sweeps, known: &known };
        MemoryModel::new(&evidence, context, self.cap_bytes())
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
