//! How fast a configuration is expected to be, from what was measured.
//!
//! The logarithm of the rate is a level + the effects of the knobs + what pairs of effects make together + noise of the
//! launch; all are normal, so what is expected after the measurements is a linear regression (solved through the
//! covariances of the measurements, of which there are a few dozen).  A launch measures one such logarithm, a window of
//! a sweep the difference of two, without the noise between launches.

use super::launches::{Evidence, noise, timings, within};
use super::linear::{cholesky, solve_lower, solve_upper};
use super::memory::{below, density};
use super::priors::{Context, Effect};
use super::replay::Session;
use crate::model::Configuration;
use crate::model::observation::Ratio;

/// Effects do not add up exactly: standard deviation of what two of them make together, at most ...
const TOGETHER: f64 = 0.03;
/// ... and as a part of what is not known of the smaller one: what hardly matters hardly changes anything else.
const TOGETHER_PART: f64 = 0.3;
/// Standard deviation of the level: unknown.
const LEVEL: f64 = 3.0;
/// Standard deviation of what a window differs by from a process of its own: caches and memory that the window before
/// it has left behind.
const WINDOW: f64 = 0.015;

/// What is expected of a configuration: logarithm of its rate; or of a ratio of two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    pub mean: f64,
    pub sd: f64,
}

/// The regression.
pub(super) struct SpeedModel<'a> {
    context: &'a Context<'a>,
    measured: Vec<Sum>,
    launches: usize,
    level: f64,
    /// Lower Cholesky factor of the measurements' covariance.
    factor: Vec<Vec<f64>>,
    /// Covariance^-1 x (measured - expected).
    weights: Vec<f64>,
}

impl<'a> SpeedModel<'a> {
    /// From all timed launches of `fitting`, and from sweeps; `usual_noise` is the relative standard deviation between
    /// launches that is assumed before any repeat was seen.
    pub fn new(
        evidence: &Evidence<'_>,
        fitting: &[Configuration],
        usual_noise: f64,
        context: &'a Context<'a>,
    ) -> Self {
        let sigma = noise(evidence.seen, usual_noise);
        let one = |c: &Configuration| Term { effects: context.effects(c) };
        let (mut measured, mut values, mut variances) = (Vec::new(), Vec::new(), Vec::new());
        for settings in fitting {
            for t in timings(evidence.seen, settings) {
                measured.push(Sum(vec![(1.0, one(settings))]));
                values.push(t.samples_per_second.ln());
                variances.push(sigma * sigma + within(t));
            }
        }
        let launches = measured.len();
        for sweep in evidence.sweeps {
            let others = sweep.windows.iter().filter(|w| w.settings != sweep.settings);
            for (window, ratio) in others.filter_map(|w| Some((w, w.ratio?))) {
                measured.push(Sum(vec![(1.0, one(&window.settings)), (-1.0, one(&sweep.settings))]));
                values.push(ratio.ratio.ln());
                variances.push(spread(&ratio).powi(2) + WINDOW * WINDOW);
            }
        }
        for k in evidence.known {
            measured.push(Sum(vec![(1.0, one(&k.settings)), (-1.0, one(&k.beside))]));
            values.push(k.ratio);
            variances.push(k.sd * k.sd);
        }
        let expected: Vec<f64> = measured.iter().map(Sum::expected).collect();
        let level = match launches {
            0 => 0.0,
            n => values.iter().zip(&expected).take(n).map(|(v, e)| v - e).sum::<f64>() / n as f64,
        };
        let n = measured.len();
        let mut matrix = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in 0..=i {
                matrix[i][j] = measured[i].covariance(&measured[j]);
            }
            matrix[i][i] += variances[i];
        }
        let factor = cholesky(matrix);
        let residual: Vec<f64> =
            (0..n).map(|i| values[i] - expected[i] - if i < launches { level } else { 0.0 }).collect();
        let weights = solve_upper(&factor, &solve_lower(&factor, &residual));
        Self { context, measured, launches, level, factor, weights }
    }

    /// Whether any launch was timed: the level is a guess otherwise.
    pub fn knows_a_rate(&self) -> bool {
        self.launches > 0
    }

    /// What is expected of `settings`.
    pub fn belief(&self, settings: &Configuration) -> Belief {
        let expected = self.of(&Sum(vec![(1.0, self.term(settings))]));
        Belief { mean: self.level + expected.mean, ..expected }
    }

    /// What is expected of the ratio of two rates: what both share is as uncertain, and cancels.
    pub fn ratio(&self, a: &Configuration, b: &Configuration) -> Belief {
        self.of(&Sum(vec![(1.0, self.term(a)), (-1.0, self.term(b))]))
    }

    fn term(&self, settings: &Configuration) -> Term {
        Term { effects: self.context.effects(settings) }
    }

    fn of(&self, sum: &Sum) -> Belief {
        let cross: Vec<f64> = self.measured.iter().map(|m| sum.covariance(m)).collect();
        let mean = sum.expected() + cross.iter().zip(&self.weights).map(|(c, w)| c * w).sum::<f64>();
        let solved = solve_lower(&self.factor, &cross);
        let variance = sum.covariance(sum) - solved.iter().map(|s| s * s).sum::<f64>();
        Belief { mean, sd: variance.max(1e-10).sqrt() }
    }
}

impl Session<'_> {
    /// The regression over all that was seen so far; `fitting` are the configurations whose launches count.
    pub fn speed<'c>(&self, context: &'c Context<'c>, fitting: &[Configuration]) -> SpeedModel<'c> {
        let evidence = Evidence { seen: &self.seen, sweeps: &self.sweeps, known: &self.known };
        SpeedModel::new(&evidence, fitting, self.plan.noise, context)
    }
}

/// Standard deviation of the logarithm, from the interval of 95 %.
fn spread(ratio: &Ratio) -> f64 {
    let (low, high) = ratio.interval;
    let half = (high / low).ln() / 2.0;
    // A wild interval is still one; none at all says nothing.
    if half.is_finite() { (half / 1.96).clamp(0.0, 0.5) } else { 0.5 }
}

impl Belief {
    /// Of a ratio: the improvement to be expected, as a share of the rate (nothing where it is below 1).
    pub fn improvement(self) -> f64 {
        let z = self.mean / self.sd;
        self.sd * (z * below(z) + density(z))
    }

    /// Probability, of a ratio, that its logarithm lies above `bar`.
    pub fn above(self, bar: f64) -> f64 {
        below((self.mean - bar) / self.sd)
    }
}

/// The logarithm of one configuration's rate.
struct Term {
    effects: Vec<Effect>,
}

/// A sum of such logarithms, each with its sign.
struct Sum(Vec<(f64, Term)>);

impl Sum {
    /// What the priors say, without the level.
    fn expected(&self) -> f64 {
        self.0.iter().map(|(sign, t)| sign * t.effects.iter().map(|e| e.mean).sum::<f64>()).sum()
    }

    fn covariance(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a, b)));
        pairs.map(|((p, a), (q, b))| p * q * a.covariance(b)).sum()
    }
}

impl Term {
    fn covariance(&self, other: &Self) -> f64 {
        let same = |e: &&Effect| other.effects.iter().any(|o| o.key == e.key);
        let shared: Vec<f64> = self.effects.iter().filter(same).map(|e| e.sd).collect();
        let mut all = LEVEL * LEVEL;
        for (i, a) in shared.iter().enumerate() {
            let pairs = shared[..i].iter().map(|b| (TOGETHER_PART * a.min(*b)).min(TOGETHER).powi(2));
            all += a * a + pairs.sum::<f64>();
        }
        all
    }
}
