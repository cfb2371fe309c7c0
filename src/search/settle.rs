//! Which of the good ones is the best, and which of its knobs it needs.

use super::launches::{State, noise, timings};
use super::memory::MemoryModel;
use super::replay::{Session, Step};
use super::space::{Space, without};
use super::speed::{Belief, SpeedModel};
use crate::model::{Configuration, Purpose};
use crate::verdict::compare::{Comparison, Speed, compare_with};

/// Launches of one configuration, at most (disturbed ones and the confirm trial apart).
pub(super) const LAUNCHES: usize = 3;
/// Launches that telling contenders apart may take.
const SETTLING: usize = 5;
/// Launches that pruning may take.
const PRUNING: usize = 6;
/// A contender has at least this probability to be faster than the best.
const CONTENDS: f64 = 0.12;
/// Two launches each that differ by less than this are a tie, and a third would not change that.
const SAME: f64 = 0.015;
/// Below this probability to fit, taking a rung off is not worth a launch.
const NO_CHANCE: f64 = 0.1;

/// The best of what fits, and what was measured of it.
pub(super) fn ranking(session: &Session<'_>, space: &Space<'_>) -> Vec<(Configuration, Belief)> {
    let context = session.context(space);
    let fitting = session.fitting_in(space);
    let model = SpeedModel::new(&session.seen, &fitting, &context, session.plan.noise);
    let mut all: Vec<(Configuration, Belief)> = fitting
        .into_iter()
        .filter(|c| !timings(&session.seen, c).is_empty())
        .map(|c| {
            let belief = model.belief(&c);
            (c, belief)
        })
        .collect();
    // The sort is stable: of equals the one that was found first stays first.
    all.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    all
}

/// Repeats the best and its contenders in turns until they are told apart or have had their share.
pub(super) fn settle(session: &mut Session<'_>, space: &Space<'_>) -> Step<()> {
    for _ in 0..SETTLING {
        let ranked = ranking(session, space);
        let Some((best, belief)) = ranked.first() else { return Ok(()) };
        let contender = ranked
            .iter()
            .skip(1)
            .filter(|(c, b)| b.beats(*belief) > CONTENDS && !told_apart(session, best, c))
            .map(|(c, _)| c)
            .next();
        let Some(contender) = contender else { return Ok(()) };
        let Some(settings) = fewer(session, best, contender) else { return Ok(()) };
        session.launch(&settings, Purpose::Repeat)?;
    }
    Ok(())
}

/// The one that has been launched less often, if it has a launch left; of equals the contender, so that they take turns.
fn fewer(session: &Session<'_>, best: &Configuration, other: &Configuration) -> Option<Configuration> {
    let count = |c: &Configuration| timings(&session.seen, c).len();
    let (a, b) = (count(best), count(other));
    let chosen = if b <= a { other } else { best };
    (a.min(b) < LAUNCHES).then(|| chosen.clone())
}

fn told_apart(session: &Session<'_>, a: &Configuration, b: &Configuration) -> bool {
    let pairs = timings(&session.seen, a).len().min(timings(&session.seen, b).len());
    match compared(session, a, b) {
        Some(c) => c.verdict != Speed::Tie || pairs >= LAUNCHES || (pairs >= 2 && c.ratio.ln().abs() < SAME),
        None => false,
    }
}

/// `a` against `b`, with the noise that this search has seen.
fn compared(session: &Session<'_>, a: &Configuration, b: &Configuration) -> Option<Comparison> {
    let spread = noise(&session.seen, session.plan.noise);
    compare_with(&timings(&session.seen, a), &timings(&session.seen, b), spread)
}

/// Takes each knob of `winner` away; the simplest configuration that is not measurably slower.
pub(super) fn prune(
    session: &mut Session<'_>,
    space: &Space<'_>,
    winner: Configuration,
    kept: &mut Vec<String>,
) -> Step<Configuration> {
    let mut winner = winner;
    let mut launches = PRUNING;
    let mut done = Vec::new();
    loop {
        let mut knobs: Vec<_> = winner.0.keys().copied().filter(|k| !done.contains(k)).collect();
        // What matters least by all that was measured goes first.
        let context = session.context(space);
        let fitting = session.fitting_in(space);
        let model = SpeedModel::new(&session.seen, &fitting, &context, session.plan.noise);
        knobs.sort_by(|a, b| {
            model.belief(&without(&winner, *b)).mean.total_cmp(&model.belief(&without(&winner, *a)).mean)
        });
        let Some(knob) = knobs.first().copied() else { return Ok(winner) };
        done.push(knob);
        let simpler = space.plain(&without(&winner, knob));
        match is_needed(session, space, &winner, &simpler, &mut launches)? {
            Some(why) => kept.push(format!("{knob}: {why}")),
            None => {
                winner = simpler;
                done.retain(|k| winner.get(*k).is_some());
            }
        }
    }
}

/// Why `winner` is better than `simpler`; `None` when nothing shows that it is.
fn is_needed(
    session: &mut Session<'_>,
    space: &Space<'_>,
    winner: &Configuration,
    simpler: &Configuration,
    launches: &mut usize,
) -> Step<Option<String>> {
    if session.state(simpler) == State::Unknown {
        let context = session.context(space);
        let memory = MemoryModel::new(&session.seen, &context, session.cap_bytes(), session.root_bytes());
        if memory.fits(&context, simpler) < NO_CHANCE {
            return Ok(Some("without it memory would run out, by all that was measured".to_owned()));
        }
        if *launches == 0 {
            return Ok(Some("not measured without it".to_owned()));
        }
        *launches -= 1;
        session.launch(simpler, Purpose::Prune)?;
    }
    match session.state(simpler) {
        State::TooLarge => return Ok(Some("without it memory runs out".to_owned())),
        State::Bad | State::Unknown => return Ok(Some("without it the script does not run".to_owned())),
        State::Fits => {}
    }
    while !told_apart(session, winner, simpler) && *launches > 0 {
        let Some(settings) = fewer(session, winner, simpler) else { break };
        *launches -= 1;
        session.launch(&settings, Purpose::Repeat)?;
        // A repeat can end otherwise than the launch before it.
        if session.state(simpler) != State::Fits {
            return Ok(Some("without it memory runs out".to_owned()));
        }
        if session.state(winner) != State::Fits {
            return Ok(None);
        }
    }
    Ok(match compared(session, winner, simpler) {
        Some(c) if c.verdict == Speed::Faster => Some(format!("{:+.0} % speed", (c.ratio - 1.0) * 100.0)),
        _ => None,
    })
}
