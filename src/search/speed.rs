//! How fast a configuration is expected to be, from what was measured.
//!
//! The logarithm of the rate is a level + the effects of the knobs + a deviation of the configuration's own + noise of
//! the launch; all are normal, so what is expected after the measurements is a linear regression (solved through the
//! covariances of the launches, of which there are a few dozen).

use super::launches::{noise, timings, within};
use super::memory::{below, density};
use super::priors::{Context, Effect};
use crate::model::{Configuration, Observation};

/// Knobs do not add up exactly: standard deviation of a configuration's own deviation.
const OWN: f64 = 0.03;
/// Standard deviation of the level: unknown.
const LEVEL: f64 = 3.0;

/// What is expected of a configuration: logarithm of its rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    pub mean: f64,
    pub sd: f64,
}

/// The regression.
pub(super) struct SpeedModel<'a> {
    context: &'a Context<'a>,
    launched: Vec<(Configuration, Vec<Effect>)>,
    level: f64,
    /// Lower Cholesky factor of the launches' covariance.
    factor: Vec<Vec<f64>>,
    /// Covariance^-1 x (measured - expected).
    weights: Vec<f64>,
}

impl<'a> SpeedModel<'a> {
    /// From all timed launches of `fitting` configurations.
    pub fn new(
        seen: &[&Observation],
        fitting: &[Configuration],
        context: &'a Context<'a>,
        assumed_noise: f64,
    ) -> Self {
        let sigma = noise(seen, assumed_noise);
        let mut launched = Vec::new();
        let (mut values, mut variances) = (Vec::new(), Vec::new());
        for settings in fitting {
            for t in timings(seen, settings) {
                launched.push((settings.clone(), context.effects(settings)));
                values.push(t.samples_per_second.ln());
                variances.push(sigma * sigma + within(t));
            }
        }
        let expected: Vec<f64> = launched.iter().map(|(_, e)| e.iter().map(|e| e.mean).sum()).collect();
        let level = match values.len() {
            0 => 0.0,
            n => values.iter().zip(&expected).map(|(v, e)| v - e).sum::<f64>() / n as f64,
        };
        let n = launched.len();
        let mut matrix = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in 0..=i {
                matrix[i][j] = covariance(&launched[i], &launched[j]);
            }
            matrix[i][i] += variances[i];
        }
        let factor = cholesky(matrix);
        let residual: Vec<f64> = values.iter().zip(&expected).map(|(v, e)| v - e - level).collect();
        let weights = solve_upper(&factor, &solve_lower(&factor, &residual));
        Self { context, launched, level, factor, weights }
    }

    /// Whether any launch was timed: the level is a guess otherwise.
    pub fn knows_a_rate(&self) -> bool {
        !self.launched.is_empty()
    }

    /// What is expected of `settings`.
    pub fn belief(&self, settings: &Configuration) -> Belief {
        let one = (settings.clone(), self.context.effects(settings));
        let cross: Vec<f64> = self.launched.iter().map(|l| covariance(&one, l)).collect();
        let expected: f64 = self.level + one.1.iter().map(|e| e.mean).sum::<f64>();
        let mean = expected + cross.iter().zip(&self.weights).map(|(c, w)| c * w).sum::<f64>();
        let solved = solve_lower(&self.factor, &cross);
        let variance = covariance(&one, &one) - solved.iter().map(|s| s * s).sum::<f64>();
        Belief { mean, sd: variance.max(1e-10).sqrt() }
    }
}

impl Belief {
    /// Expected improvement over `best`, as a share of the rate.
    pub fn improvement(self, best: f64) -> f64 {
        let z = (self.mean - best) / self.sd;
        self.sd * (z * below(z) + density(z))
    }

    /// Probability to be faster than `other`, taken as independent.
    pub fn beats(self, other: Belief) -> f64 {
        below((self.mean - other.mean) / self.sd.hypot(other.sd))
    }
}

type Launched = (Configuration, Vec<Effect>);

fn covariance(a: &Launched, b: &Launched) -> f64 {
    let shared: f64 =
        a.1.iter().filter_map(|x| b.1.iter().find(|y| y.key == x.key)).map(|e| e.sd * e.sd).sum();
    let own = if a.0 == b.0 { OWN * OWN } else { 0.0 };
    LEVEL * LEVEL + shared + own
}

fn cholesky(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for i in 0..a.len() {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - dot;
            a[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / a[j][j] };
        }
    }
    a
}

fn solve_lower(l: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut x = Vec::with_capacity(b.len());
    for (i, value) in b.iter().enumerate() {
        let dot: f64 = x.iter().enumerate().map(|(k, xk): (usize, &f64)| l[i][k] * xk).sum();
        x.push((value - dot) / l[i][i]);
    }
    x
}

/// Solves with the transpose.
fn solve_upper(l: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k][i] * x[k]).sum();
        x[i] = (b[i] - dot) / l[i][i];
    }
    x
}
