//! From what fits to what is faster.

use std::collections::BTreeSet;

use super::launches::State;
use super::memory::MemoryModel;
use super::replay::{Session, Step};
use super::space::{LITTLE_WAIT, MEMORY, Space, cannot_pay, with, without};
use super::speed::SpeedModel;
use crate::model::{Configuration, Knob, Purpose, Value};

/// A launch is worth while if it promises at least this much more speed (its expected improvement).
const WORTH: f64 = 0.015;
/// Launches of the exploration, at most.
const MOST: f64 = 8.0;
/// What a launch that runs out of memory costs, in launches that fit: it ends early.
const SHORT: f64 = 0.7;
/// Settings of the allocator that are looked at where memory is not fragmented.
const FEW_ALLOCATORS: usize = 3;
/// Steps of a leap, at most.
const FARTHEST: usize = 8;
/// What a step of a leap, less its standard deviation, adds to the speed at least (a part of a launch may be worth less
/// than a whole one); and what is launched in the place of something known.
const SURELY: f64 = 0.01;
/// What a leap passes through is at least this likely to fit.
const LIKELY: f64 = 0.5;
/// Launches at most that look for something smaller than what left too little room.
const SMALLER: usize = 2;
/// Neighbours of this many of the best are looked at.
const AROUND: usize = 3;

/// Launches neighbours of what fits while one of them promises an improvement.
pub(super) fn explore(session: &mut Session<'_>, space: &Space<'_>) -> Step<()> {
    let mut spent = 0.0;
    while spent < MOST {
        let Some(settings) = promising(session, space) else { return Ok(()) };
        session.launch(&settings, Purpose::Climb)?;
        spent += if session.state(&settings) == State::Fits { 1.0 } else { SHORT };
    }
    Ok(())
}

/// The unlaunched configuration that promises most, if one promises enough.
fn promising(session: &Session<'_>, space: &Space<'_>) -> Option<Configuration> {
    let context = session.context(space);
    let fitting = session.fitting_in(space);
    let speed = session.speed(&context, &fitting);
    let memory = session.memory(&context);
    let may_win = session.may_win(space);
    let mut best: Vec<(f64, &Configuration)> = may_win.iter().map(|c| (speed.belief(c).mean, c)).collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    let incumbent = best.first()?.1;
    let mut top: Option<(f64, Configuration)> = None;
    let mut looked_at = BTreeSet::new();
    let mut leap = leap(session, space, &speed, &memory, incumbent);
    for (_, around) in best.iter().take(AROUND) {
        for settings in neighbours(session, space, around).into_iter().chain(leap.take()) {
            if !looked_at.insert(settings.clone()) || session.state(&settings) != State::Unknown {
                continue;
            }
            let gain = speed.ratio(&settings, incumbent).improvement();
            // The chance to fit can only lower it.
            if gain <= top.as_ref().map_or(WORTH, |(v, _)| *v) {
                continue;
            }
            let chance = memory.fits(&context, &settings);
            // Per launch: one that runs out of memory is short.
            let value = gain * chance / (chance + SHORT * (1.0 - chance));
            if value > top.as_ref().map_or(WORTH, |(v, _)| *v + 1e-12) {
                top = Some((value, settings));
            }
        }
    }
    top.map(|(_, settings)| settings)
}

/// Several steps at once: each the neighbour that is surest to be faster than the one before, by what was measured.
fn leap(
    session: &Session<'_>,
    space: &Space<'_>,
    speed: &SpeedModel<'_>,
    memory: &MemoryModel,
    from: &Configuration,
) -> Option<Configuration> {
    let context = session.context(space);
    let mut at = from.clone();
    for _ in 0..FARTHEST {
        let sure = |c: Configuration| {
            let ratio = speed.ratio(&c, &at);
            Some((ratio.mean - ratio.sd, c)).filter(|(gain, _)| *gain > SURELY)
        };
        let mut steps: Vec<(f64, Configuration)> =
            neighbours(session, space, &at).into_iter().filter_map(sure).collect();
        steps.sort_by(|a, b| b.0.total_cmp(&a.0));
        let open = |c: &Configuration| {
            !matches!(session.state(c), State::Bad | State::TooLarge) && memory.fits(&context, c) >= LIKELY
        };
        match steps.into_iter().map(|(_, c)| c).find(open) {
            Some(c) => at = c,
            None => break,
        }
    }
    (at != *from).then_some(at)
}

/// Launches neighbours that need less memory, the fastest of those that should fit first, until one does; what should
/// not be faster than `known` is left alone.
pub(super) fn with_less_memory(
    session: &mut Session<'_>,
    space: &Space<'_>,
    than: &Configuration,
    known: Option<&Configuration>,
) -> Step<Option<Configuration>> {
    for _ in 0..SMALLER {
        let context = session.context(space);
        let speed = session.speed(&context, &session.fitting_in(space));
        let memory = session.memory(&context);
        let open = |c: &Configuration| {
            session.state(c) == State::Unknown
                && context.needs_less(c, than)
                && memory.fits(&context, c) >= LIKELY
        };
        let rate = |c: &Configuration| speed.belief(c).mean;
        let faster = |c: &Configuration| known.is_none_or(|k| rate(c) > rate(k) + SURELY);
        let all = neighbours(session, space, than).into_iter().filter(|c| open(c) && faster(c));
        let Some(settings) = all.max_by(|a, b| rate(a).total_cmp(&rate(b))) else { return Ok(None) };
        session.launch(&settings, Purpose::Climb)?;
        if session.state(&settings) == State::Fits {
            return Ok(Some(settings));
        }
    }
    Ok(None)
}

/// Knobs that may add speed and ask for some memory.
const FASTER: [Knob; 3] = [Knob::Malloc, Knob::NumWorkers, Knob::OmpThreads];

/// One knob set, changed or taken away; or its memory rungs exchanged for another rung.
fn neighbours(session: &Session<'_>, space: &Space<'_>, around: &Configuration) -> Vec<Configuration> {
    let mut all = Vec::new();
    let mut add = |settings: Configuration| {
        let plain = space.plain(&settings);
        if plain != *around && !all.contains(&plain) && space.allows(&plain) {
            all.push(plain);
        }
    };
    for knob in around.0.keys() {
        add(without(around, *knob));
    }
    let wait = session.loader_wait();
    let still_waits = session.wait_of(around).is_none_or(|w| w >= LITTLE_WAIT);
    for knob in Knob::ALL {
        // A number of processes is part of how they train.
        if *knob == Knob::Processes && around.get(Knob::Strategy).is_none() {
            continue;
        }
        if cannot_pay(*knob, session.plan, space.found(), wait).is_some() {
            continue;
        }
        if *knob == Knob::Compile && session.no_room_to_compile(space).is_some() {
            continue;
        }
        let needs_workers = matches!(knob, Knob::PrefetchFactor | Knob::PersistentWorkers);
        if needs_workers && (!workers(space, around) || !still_waits) {
            continue;
        }
        // Without pieces to join, the allocator's settings differ too little for a launch each.
        let most = match knob {
            Knob::Allocator if session.fragmentation() != Some(true) => FEW_ALLOCATORS,
            _ => usize::MAX,
        };
        for value in space.values(*knob).into_iter().take(most) {
            let more = *knob == Knob::NumWorkers && value > *around.get(*knob).unwrap_or(&Value::Int(0));
            if !more || still_waits {
                add(with(around, *knob, value));
            }
        }
    }
    let mut bare = around.clone();
    for knob in MEMORY.iter().filter(|k| **k != Knob::Malloc) {
        bare = bare.without(*knob);
    }
    // A knob that adds speed may need a stronger rung than the one that fits without it.
    let mut bases = vec![bare.clone()];
    // What is sharded may have been the first to fit, where another rung leaves the script's copies as they are.
    if space.found().starts_processes() && around.get(Knob::Strategy).is_some() {
        bases.push(without(&bare, Knob::Strategy).without(Knob::Malloc));
    }
    for knob in FASTER.iter().filter(|k| cannot_pay(**k, session.plan, space.found(), wait).is_none()) {
        for value in space.values(*knob) {
            bases.push(with(&bare, *knob, value));
        }
    }
    for rung in space.rungs() {
        for base in &bases {
            let mut settings = base.clone();
            settings.0.extend(rung.0.clone());
            add(settings);
        }
    }
    all
}

fn workers(space: &Space<'_>, settings: &Configuration) -> bool {
    let own = space.found().training_loader().map_or(0, |l| i64::from(l.num_workers));
    settings.int(Knob::NumWorkers).unwrap_or(own) > 0
}
