//! Extra launches that show whether the winner trains like the script as it is, where the ones so far cannot.
//!
//! They are needed where the script as it is does not fit (both are launched once more with a smaller batch), and where
//! the winner draws other random numbers (both are launched once more without any).  A batch that is set for this check
//! is never part of what is emitted.

use super::launches::{State, state_of};
use super::replay::{Halt, Session, Step};
use super::space::{Space, with};
use crate::model::{Configuration, Knob, NumericsClass, Observation, Purpose, Value, Verdict};
use crate::verdict::bands::Terms;
use crate::verdict::parity::{Parity, Trace, check, is_reference, shows_something};

/// The script's own batch is divided by these, one after the other, until it fits.
const DIVISORS: [i64; 2] = [4, 16];

/// What is known of how the winner trains.
pub(super) enum Training {
    /// Nothing speaks against it.
    Same,
    /// It is another one: number of the trial, and why.
    Other(u32, String),
}

/// Finds out; where it cannot be found out, a note says why.
pub(super) fn same_training(
    session: &mut Session<'_>,
    space: &Space<'_>,
    winner: &Configuration,
) -> Step<Training> {
    if winner.is_baseline() {
        return Ok(Training::Same);
    }
    match compare(session, space, winner) {
        Ok(Ok(training)) => Ok(training),
        Ok(Err(why)) => {
            session.notes.push(format!("losses of {winner} were not compared: {why}"));
            Ok(Training::Same)
        }
        // The confirm trial is worth more than this check; that it was left out is said.
        Err(Halt::Spent(limit)) => {
            session
                .notes
                .push(format!("losses of {winner} were not compared: {limit} left no launch for it"));
            Ok(Training::Same)
        }
        Err(launch) => Err(launch),
    }
}

type Answer = Result<Training, String>;

fn compare(session: &mut Session<'_>, space: &Space<'_>, winner: &Configuration) -> Step<Answer> {
    let terms = Terms::new(winner, Some(space.found()));
    if terms.other_batch {
        return other_batch(session, space, winner);
    }
    if session.state(&Configuration::baseline()) == State::Fits {
        if !terms.other_draws || drew_the_same(session, winner, &terms) || !trains_alone(session) {
            return Ok(Ok(Training::Same));
        }
        return with_batch(session, winner, None)
            .map(|answer| answer.unwrap_or_else(|| Err(NO_STEPS.to_owned())));
    }
    let Some(own) = space.batch().filter(|_| can_turn_batch(space)) else {
        return Ok(Err(
            "the script as it is does not fit, and its batch cannot be made smaller from here".to_owned()
        ));
    };
    // A part of the batch needs a sample.
    let least = winner.int(Knob::Accumulation).unwrap_or(1).max(2);
    let mut tried = Vec::new();
    for batch in DIVISORS.map(|d| (own / d).max(least)) {
        if batch >= own || tried.contains(&batch) {
            continue;
        }
        tried.push(batch);
        if let Some(answer) = with_batch(session, winner, Some(batch))? {
            return Ok(answer);
        }
    }
    Ok(Err("the script as it is does not fit with smaller batches either".to_owned()))
}

/// Another batch is another training run, by the user's leave.  In a script that never trains samples do not meet: what
/// else is set is compared at the script's own batch.
fn other_batch(session: &mut Session<'_>, space: &Space<'_>, winner: &Configuration) -> Step<Answer> {
    let rest = winner.without(Knob::BatchSize);
    let fits = session.state(&Configuration::baseline()) == State::Fits;
    if !space.found().serves() || rest.is_baseline() || !fits {
        return Ok(Ok(Training::Same));
    }
    with_batch(session, &rest, None).map(|answer| answer.unwrap_or_else(|| Err(NO_STEPS.to_owned())))
}

const NO_STEPS: &str = "the script as it is took no steps in a launch without random draws";

/// Both with this batch and without draws; `None` where the script as it is does not run so.
fn with_batch(session: &mut Session<'_>, winner: &Configuration, batch: Option<i64>) -> Step<Option<Answer>> {
    let at = |settings: &Configuration| match batch {
        Some(batch) => with(settings, Knob::BatchSize, Value::Int(batch)),
        None => settings.clone(),
    };
    let reference = session.launch(&at(&Configuration::baseline()), Purpose::Parity)?;
    if state_of(reference) != State::Fits || !shows_something(reference) {
        return Ok(None);
    }
    let o = session.launch(&at(winner), Purpose::Parity)?;
    Ok(Some(match o.verdict {
        Verdict::Diverged => Ok(Training::Other(o.trial, o.why.clone())),
        _ if state_of(o) == State::Fits => Ok(Training::Same),
        _ => Err(format!("in the launch for it, it was {} ({})", o.verdict.name().replace('_', " "), o.why)),
    }))
}

/// A launch that was made anyway has shown the same numbers step by step: nothing was drawn differently after all.
fn drew_the_same(session: &Session<'_>, winner: &Configuration, terms: &Terms) -> bool {
    let Some(baseline) = session.seen.iter().find(|o| is_reference(o)) else { return false };
    let strict = |o: &&&Observation| {
        o.purpose != Purpose::Confirm
            && check(Trace::of(baseline), Trace::of(o), &terms.without_draws(), None).parity == Parity::Agrees
    };
    session.seen.iter().filter(|o| o.settings == *winner).any(|o| strict(&o))
}

/// Whether the script as it is has shown a loss or a gradient at all.
fn trains_alone(session: &Session<'_>) -> bool {
    session.seen.iter().any(|o| is_reference(o))
}

/// The script's own way to set its batch; the policy is not asked, since nothing of it is emitted.
fn can_turn_batch(space: &Space<'_>) -> bool {
    space
        .found()
        .site(Knob::BatchSize)
        .is_some_and(|s| s.class == NumericsClass::Dynamics && s.values.is_empty())
}
