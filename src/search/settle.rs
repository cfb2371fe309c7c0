//! Which of the good ones is the best, and which of its knobs it needs.

use std::cmp::Ordering;

use super::launches::{State, noise, timings};
use super::replay::{Session, Step};
use super::space::{Space, without};
use super::speed::Belief;
use crate::model::{Configuration, Knob, Purpose, Value};
use crate::verdict::compare::{Comparison, Speed, compare_with};

/// Launches of one configuration, at most (disturbed ones and the confirm trial apart).
pub(super) const LAUNCHES: usize = 3;
/// Launches that all of this may take: what is left of a usual search, within these bounds.
const LEFT: std::ops::RangeInclusive<usize> = 2..=3;
/// A usual search, sweeps and all, its confirm trial left out.
const USUAL: usize = 8;
/// A challenger has at least this probability to be faster than the champion by something that matters.
const CONTENDS: f64 = 0.15;
/// Less speed than this (logarithm of the ratio) does not matter: it is no reason for one more knob.
const MATTERS: f64 = 0.02;
/// Standard deviations by which a difference must lie above nothing, by everything that was measured: a knob that does
/// nothing has one chance in twenty.
const SURE: f64 = 1.7;
/// Below this probability to fit, taking a rung off is not worth a launch.
const NO_CHANCE: f64 = 0.1;

/// The best of what may win, and what was measured of it.
pub(super) fn ranking(session: &Session<'_>, space: &Space<'_>) -> Vec<(Configuration, Belief)> {
    let context = session.context(space);
    let model = session.speed(&context, &session.fitting_in(space));
    let mut all: Vec<(Configuration, Belief)> = session
        .may_win(space)
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

/// The best where no launch is left to settle anything: what was shown to be faster than the script as it is; where that
/// does not fit, the best by what is believed.
pub(super) fn best_shown(session: &Session<'_>, space: &Space<'_>) -> Option<Configuration> {
    let baseline = Configuration::baseline();
    let ranked = ranking(session, space).into_iter().map(|(c, _)| c);
    let shown = |c: &Configuration| {
        c.is_baseline()
            || compared(session, c, &baseline).is_some_and(|x| better(&x))
            || known_better(session, space, c, &baseline)
    };
    let fits = session.state(&baseline) == State::Fits;
    let candidates: Vec<Configuration> = ranked.filter(|c| !fits || shown(c)).collect();
    let Some(best) = candidates.first() else { return session.fitting().into_iter().next() };
    // A part of it that is as fast by all that is known is as good.
    let context = session.context(space);
    let model = session.speed(&context, &session.fitting_in(space));
    let part = |c: &&Configuration| c.0.iter().all(|(k, v)| best.get(*k) == Some(v));
    let as_fast = |c: &&Configuration| model.ratio(best, c).mean < MATTERS;
    candidates.iter().filter(part).filter(as_fast).min_by_key(|c| c.0.len()).cloned()
}

/// From the best by what is believed to the best by what is shown.
pub(super) fn settle(
    session: &mut Session<'_>,
    space: &Space<'_>,
    best: Configuration,
) -> Step<Configuration> {
    let mut left =
        USUAL.saturating_sub(session.seen.len() + session.sweeps.len()).clamp(*LEFT.start(), *LEFT.end());
    let mut champion = prune(session, space, best, &mut left)?;
    let mut lost: Vec<Configuration> = Vec::new();
    while let Some(challenger) = challenger(session, space, &champion, &lost) {
        repeat(session, space, &champion, &challenger, &mut left)?;
        // Either way it has had its turn: what replaces it after pruning is not it.
        lost.push(challenger.clone());
        if session.state(&champion) != State::Fits || beats(session, space, &challenger, &champion) {
            lost.push(std::mem::replace(&mut champion, prune(session, space, challenger, &mut left)?));
        }
    }
    Ok(champion)
}

/// The likeliest to be faster than the champion by something that matters.
fn challenger(
    session: &Session<'_>,
    space: &Space<'_>,
    champion: &Configuration,
    lost: &[Configuration],
) -> Option<Configuration> {
    let context = session.context(space);
    let fitting = session.fitting_in(space);
    let model = session.speed(&context, &fitting);
    let contends = |c: &Configuration| {
        c != champion && !lost.contains(c) && model.ratio(c, champion).above(MATTERS) > CONTENDS
    };
    ranking(session, space).into_iter().map(|(c, _)| c).find(contends)
}

/// Launches both in turns until they are told apart, have had their share, or nothing is left.
fn repeat(
    session: &mut Session<'_>,
    space: &Space<'_>,
    champion: &Configuration,
    challenger: &Configuration,
    left: &mut usize,
) -> Step<()> {
    while *left > 0 && !told_apart(session, space, champion, challenger) {
        let Some(settings) = fewer(session, champion, challenger) else { return Ok(()) };
        *left -= 1;
        session.launch(&settings, Purpose::Repeat)?;
        // A repeat can end otherwise than the launch before it.
        if session.state(champion) != State::Fits || session.state(challenger) != State::Fits {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the challenger takes the champion's place: it is measurably faster, or as fast and simpler, or as fast, as
/// simple and in need of less memory.
fn beats(
    session: &Session<'_>,
    space: &Space<'_>,
    challenger: &Configuration,
    champion: &Configuration,
) -> bool {
    if session.state(challenger) != State::Fits {
        return false;
    }
    let Some(c) = compared(session, challenger, champion) else { return false };
    match challenger.0.len().cmp(&champion.0.len()) {
        Ordering::Greater => better(&c) || known_better(session, space, challenger, champion),
        Ordering::Less => !better(&c.reversed()) && !known_better(session, space, champion, challenger),
        // Neither is simpler: what was measured decides, and inside what matters the larger headroom.
        Ordering::Equal if c.ratio.ln().abs() >= MATTERS => c.ratio > 1.0,
        Ordering::Equal => peak(session, challenger).zip(peak(session, champion)).is_some_and(|(a, b)| a < b),
    }
}

/// Whether the first is faster by enough, and surely enough, to be worth one knob more.  The interval is one of 95 %;
/// three quarters of it leave the knob that does nothing one chance in fourteen.
fn better(c: &Comparison) -> bool {
    let half = (c.interval.1 / c.interval.0).ln() / 2.0;
    c.ratio.ln() >= MATTERS && c.ratio.ln() > 0.75 * half
}

/// The same, from everything that was measured ([`known_ratio`]).
fn known_better(session: &Session<'_>, space: &Space<'_>, a: &Configuration, b: &Configuration) -> bool {
    known_ratio(session, space, a, b).is_some_and(|r| r.mean >= MATTERS && r.mean > SURE * r.sd)
}

/// The ratio of both from everything that was measured: launches of others that have the same knobs, windows of sweeps.
/// Only where both were launched, or sweeps or earlier searches have compared all in which the two differ, so that it is
/// no prior that speaks.
fn known_ratio(
    session: &Session<'_>,
    space: &Space<'_>,
    a: &Configuration,
    b: &Configuration,
) -> Option<Belief> {
    let swept = |knob: &Knob, value: &Value| {
        let windows = session.sweeps.iter().flat_map(|o| o.windows.iter().map(move |w| (o, w)));
        let windows = windows.filter(|(_, w)| w.ratio.is_some()).map(|(o, w)| (&o.settings, &w.settings));
        let earlier = session.known.iter().map(|k| (&k.beside, &k.settings));
        // It was set in one of the two and not in the other.
        let apart = |(x, y): (&Configuration, &Configuration)| {
            (x.get(*knob) == Some(value)) != (y.get(*knob) == Some(value))
        };
        windows.chain(earlier).any(apart)
    };
    let differs = |x: &Configuration, y: &Configuration| {
        x.0.iter().filter(|(k, v)| y.get(**k) != Some(v)).map(|(k, v)| (*k, v.clone())).collect::<Vec<_>>()
    };
    let launched = [a, b].iter().all(|c| !timings(&session.seen, c).is_empty());
    if !launched && ![differs(a, b), differs(b, a)].iter().flatten().all(|(k, v)| swept(k, v)) {
        return None;
    }
    let context = session.context(space);
    Some(session.speed(&context, &session.fitting_in(space)).ratio(a, b))
}

/// The same comparison the other way round.
trait Reversed {
    fn reversed(&self) -> Self;
}

impl Reversed for Comparison {
    fn reversed(&self) -> Self {
        let verdict = match self.verdict {
            Speed::Faster => Speed::Slower,
            Speed::Slower => Speed::Faster,
            Speed::Tie => Speed::Tie,
        };
        Self { ratio: 1.0 / self.ratio, interval: (1.0 / self.interval.1, 1.0 / self.interval.0), verdict }
    }
}

fn peak(session: &Session<'_>, settings: &Configuration) -> Option<u64> {
    session.seen.iter().filter(|o| o.settings == *settings).filter_map(|o| o.peak()).max()
}

/// The one that has been launched less often, if it has a launch left; of equals the contender, so that they take turns.
fn fewer(session: &Session<'_>, best: &Configuration, other: &Configuration) -> Option<Configuration> {
    let count = |c: &Configuration| timings(&session.seen, c).len();
    let (a, b) = (count(best), count(other));
    let chosen = if b <= a { other } else { best };
    (a.min(b) < LAUNCHES).then(|| chosen.clone())
}

fn told_apart(session: &Session<'_>, space: &Space<'_>, a: &Configuration, b: &Configuration) -> bool {
    let apart = |r: Belief| r.mean.abs() >= MATTERS && r.mean.abs() > SURE * r.sd;
    if known_ratio(session, space, a, b).is_some_and(apart) {
        return true;
    }
    let pairs = timings(&session.seen, a).len().min(timings(&session.seen, b).len());
    compared(session, a, b).is_some_and(|c| {
        // Two launches each that differ by nothing that matters are a tie, and a third would not change that.
        c.verdict != Speed::Tie || pairs >= LAUNCHES || (pairs >= 2 && c.ratio.ln().abs() < MATTERS)
    })
}

/// `a` against `b`, with the noise that this search has seen.
fn compared(session: &Session<'_>, a: &Configuration, b: &Configuration) -> Option<Comparison> {
    let spread = noise(&session.seen, session.plan.noise);
    compare_with(&timings(&session.seen, a), &timings(&session.seen, b), spread)
}

/// Takes each knob of `winner` away; the simplest configuration that is not measurably slower.
fn prune(
    session: &mut Session<'_>,
    space: &Space<'_>,
    mut winner: Configuration,
    left: &mut usize,
) -> Step<Configuration> {
    let mut needed = Vec::new();
    loop {
        // What matters least by all that was measured goes first.
        let context = session.context(space);
        let fitting = session.fitting_in(space);
        let model = session.speed(&context, &fitting);
        let rest = |k: &Knob| model.belief(&without(&winner, *k)).mean;
        let open = winner.0.keys().copied().filter(|k| !needed.contains(k));
        let Some(knob) = open.max_by(|a, b| rest(a).total_cmp(&rest(b))) else { return Ok(winner) };
        let simpler = space.plain(&without(&winner, knob));
        if is_needed(session, space, &winner, &simpler, left)? {
            needed.push(knob);
        } else {
            winner = simpler;
        }
    }
}

/// Whether `winner` is shown to be better than `simpler`, or there is no way to find out.
fn is_needed(
    session: &mut Session<'_>,
    space: &Space<'_>,
    winner: &Configuration,
    simpler: &Configuration,
    left: &mut usize,
) -> Step<bool> {
    if session.state(simpler) == State::Unknown {
        let context = session.context(space);
        let memory = session.memory(&context);
        let shown = known_better(session, space, winner, simpler);
        if shown || *left == 0 || memory.fits(&context, simpler) < NO_CHANCE {
            return Ok(true);
        }
        *left -= 1;
        session.launch(simpler, Purpose::Prune)?;
    }
    if session.state(simpler) != State::Fits {
        return Ok(true);
    }
    repeat(session, space, winner, simpler, left)?;
    if session.state(winner) != State::Fits {
        return Ok(false);
    }
    let shown = compared(session, winner, simpler).is_some_and(|c| better(&c))
        || known_better(session, space, winner, simpler);
    Ok(shown || session.state(simpler) != State::Fits)
}
