//! Does a trial train like the baseline?
//!
//! With the same seed and the same data, step by step: losses, gradient norms before clipping (clipping hides a loss
//! that is several times too large) and as the optimizer takes them (a clipping that is silently off shows there at
//! once).  After these steps: how the parameters have changed, the buffers (the statistics of BatchNorm show nowhere
//! else), and an output in evaluation mode.
//!
//! Relative differences that are allowed ([`bands`]); those of steps grow, since every update carries the rounding of
//! those before it:
//!
//! | rounding of the settings | loss | gradient norms | update | buffers | output |
//! | --- | --- | --- | --- | --- | --- |
//! | none (exact knobs) | 1e-4 x (1 + step), at most 1e-2 | 1e-3 x (1 + step), at most 5e-2 | 0.5 | 1e-3 | 1e-2 |
//! | none, but the script itself computes in low precision | 1e-3 x .., 2e-2 | 1e-2 x .., 1e-1 | 0.75 | 1e-2 | 5e-2 |
//! | 11 bits (fp16, TF32) | 5e-3 x (1 + step/2), 5e-2 | 5e-2 x .., 2e-1 | shown | 2e-2 | 1e-1 |
//! | 8 bits (bf16) | 2e-2 x (1 + step/2), 1e-1 | 1e-1 x .., 4e-1 | shown | 5e-2 | 2e-1 |
//!
//! An update may be off by much although nothing is wrong: steps of Adam are as long where the gradient is nothing but
//! rounding (biases of attention's keys, of convolutions before BatchNorm).  It is off by 1 where the step is twice as long.
//!
//! Where settings draw other random numbers (class distribution), only means over the steps are compared (0.25 for the
//! loss, 0.5 for the norms); a launch with all draws switched off is then what tells.  Another effective batch is another
//! training run: not compared.
//!
//! Where the baseline was run twice, three times the difference of those two runs is added to the band.  If they differ
//! beyond rounding at step 0 already, the script does not depend on the seed alone: nothing can be told, and that is said.
//! A loss near zero is measured against a twentieth of the baseline's median loss instead of itself.

use crate::model::parity::{AfterSteps, Compared, Figure, Outcome, Quantity, Sketch};
use crate::model::{Observation, Purpose};

use super::bands::{Bands, Terms};
use super::stats::{mean, median};

/// What one run shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trace<'a> {
    /// Unscaled loss of each step.
    pub losses: &'a [f64],
    /// L2 norm of all gradients before clipping, of each step.
    pub grad_norms: &'a [f64],
    /// The same as the optimizer takes them.
    pub taken_norms: &'a [f64],
    /// After these steps.
    pub after: Option<&'a AfterSteps>,
}

impl<'a> Trace<'a> {
    /// That of a launch.
    pub fn of(o: &'a Observation) -> Self {
        Self {
            losses: &o.losses,
            grad_norms: &o.grad_norms,
            taken_norms: &o.taken_norms,
            after: o.after.as_ref(),
        }
    }

    fn series(&self) -> [(Quantity, &'a [f64]); 3] {
        [
            (Quantity::Loss, self.losses),
            (Quantity::GradNorm, self.grad_norms),
            (Quantity::TakenNorm, self.taken_norms),
        ]
    }
}

/// Whether a launch shows how the script trains by itself, with its own data in their order.
pub fn is_reference(o: &Observation) -> bool {
    o.settings.is_baseline()
        && matches!(o.purpose, Purpose::Baseline | Purpose::Repeat | Purpose::Climb | Purpose::Prune)
        && shows_something(o)
}

/// Whether a launch has a loss, or an output where nothing is trained, that others can be compared with.
pub fn shows_something(o: &Observation) -> bool {
    !o.losses.is_empty() || o.after.as_ref().is_some_and(|after| !after.outputs.is_empty())
}

/// The outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Parity {
    /// Every compared number lies within its band.
    Agrees,
    /// One does not.
    Diverged(Divergence),
    /// The script does not repeat itself; says where.
    Unknown(String),
    /// There was nothing to compare; says why.
    NotCompared(String),
}

/// The first number outside its band.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Of which step, from 0; the number of steps when it is about all of them.
    pub step: usize,
    /// Which number.
    pub what: Quantity,
    /// In the baseline.
    pub baseline: f64,
    /// In the trial.
    pub trial: f64,
    /// Relative difference that was allowed.
    pub band: f64,
    /// What the numbers are.
    pub kind: Kind,
}

/// What the two numbers of a divergence are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Those of one step.
    Step,
    /// Means over the steps.
    Means,
    /// Lengths of two vectors after the steps, which differ by this much.
    Vectors(f64),
}

impl std::fmt::Display for Divergence {
    /// `at step 3 the loss is 2.41, the baseline's is 0.602 (allowed: 0.04 %)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, what, baseline, trial, band, kind } = self;
        let percent = 100.0 * band;
        match kind {
            Kind::Step => {
                write!(f, "at step {step} the {what} is {trial:.6}, the baseline's is {baseline:.6}")?
            }
            Kind::Means => {
                write!(
                    f,
                    "over {step} steps the mean {what} is {trial:.6}, the baseline's is {baseline:.6}"
                )?;
            }
            Kind::Vectors(difference) => write!(
                f,
                "after {step} steps the {what} differs by {:.2} % from the baseline's (lengths {trial:.6} and \
                 {baseline:.6})",
                100.0 * difference
            )?,
        }
        write!(f, " (allowed: {percent:.2} %)")
    }
}

/// A comparison and its figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The judgement.
    pub parity: Parity,
    /// Largest difference of each quantity.
    pub figures: Vec<Figure>,
}

/// Compares a trial with the baseline.  `again` is a second run of the baseline, if there was one.
pub fn check(baseline: Trace, trial: Trace, terms: &Terms, again: Option<Trace>) -> Checked {
    let parity = |parity| Checked { parity, figures: Vec::new() };
    if let Some(failed) =
        baseline.losses.iter().zip(trial.losses).position(|(x, y)| x.is_finite() && !y.is_finite())
    {
        let (x, y) = (baseline.losses[failed], trial.losses[failed]);
        let what = Quantity::Loss;
        let gone = Divergence { step: failed, what, baseline: x, trial: y, band: 0.0, kind: Kind::Step };
        return parity(Parity::Diverged(gone));
    }
    if terms.other_batch {
        let why = "another effective batch size is another training run";
        return parity(Parity::NotCompared(why.to_owned()));
    }
    if let Some(why) = again.and_then(|again| unrepeatable(baseline, again, terms)) {
        return parity(Parity::Unknown(why));
    }
    let mut checked = if terms.other_draws { of_means(baseline, trial) } else { Tally::default() };
    if !terms.other_draws {
        let again = again.unwrap_or_default();
        for ((what, a), ((_, b), (_, c))) in
            baseline.series().into_iter().zip(trial.series().into_iter().zip(again.series()))
        {
            step_by_step(&mut checked, what, [a, b, c], terms);
        }
        afterwards(&mut checked, baseline.after, trial.after, again.after, &terms.bands());
    }
    checked.result()
}

/// Where two runs of the baseline differ before anything could have grown.
pub fn unrepeatable(baseline: Trace, again: Trace, terms: &Terms) -> Option<String> {
    let bands = terms.of_the_script();
    baseline.series().into_iter().zip(again.series()).find_map(|((what, a), (_, b))| {
        let (x, y) = (*a.first()?, *b.first()?);
        let differ = (y - x).abs() > bands.of(what, 0)? * x.abs().max(1e-12);
        differ.then(|| {
            format!(
                "the script does not repeat itself with the same seed: at step 0 of two runs of it as it is the {what} \
                 was {x:.6} and {y:.6}"
            )
        })
    })
}

/// What has been compared so far.
#[derive(Default)]
struct Tally {
    figures: Vec<Figure>,
    first: Option<Divergence>,
}

impl Tally {
    fn compared(&mut self, what: Quantity, difference: f64, band: Option<f64>) {
        let worse = |f: &Figure| difference / band.unwrap_or(1.0) > f.difference / f.band.unwrap_or(1.0);
        match self.figures.iter_mut().find(|f| f.what == what) {
            Some(f) if worse(f) => *f = Figure { what, difference, band },
            Some(_) => {}
            None => self.figures.push(Figure { what, difference, band }),
        }
    }

    /// The earliest one counts; of the same step the loss.
    fn failed(&mut self, divergence: Divergence) {
        if self.first.as_ref().is_none_or(|first| divergence.step < first.step) {
            self.first = Some(divergence);
        }
    }

    fn result(self) -> Checked {
        let parity = match self.first {
            Some(divergence) => Parity::Diverged(divergence),
            None if self.figures.is_empty() => {
                Parity::NotCompared("no step of both runs has a loss or a gradient norm".to_owned())
            }
            None => Parity::Agrees,
        };
        Checked { parity, figures: self.figures }
    }
}

fn step_by_step(tally: &mut Tally, what: Quantity, [a, b, again]: [&[f64]; 3], terms: &Terms) {
    let finite: Vec<f64> = a.iter().copied().filter(|x| x.is_finite()).map(f64::abs).collect();
    let floor = (0.05 * median(&finite).unwrap_or(0.0)).max(1e-12);
    let mut noise = 0.0_f64;
    let mut overflows = 0;
    for (step, (x, y)) in a.iter().zip(b).enumerate() {
        let scale = x.abs().max(floor);
        if let Some(z) = again.get(step).filter(|z| z.is_finite() && x.is_finite()) {
            noise = noise.max((z - x).abs() / scale);
        }
        let Some(allowed) = terms.bands().of(what, step).map(|band| band + 3.0 * noise) else { continue };
        let fail = Divergence { step, what, baseline: *x, trial: *y, band: allowed, kind: Kind::Step };
        match (x.is_finite(), y.is_finite()) {
            (true, true) => {
                let difference = (y - x).abs() / scale;
                tally.compared(what, difference, Some(allowed));
                if difference > allowed {
                    return tally.failed(fail);
                }
            }
            // A loss scaler overflows at its first steps and skips them; that is how fp16 training begins.
            (true, false) if what != Quantity::Loss && terms.may_overflow() => {
                overflows += 1;
                if overflows == a.len().min(b.len()) {
                    return tally.failed(fail);
                }
            }
            (true, false) => return tally.failed(fail),
            // The baseline itself has no number here.
            (false, _) => {}
        }
    }
}

fn of_means(baseline: Trace, trial: Trace) -> Tally {
    let mut tally = Tally::default();
    for ((what, a), (_, b)) in baseline.series().into_iter().zip(trial.series()) {
        let n = a.len().min(b.len());
        let kept = |v: &[f64]| v[..n].iter().copied().filter(|x| x.is_finite()).collect::<Vec<f64>>();
        let (Some(x), Some(y)) = (mean(&kept(a)), mean(&kept(b))) else { continue };
        let band = if what == Quantity::Loss { 0.25 } else { 0.5 };
        let difference = (y - x).abs() / x.abs().max(1e-12);
        tally.compared(what, difference, Some(band));
        if difference > band {
            tally.failed(Divergence { step: n, what, baseline: x, trial: y, band, kind: Kind::Means });
        }
    }
    tally
}

/// The model after the steps.
fn afterwards(
    tally: &mut Tally,
    a: Option<&AfterSteps>,
    b: Option<&AfterSteps>,
    again: Option<&AfterSteps>,
    bands: &Bands,
) {
    let (Some(a), Some(b)) = (a, b) else { return };
    if a.steps != b.steps {
        return;
    }
    let again = again.filter(|z| z.steps == a.steps);
    let mut vectors: Vec<(Quantity, [Option<Sketch>; 3])> = vec![
        (Quantity::Update, [Some(a), Some(b), again].map(|s| s.and_then(|s| of_update(&s.update)))),
        (Quantity::Buffers, [Some(a), Some(b), again].map(|s| s?.buffers.clone())),
    ];
    // Outputs for other samples are other outputs.
    let same = a.inputs.as_ref().zip(b.inputs.as_ref()).is_some_and(|(x, y)| distance(x, y) < 1e-5);
    for path in a.outputs.keys().filter(|_| same) {
        let of = |s: Option<&AfterSteps>| s?.outputs.get(path).cloned();
        vectors.push((Quantity::Output, [of(Some(a)), of(Some(b)), of(again)]));
    }
    for (what, [a_vector, b_vector, again]) in vectors {
        let (Some(x), Some(y)) = (a_vector, b_vector) else { continue };
        let noise = again.map_or(0.0, |z| distance(&x, &z));
        let difference = distance(&x, &y);
        if !difference.is_finite() || x.count != y.count {
            continue;
        }
        let band = bands.of(what, 0).map(|band| band + 3.0 * noise);
        tally.compared(what, difference, band);
        if let Some(band) = band.filter(|band| difference > *band) {
            let step = usize::try_from(a.steps).unwrap_or(usize::MAX);
            let kind = Kind::Vectors(difference);
            tally.failed(Divergence { step, what, baseline: x.norm, trial: y.norm, band, kind });
        }
    }
}

fn of_update(sums: &[f64]) -> Option<Sketch> {
    let norm = sums.iter().map(|s| s * s).sum::<f64>().sqrt();
    (!sums.is_empty()).then(|| Sketch { count: 0, norm, mean: 0.0, sketch: sums.to_vec() })
}

/// Length of the difference over the first one's length, as far as sketches tell.
fn distance(a: &Sketch, b: &Sketch) -> f64 {
    let squares = a.sketch.iter().zip(&b.sketch).map(|(x, y)| (x - y) * (x - y));
    squares.sum::<f64>().sqrt() / a.norm.max(1e-12)
}

impl Checked {
    /// For the observation.
    pub fn told(&self) -> Compared {
        let (outcome, sentence) = match &self.parity {
            Parity::Agrees => (Outcome::Agrees, agreement(&self.figures)),
            Parity::Diverged(d) => (Outcome::Diverged, d.to_string()),
            Parity::Unknown(why) => (Outcome::Unknown, format!("unknown: {why}")),
            Parity::NotCompared(why) => (Outcome::NotCompared, format!("not compared: {why}")),
        };
        Compared { outcome, sentence, figures: self.figures.clone() }
    }
}

/// `loss 1.2e-6 (allowed 4.0e-4), gradient norm before clipping 3.0e-6 (4.0e-3)`.
fn agreement(figures: &[Figure]) -> String {
    let of = |f: &Figure| {
        let band = f.band.map_or("not judged".to_owned(), |b| format!("allowed {b:.1e}"));
        format!("{} {:.1e} ({band})", f.what, f.difference)
    };
    format!("largest relative differences: {}", figures.iter().map(of).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
#[path = "parity_tests.rs"]
mod tests;
