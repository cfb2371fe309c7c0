//! Peak = fixed x factor + transient x exp(effects of the knobs), fitted to what was measured.
//!
//! What does not grow with a step, what a step of the script as it is adds to it, and what each knob makes of that are
//! all uncertain beforehand ([`super::priors`]); the fit explains what was measured at the least distance from those
//! expectations (Gauss-Newton, damped).  How far it can be trusted follows from the curvature there: a knob that was
//! measured with one batch is known with another, and one that was never measured is as uncertain as its prior.  The
//! factor is 1 but where a model is in parts: it follows from arithmetic ([`Context::fixed`]).

use super::linear::{cholesky, solve_lower, solve_upper};
use super::priors::{Context, Effect};
use crate::model::Configuration;
use crate::model::plan::Device;

/// Standard deviation of the logarithms of what is fixed and of what a step adds, before anything was measured.
const FIXED: f64 = 0.6;
const TRANSIENT: f64 = 1.2;
/// What did not fit needs at least the cap; how far below it the fit may lie, share of the cap.
const SHORT_OF_CAP: f64 = 0.05;
/// Steps of the fit, at most; a handful is enough.
const STEPS: usize = 60;

/// A measured peak.
#[derive(Debug, Clone)]
pub(super) struct Peak {
    pub settings: Configuration,
    /// Share of the cap.
    pub share: f64,
    /// Relative standard deviation.
    pub error: f64,
}

/// What is expected of a peak, share of the cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ExpectedPeak {
    pub mean: f64,
    pub sd: f64,
}

/// Relative standard deviation of the peaks of equal launches.
pub(super) fn spread(device: Device) -> f64 {
    match device {
        // Which thread frees first decides where the heap has holes.
        Device::Cpu => 0.015,
        Device::Cuda => 0.005,
    }
}

/// The fit.
pub(super) struct Footprint {
    /// Keys of the effects that were met, after the two logarithms.
    keys: Vec<String>,
    /// Logarithms: fixed, transient, effects.
    at: Vec<f64>,
    /// Lower Cholesky factor of the curvature.
    factor: Vec<Vec<f64>>,
    /// What is left over for settings that were measured themselves.
    measured: Vec<(Configuration, f64)>,
    /// Of a launch.
    spread: f64,
}

/// All that is to be explained.
struct Facts<'a> {
    rows: Vec<(Terms, &'a Peak)>,
    too_large: Vec<Terms>,
    prior: Vec<(f64, f64)>,
}

/// What settings do to a peak.
struct Terms {
    /// Factor on what is fixed.
    fixed: f64,
    /// Effects on what a step adds: places of their keys.
    effects: Vec<usize>,
}

impl Footprint {
    /// `expected_fixed` as a share of the cap; `None` where nothing was measured.
    pub fn fit(
        peaks: &[Peak],
        too_large: &[Configuration],
        context: &Context<'_>,
        expected_fixed: f64,
    ) -> Option<Self> {
        if peaks.is_empty() {
            return None;
        }
        let mut keys: Vec<String> = Vec::new();
        let mut prior = vec![(expected_fixed.ln(), FIXED), (0.0, TRANSIENT)];
        let mut terms = |settings: &Configuration| -> Terms {
            let place = |e: Effect| {
                let known = keys.iter().position(|k| *k == e.key);
                2 + known.unwrap_or_else(|| {
                    keys.push(e.key);
                    prior.push((e.mean, e.sd));
                    keys.len() - 1
                })
            };
            let effects = context.footprint(settings).into_iter().map(place).collect();
            Terms { fixed: context.fixed(settings), effects }
        };
        let rows = peaks.iter().map(|p| (terms(&p.settings), p)).collect();
        let too_large = too_large.iter().map(&mut terms).collect();
        let facts = Facts { rows, too_large, prior };
        let (at, factor) = facts.solve();
        let mut fit = Self { keys, at, factor, measured: Vec::new(), spread: spread(context.device) };
        fit.measured = fit.left_over(peaks, context);
        Some(fit)
    }

    /// Of each configuration the mean of what was measured over what the fit says of it.
    fn left_over(&self, peaks: &[Peak], context: &Context<'_>) -> Vec<(Configuration, f64)> {
        let mut all: Vec<(Configuration, f64)> = Vec::new();
        for p in peaks.iter().filter(|p| p.error <= self.spread) {
            if all.iter().any(|(c, _)| *c == p.settings) {
                continue;
            }
            let same = peaks.iter().filter(|q| q.settings == p.settings && q.error <= self.spread);
            let shares: Vec<f64> = same.map(|q| q.share).collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            all.push((p.settings.clone(), mean - self.predict(&p.settings, context).mean));
        }
        all
    }

    /// Share of the cap that no step adds to, of the script as it is.
    pub fn fixed(&self) -> f64 {
        self.at[0].exp()
    }

    /// What is expected of a launch of `settings`.
    pub fn predict(&self, settings: &Configuration, context: &Context<'_>) -> ExpectedPeak {
        let (mut exponent, mut unknown) = (0.0, 0.0);
        let mut slope = vec![0.0; self.at.len()];
        let effects = context.footprint(settings);
        let known: Vec<Option<usize>> =
            effects.iter().map(|e| self.keys.iter().position(|k| *k == e.key)).collect();
        for (effect, place) in effects.iter().zip(&known) {
            exponent += place.map_or(effect.mean, |k| self.at[2 + k]);
            unknown += if place.is_none() { effect.sd * effect.sd } else { 0.0 };
        }
        let fixed = self.at[0].exp() * context.fixed(settings);
        let grown = (self.at[1] + exponent).exp();
        (slope[0], slope[1]) = (fixed, grown);
        known.iter().flatten().for_each(|k| slope[2 + k] = grown);
        let solved = solve_lower(&self.factor, &slope);
        let itself = self.measured.iter().find(|(c, _)| c == settings).map(|(_, off)| *off);
        let mean = (fixed + grown + itself.unwrap_or(0.0)).max(0.0);
        let of_fit = match itself {
            Some(_) => 0.0,
            None => solved.iter().map(|s| s * s).sum::<f64>() + unknown * grown * grown,
        };
        ExpectedPeak { mean, sd: (of_fit + (self.spread * mean).powi(2)).sqrt() }
    }
}

impl Facts<'_> {
    /// Where the distance is least, and the factor of the curvature there.
    fn solve(&self) -> (Vec<f64>, Vec<Vec<f64>>) {
        let mut at: Vec<f64> = self.prior.iter().map(|p| p.0).collect();
        let mut damping = 1e-3;
        let (mut cost, mut slope, mut curvature) = self.around(&at);
        for _ in 0..STEPS {
            let mut damped = curvature.clone();
            (0..at.len()).for_each(|i| damped[i][i] *= 1.0 + damping);
            let factor = cholesky(damped);
            let step = solve_upper(&factor, &solve_lower(&factor, &slope));
            // Logarithms: a factor of twenty at once would overshoot by far.
            let next: Vec<f64> = at.iter().zip(&step).map(|(a, s)| a - s.clamp(-3.0, 3.0)).collect();
            let there = self.around(&next);
            if there.0 <= cost {
                let gained = cost - there.0;
                at = next;
                (cost, slope, curvature) = there;
                damping = (damping / 4.0).max(1e-9);
                if gained < 1e-9 {
                    break;
                }
            } else {
                damping *= 8.0;
            }
        }
        (at, cholesky(curvature))
    }

    /// Half the squared distance, its slope, and its curvature (without second derivatives of the peak).
    fn around(&self, at: &[f64]) -> (f64, Vec<f64>, Vec<Vec<f64>>) {
        let n = at.len();
        let (mut cost, mut slope, mut curvature) = (0.0, vec![0.0; n], vec![vec![0.0; n]; n]);
        for (i, (mean, sd)) in self.prior.iter().enumerate() {
            let z = (at[i] - mean) / sd;
            cost += 0.5 * z * z;
            slope[i] += z / sd;
            curvature[i][i] += 1.0 / (sd * sd);
        }
        let mut add = |Terms { fixed, effects }: &Terms, wanted: f64, error: f64, least: bool| {
            let fixed = at[0].exp() * fixed;
            let grown = (at[1] + effects.iter().map(|k| at[*k]).sum::<f64>()).exp();
            let off = fixed + grown - wanted;
            if least && off >= 0.0 {
                return;
            }
            let mut row = vec![(0, fixed / error), (1, grown / error)];
            row.extend(effects.iter().map(|k| (*k, grown / error)));
            cost += 0.5 * (off / error).powi(2);
            for (i, a) in &row {
                slope[*i] += a * off / error;
                row.iter().for_each(|(j, b)| curvature[*i][*j] += a * b);
            }
        };
        for (terms, peak) in &self.rows {
            add(terms, peak.share, peak.error * peak.share, false);
        }
        for terms in &self.too_large {
            add(terms, 1.0, SHORT_OF_CAP, true);
        }
        (cost, slope, curvature)
    }
}
