use super::super::bands::Rounding;
use super::*;

const LOSSES: [f64; 4] = [2.3, 2.1, 1.9, 1.8];
const NORMS: [f64; 4] = [4.0, 3.5, 3.1, 3.0];

const EXACT: Terms =
    Terms { rounding: Rounding::Order, coarse_script: false, other_draws: false, other_batch: false };
const BF16: Terms = Terms { rounding: Rounding::Eight, ..EXACT };
const DRAWS: Terms = Terms { other_draws: true, ..EXACT };
const BATCH: Terms = Terms { other_batch: true, ..EXACT };

fn scaled(values: &[f64], by: f64) -> Vec<f64> {
    values.iter().map(|v| v * by).collect()
}

fn of<'a>(losses: &'a [f64], grad_norms: &'a [f64]) -> Trace<'a> {
    Trace { losses, grad_norms, ..Trace::default() }
}

fn run(losses: &[f64], norms: &[f64], terms: Terms) -> Parity {
    check(of(&LOSSES, &NORMS), of(losses, norms), &terms, None).parity
}

fn diverges(losses: &[f64], norms: &[f64], terms: Terms) -> bool {
    matches!(run(losses, norms, terms), Parity::Diverged(_))
}

#[test]
fn rounding_is_no_divergence_of_an_exact_knob() {
    let checked =
        check(of(&LOSSES, &NORMS), of(&scaled(&LOSSES, 1.00005), &scaled(&NORMS, 0.9995)), &EXACT, None);
    assert_eq!(checked.parity, Parity::Agrees);
    assert_eq!(
        checked.told().sentence,
        "largest relative differences: loss 5.0e-5 (allowed 1.0e-4), gradient norm before clipping 5.0e-4 (allowed \
         1.0e-3)"
    );
}

#[test]
fn what_bf16_may_do_an_exact_knob_may_not_nor_may_fp16() {
    let fp16 = Terms { rounding: Rounding::Eleven, ..EXACT };
    assert!(diverges(&scaled(&LOSSES, 1.01), &NORMS, EXACT));
    assert!(diverges(&scaled(&LOSSES, 1.01), &NORMS, fp16));
    assert!(!diverges(&scaled(&LOSSES, 1.003), &scaled(&NORMS, 1.03), fp16));
    assert!(!diverges(&scaled(&LOSSES, 1.01), &scaled(&NORMS, 1.05), BF16));
    assert!(diverges(&scaled(&LOSSES, 1.2), &NORMS, BF16));
}

#[test]
fn gradients_four_times_too_large_are_seen_where_the_loss_is_right() {
    let Parity::Diverged(d) = run(&LOSSES, &scaled(&NORMS, 4.0), BF16) else { panic!() };
    assert_eq!((d.step, d.what, d.baseline, d.trial), (0, Quantity::GradNorm, 4.0, 16.0));
    assert_eq!(
        d.to_string(),
        "at step 0 the gradient norm before clipping is 16.000000, the baseline's is 4.000000 (allowed: 10.00 %)"
    );
}

#[test]
fn the_earliest_divergence_is_the_one_that_is_named() {
    let Parity::Diverged(d) = run(&[2.3, 2.1, 1.9, 9.0], &[4.0, 7.0, 3.1, 3.0], EXACT) else { panic!() };
    assert_eq!((d.step, d.what), (1, Quantity::GradNorm));
}

#[test]
fn clipping_that_is_off_shows_in_what_the_optimizer_takes() {
    let clipped = Trace { taken_norms: &[1.0; 4], ..of(&LOSSES, &NORMS) };
    let off = Trace { taken_norms: &NORMS, ..clipped };
    let Parity::Diverged(d) = check(clipped, off, &EXACT, None).parity else { panic!() };
    assert_eq!((d.step, d.what, d.baseline, d.trial), (0, Quantity::TakenNorm, 1.0, 4.0));
}

#[test]
fn the_band_grows_with_the_steps() {
    assert!(diverges(&[2.3 * 1.0003, 2.1, 1.9, 1.8], &[], EXACT));
    assert!(!diverges(&[2.3, 2.1, 1.9, 1.8 * 1.0003], &[], EXACT));
}

#[test]
fn a_second_run_of_the_baseline_widens_the_band() {
    let trial = [2.3, 2.1 * 1.002, 1.9 * 1.002, 1.8 * 1.002];
    let again = [2.3, 2.1 * 0.999, 1.9 * 0.999, 1.8 * 0.999];
    assert!(diverges(&trial, &[], EXACT));
    let parity = check(of(&LOSSES, &[]), of(&trial, &[]), &EXACT, Some(of(&again, &[]))).parity;
    assert_eq!(parity, Parity::Agrees);
}

#[test]
fn a_script_that_differs_from_itself_at_its_first_step_tells_nothing() {
    let (trial, again) = (scaled(&LOSSES, 4.0), scaled(&LOSSES, 1.01));
    let checked = check(of(&LOSSES, &NORMS), of(&trial, &NORMS), &EXACT, Some(of(&again, &NORMS)));
    let Parity::Unknown(why) = &checked.parity else { panic!("{checked:?}") };
    assert!(why.contains("at step 0") && why.contains("2.300000 and 2.323000"), "{why}");
    assert_eq!(checked.told().outcome, Outcome::Unknown);
    // Another order of sums is no reason to give up, nor is a difference that bf16 makes in a script of its own.
    let close = scaled(&LOSSES, 1.0005);
    let same = |terms: Terms| unrepeatable(of(&LOSSES, &[]), of(&close, &[]), &terms).is_none();
    assert!(!same(EXACT) && same(Terms { coarse_script: true, ..EXACT }));
}

#[test]
fn nan_is_divergence_unless_the_baseline_has_it_too() {
    let nan = f64::NAN;
    assert!(diverges(&[2.3, nan, 1.9, 1.8], &NORMS, EXACT));
    assert!(diverges(&[2.3, nan, 1.9, 1.8], &NORMS, BATCH));
    assert!(diverges(&[2.3, nan, 1.9, 1.8], &NORMS, DRAWS));
    let parity = check(of(&[2.3, nan], &[]), of(&[2.3, nan], &[]), &EXACT, None).parity;
    assert_eq!(parity, Parity::Agrees);
}

#[test]
fn an_fp16_scaler_may_overflow_at_first_but_not_for_ever() {
    let inf = f64::INFINITY;
    let fp16 = Terms { rounding: Rounding::Eleven, ..EXACT };
    assert!(!diverges(&LOSSES, &[inf, inf, 3.1, 3.0], fp16));
    assert!(diverges(&LOSSES, &[inf; 4], fp16));
    assert!(diverges(&LOSSES, &[inf, 3.5, 3.1, 3.0], EXACT));
}

#[test]
fn gradients_that_fp16_has_lost_are_seen() {
    // Scaled after the chunk: what was below 6e-8 is zero, the loss is right all the same.
    let fp16 = Terms { rounding: Rounding::Eleven, ..EXACT };
    assert!(diverges(&LOSSES, &[0.0; 4], fp16));
    assert!(diverges(&LOSSES, &scaled(&NORMS, 0.7), fp16));
}

#[test]
fn a_loss_near_zero_is_measured_against_the_typical_loss() {
    let parity = check(of(&[1.0, 1.0, 1e-9, 1.0], &[]), of(&[1.0, 1.0, 2e-9, 1.0], &[]), &EXACT, None).parity;
    assert_eq!(parity, Parity::Agrees);
}

#[test]
fn other_random_draws_are_compared_by_their_means() {
    assert!(!diverges(&[2.1, 2.3, 1.7, 2.0], &NORMS, DRAWS));
    assert!(diverges(&scaled(&LOSSES, 4.0), &NORMS, DRAWS));
    // With all draws switched off they are compared like any others.
    assert!(diverges(&[2.1, 2.3, 1.7, 2.0], &NORMS, DRAWS.without_draws()));
}

#[test]
fn nothing_to_compare_is_said() {
    assert!(matches!(run(&[], &[], EXACT), Parity::NotCompared(_)));
    assert!(matches!(run(&scaled(&LOSSES, 0.5), &NORMS, BATCH), Parity::NotCompared(_)));
}

fn after(update: f64, buffers: f64, output: f64) -> AfterSteps {
    let vector = |x: f64| Sketch { count: 2, norm: x.hypot(1.0), mean: 0.0, sketch: vec![x, 1.0] };
    AfterSteps {
        steps: 4,
        parameters: Some(vector(9.0)),
        update: vec![update, 0.0],
        buffers: Some(vector(buffers)),
        inputs: Some(vector(1.0)),
        outputs: [("logits".to_owned(), vector(output))].into(),
        without: None,
    }
}

fn ends(trial: &AfterSteps, terms: Terms) -> Option<Quantity> {
    let baseline = after(1.0, 1.0, 1.0);
    let with = |after| Trace { after: Some(after), ..of(&LOSSES, &NORMS) };
    match check(with(&baseline), with(trial), &terms, None).parity {
        Parity::Diverged(d) => Some(d.what),
        _ => None,
    }
}

#[test]
fn buffers_outputs_and_updates_are_compared_too() {
    assert_eq!(ends(&after(1.0, 1.0, 1.0), EXACT), None);
    assert_eq!(ends(&after(1.3, 1.0005, 1.005), EXACT), None, "rounding, which Adam magnifies in an update");
    assert_eq!(ends(&after(2.0, 1.0, 1.0), EXACT), Some(Quantity::Update));
    assert_eq!(ends(&after(1.0, 1.6, 1.0), EXACT), Some(Quantity::Buffers));
    assert_eq!(ends(&after(1.0, 1.0, 1.1), EXACT), Some(Quantity::Output));
    assert_eq!(ends(&after(2.0, 1.02, 1.1), BF16), None);
    assert_eq!(ends(&after(1.0, 1.6, 1.0), BF16), Some(Quantity::Buffers));
    assert_eq!(ends(&after(1.0, 1.6, 3.0), DRAWS), None);
}

#[test]
fn outputs_for_other_samples_are_other_outputs() {
    let mut other = after(1.0, 1.0, 5.0);
    other.inputs = Some(Sketch { sketch: vec![7.0, 1.0], ..other.inputs.unwrap() });
    assert_eq!(ends(&other, EXACT), None);
}

#[test]
fn a_vector_that_differs_is_told_with_step_and_both_numbers() {
    let (a, b) = (after(1.0, 1.0, 1.0), after(1.0, 1.6, 1.0));
    let with = |after| Trace { after: Some(after), ..of(&LOSSES, &NORMS) };
    let told = check(with(&a), with(&b), &EXACT, None).told();
    assert_eq!(
        told.sentence,
        "after 4 steps the content of the buffers differs by 42.43 % from the baseline's (lengths 1.886796 and 1.414214) \
         (allowed: 0.10 %)"
    );
    assert_eq!(told.outcome, Outcome::Diverged);
}
