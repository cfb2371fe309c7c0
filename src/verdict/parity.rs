//! Does a trial train like the baseline?
//!
//! Compared are the losses and the gradient norms before clipping (clipping hides a loss that is several times too
//! large) of the first steps, with the same seed and the same data.  The bands below hold at the first step and grow
//! with each further one, since every update carries the rounding of those before it.
//!
//! | class of the settings | loss, relative | gradient norm, relative | at most |
//! | --- | --- | --- | --- |
//! | exact | 1e-4 x (1 + step) | 1e-3 x (1 + step) | 1e-2, 5e-2 |
//! | precision (bf16 has 8 bits of mantissa, fp16 11, TF32 11) | 2e-2 x (1 + step/2) | 1e-1 x (1 + step/2) | 1e-1, 4e-1 |
//! | distribution (other random draws) | 0.25, means over all steps | 0.5, means over all steps | |
//! | dynamics (another training run) | not compared | not compared | |
//!
//! Where the baseline was run twice, three times the difference of those two runs is added to the band: a script that
//! does not repeat itself cannot be asked to repeat the baseline.  A loss near zero is measured against a twentieth of
//! the baseline's median loss instead of itself.

use crate::model::NumericsClass;

use super::stats::{mean, median};

/// First steps of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trace<'a> {
    /// Unscaled loss of each step.
    pub losses: &'a [f64],
    /// L2 norm of all gradients before clipping, of each step.
    pub grad_norms: &'a [f64],
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// The loss.
    Loss,
    /// The gradient norm before clipping.
    GradNorm,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::GradNorm => "gradient norm before clipping",
        })
    }
}

/// The outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Parity {
    /// Every compared number lies within its band.
    Agrees {
        /// Numbers compared.
        compared: u32,
        /// Largest relative difference among them.
        worst: f64,
    },
    /// One does not.
    Diverged(Divergence),
    /// There was nothing to compare; says why.
    NotCompared(String),
}

/// The first number outside its band.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Of which step, from 0; the number of steps when means are compared.
    pub step: usize,
    /// Which number.
    pub what: Quantity,
    /// In the baseline.
    pub baseline: f64,
    /// In the trial.
    pub trial: f64,
    /// Relative difference that was allowed.
    pub band: f64,
    /// Whether the numbers are means over the steps.
    pub means: bool,
}

impl std::fmt::Display for Divergence {
    /// `at step 3 the loss is 2.41, the baseline's is 0.602 (allowed: 0.04 %)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, what, baseline, trial, band, means } = self;
        let when = if *means { format!("over {step} steps") } else { format!("at step {step}") };
        let mean = if *means { "mean " } else { "" };
        let percent = 100.0 * band;
        write!(
            f,
            "{when} the {mean}{what} is {trial:.6}, the baseline's is {baseline:.6} (allowed: {percent:.2} %)"
        )
    }
}

/// Compares a trial with the baseline.  `class` is the loosest class among the trial's settings; `again` is a second
/// run of the baseline, if there was one.
pub fn check(baseline: Trace, trial: Trace, class: NumericsClass, again: Option<Trace>) -> Parity {
    let again = again.unwrap_or_default();
    let mut compared = 0;
    let mut worst = 0.0_f64;
    for (what, a, b, c) in [
        (Quantity::Loss, baseline.losses, trial.losses, again.losses),
        (Quantity::GradNorm, baseline.grad_norms, trial.grad_norms, again.grad_norms),
    ] {
        let one = match class {
            NumericsClass::Dynamics => finite_like(what, a, b),
            NumericsClass::Distribution => means(what, a, b),
            NumericsClass::Exact | NumericsClass::Precision => step_by_step(what, a, b, c, class),
        };
        match one {
            Ok((n, difference)) => {
                compared += n;
                worst = worst.max(difference);
            }
            Err(divergence) => return Parity::Diverged(divergence),
        }
    }
    if class == NumericsClass::Dynamics {
        return Parity::NotCompared("another effective batch size is another training run".to_owned());
    }
    match compared {
        0 => Parity::NotCompared("no step of both runs has a loss or a gradient norm".to_owned()),
        _ => Parity::Agrees { compared, worst },
    }
}

/// The band at a step.
fn band(what: Quantity, class: NumericsClass, step: usize) -> f64 {
    let step = step as f64;
    match (class, what) {
        (NumericsClass::Exact, Quantity::Loss) => (1e-4 * (1.0 + step)).min(1e-2),
        (NumericsClass::Exact, Quantity::GradNorm) => (1e-3 * (1.0 + step)).min(5e-2),
        (_, Quantity::Loss) => (2e-2 * (1.0 + step / 2.0)).min(1e-1),
        (_, Quantity::GradNorm) => (1e-1 * (1.0 + step / 2.0)).min(4e-1),
    }
}

type Compared = Result<(u32, f64), Divergence>;

fn step_by_step(what: Quantity, a: &[f64], b: &[f64], again: &[f64], class: NumericsClass) -> Compared {
    let finite: Vec<f64> = a.iter().copied().filter(|x| x.is_finite()).map(f64::abs).collect();
    let floor = (0.05 * median(&finite).unwrap_or(0.0)).max(1e-12);
    let (mut compared, mut worst, mut noise) = (0, 0.0_f64, 0.0_f64);
    let mut overflows = 0;
    for (step, (x, y)) in a.iter().zip(b).enumerate() {
        let scale = x.abs().max(floor);
        if let Some(z) = again.get(step).filter(|z| z.is_finite() && x.is_finite()) {
            noise = noise.max((z - x).abs() / scale);
        }
        let allowed = band(what, class, step) + 3.0 * noise;
        let fail = Divergence { step, what, baseline: *x, trial: *y, band: allowed, means: false };
        match (x.is_finite(), y.is_finite()) {
            (true, true) => {
                let difference = (y - x).abs() / scale;
                if difference > allowed {
                    return Err(fail);
                }
                compared += 1;
                worst = worst.max(difference);
            }
            // A loss scaler overflows at its first steps and skips them; that is how fp16 training begins.
            (true, false) if what == Quantity::GradNorm && class == NumericsClass::Precision => {
                overflows += 1;
                if overflows == a.len().min(b.len()) {
                    return Err(fail);
                }
            }
            (true, false) => return Err(fail),
            // The baseline itself has no number here.
            (false, _) => {}
        }
    }
    Ok((compared, worst))
}

fn means(what: Quantity, a: &[f64], b: &[f64]) -> Compared {
    let n = a.len().min(b.len());
    finite_like(what, a, b)?;
    let kept = |v: &[f64]| v[..n].iter().copied().filter(|x| x.is_finite()).collect::<Vec<f64>>();
    let (Some(x), Some(y)) = (mean(&kept(a)), mean(&kept(b))) else { return Ok((0, 0.0)) };
    let band = if what == Quantity::Loss { 0.25 } else { 0.5 };
    let difference = (y - x).abs() / x.abs().max(1e-12);
    if difference > band {
        return Err(Divergence { step: n, what, baseline: x, trial: y, band, means: true });
    }
    Ok((n as u32, difference))
}

/// A number where the baseline has one; its size is not compared.
fn finite_like(what: Quantity, a: &[f64], b: &[f64]) -> Compared {
    for (step, (x, y)) in a.iter().zip(b).enumerate() {
        if x.is_finite() && !y.is_finite() && what == Quantity::Loss {
            let band = f64::INFINITY;
            return Err(Divergence { step, what, baseline: *x, trial: *y, band, means: false });
        }
    }
    Ok((0, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use NumericsClass::{Distribution, Dynamics, Exact, Precision};

    const LOSSES: [f64; 4] = [2.3, 2.1, 1.9, 1.8];
    const NORMS: [f64; 4] = [4.0, 3.5, 3.1, 3.0];

    fn scaled(values: &[f64], by: f64) -> Vec<f64> {
        values.iter().map(|v| v * by).collect()
    }

    fn run(losses: &[f64], norms: &[f64], class: NumericsClass) -> Parity {
        let baseline = Trace { losses: &LOSSES, grad_norms: &NORMS };
        check(baseline, Trace { losses, grad_norms: norms }, class, None)
    }

    fn diverges(losses: &[f64], norms: &[f64], class: NumericsClass) -> bool {
        matches!(run(losses, norms, class), Parity::Diverged(_))
    }

    #[test]
    fn rounding_is_no_divergence_of_an_exact_knob() {
        let p = run(&scaled(&LOSSES, 1.00005), &scaled(&NORMS, 0.9995), Exact);
        assert!(matches!(p, Parity::Agrees { compared: 8, .. }), "{p:?}");
    }

    #[test]
    fn what_bf16_may_do_an_exact_knob_may_not() {
        assert!(diverges(&scaled(&LOSSES, 1.01), &NORMS, Exact));
        assert!(!diverges(&scaled(&LOSSES, 1.01), &scaled(&NORMS, 1.05), Precision));
        assert!(diverges(&scaled(&LOSSES, 1.2), &NORMS, Precision));
    }

    #[test]
    fn gradients_four_times_too_large_are_seen_where_the_loss_is_right() {
        let Parity::Diverged(d) = run(&LOSSES, &scaled(&NORMS, 4.0), Precision) else { panic!() };
        assert_eq!((d.step, d.what, d.baseline, d.trial), (0, Quantity::GradNorm, 4.0, 16.0));
        assert_eq!(
            d.to_string(),
            "at step 0 the gradient norm before clipping is 16.000000, the baseline's is 4.000000 (allowed: 10.00 %)"
        );
    }

    #[test]
    fn the_band_grows_with_the_steps() {
        assert!(diverges(&[2.3 * 1.0003, 2.1, 1.9, 1.8], &[], Exact));
        assert!(!diverges(&[2.3, 2.1, 1.9, 1.8 * 1.0003], &[], Exact));
    }

    #[test]
    fn a_script_that_does_not_repeat_itself_widens_the_band() {
        let (noisy, again) = (scaled(&LOSSES, 1.002), scaled(&LOSSES, 0.999));
        let of = |losses| Trace { losses, grad_norms: &[] };
        let p = check(of(&LOSSES), of(&noisy), Exact, Some(of(&again)));
        assert!(matches!(p, Parity::Agrees { .. }), "{p:?}");
    }

    #[test]
    fn nan_is_divergence_unless_the_baseline_has_it_too() {
        let nan = f64::NAN;
        assert!(diverges(&[2.3, nan, 1.9, 1.8], &NORMS, Exact));
        assert!(diverges(&[2.3, nan, 1.9, 1.8], &NORMS, Dynamics));
        let baseline = Trace { losses: &[2.3, nan], grad_norms: &[] };
        let p = check(baseline, Trace { losses: &[2.3, nan], grad_norms: &[] }, Exact, None);
        assert!(matches!(p, Parity::Agrees { compared: 1, .. }));
    }

    #[test]
    fn an_fp16_scaler_may_overflow_at_first_but_not_for_ever() {
        let inf = f64::INFINITY;
        assert!(!diverges(&LOSSES, &[inf, inf, 3.1, 3.0], Precision));
        assert!(diverges(&LOSSES, &[inf; 4], Precision));
        assert!(diverges(&LOSSES, &[inf, 3.5, 3.1, 3.0], Exact));
    }

    #[test]
    fn a_loss_near_zero_is_measured_against_the_typical_loss() {
        let baseline = Trace { losses: &[1.0, 1.0, 1e-9, 1.0], grad_norms: &[] };
        let p = check(baseline, Trace { losses: &[1.0, 1.0, 2e-9, 1.0], grad_norms: &[] }, Exact, None);
        assert!(matches!(p, Parity::Agrees { .. }));
    }

    #[test]
    fn other_random_draws_are_compared_by_their_means() {
        assert!(!diverges(&[2.1, 2.3, 1.7, 2.0], &NORMS, Distribution));
        assert!(diverges(&scaled(&LOSSES, 4.0), &NORMS, Distribution));
    }

    #[test]
    fn nothing_to_compare_is_said() {
        assert!(matches!(run(&[], &[], Exact), Parity::NotCompared(_)));
        assert!(matches!(run(&scaled(&LOSSES, 0.5), &NORMS, Dynamics), Parity::NotCompared(_)));
    }
}
