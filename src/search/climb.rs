//! Rung by rung, until something fits.

use super::launches::{State, state_of};
use super::replay::{Halt, Session, Step};
use super::space::{MEMORY, Space, cannot_pay, lowers_memory};
use crate::model::plan::Device;
use crate::model::{Configuration, FailureKind, Knob, Observation, Purpose, Value};

/// A rung that is less likely than this to suffice is put off until the others have been tried.
const HOPELESS: f64 = 0.12;

/// Said of a knob inside a script that ran out of memory before it came to it.
const UNSEEN: &str = "memory ran out before the script came to where it is turned";

/// Climbs; whether something fits.
pub(super) fn climb(session: &mut Session<'_>, space: &Space<'_>, purpose: Purpose) -> Step<bool> {
    say_what_drops_out(session, space);
    let mut rungs = match host_trouble(session) {
        Some(kind) => host_rungs(space, kind),
        None => device_rungs(session, space),
    };
    rungs.retain(|r| session.state(r) == State::Unknown);
    loop {
        rungs.retain(|r| !session.banned(r));
        let context = session.context(space);
        let model = session.memory(&context);
        let chance: Vec<f64> = rungs.iter().map(|r| model.fits(&context, r)).collect();
        let pieces = session.fragmentation() == Some(true);
        // What costs no speed is worth a launch however unlikely it is: one that runs out of memory is short.
        let views = |r: &Configuration| r.0.len() == 1 && r.get(Knob::GradientAsBucketView).is_some();
        let free = |r: &Configuration| pieces && is_allocator(r) || views(r);
        let worth = |(i, p): (usize, &f64)| *p >= HOPELESS || free(&rungs[i]);
        let Some(at) = chance.iter().enumerate().position(worth).or_else(|| likeliest(&chance)) else {
            return Ok(false);
        };
        let settings = rungs.remove(at);
        let o = session.launch(&settings, purpose)?;
        if state_of(o) == State::Fits && session.state(&settings) == State::Fits {
            return Ok(true);
        }
    }
}

fn likeliest(chance: &[f64]) -> Option<usize> {
    // The first of equals, so that the ladder's order decides.
    let mut best: Option<usize> = None;
    for (i, p) in chance.iter().enumerate() {
        if best.is_none_or(|b| *p > chance[b] + 1e-12) {
            best = Some(i);
        }
    }
    best
}

/// A setting of the caching allocator and nothing else.
fn is_allocator(settings: &Configuration) -> bool {
    settings.0.len() == 1 && settings.get(Knob::Allocator).is_some()
}

fn device_rungs(session: &mut Session<'_>, space: &Space<'_>) -> Vec<Configuration> {
    let mut rungs = space.rungs();
    let allocator = is_allocator;
    match session.fragmentation() {
        // Memory is there, but in pieces: what costs nothing first, all of it.
        Some(true) => rungs.sort_by_key(|r| !allocator(r)),
        Some(false) => {
            if rungs.iter().any(allocator) {
                session.skip(
                    "allocator",
                    "little memory was reserved without being used, so there are no pieces to join",
                );
            }
            rungs.retain(|r| !allocator(r));
        }
        None => {
            // The message does not say; the first setting is worth one launch, the others are not.
            let first = rungs.iter().find(|r| allocator(r)).cloned();
            rungs.retain(|r| !allocator(r) || Some(r) == first.as_ref());
        }
    }
    rungs
}

/// Host memory or shared memory ran out while training happens elsewhere, or in the loader's workers.
fn host_trouble(session: &Session<'_>) -> Option<FailureKind> {
    let failed = |o: &&&Observation| o.settings.is_baseline() && state_of(o) == State::TooLarge;
    let kind = session.seen.iter().find(failed)?.failure.as_ref()?.kind;
    match kind {
        FailureKind::ShmOom => Some(kind),
        FailureKind::HostOom if session.plan.device == Device::Cuda => Some(kind),
        _ => None,
    }
}

fn host_rungs(space: &Space<'_>, kind: FailureKind) -> Vec<Configuration> {
    let own: i64 = space.found().training_loader().map_or(0, |l| i64::from(l.num_workers));
    let mut rungs = Vec::new();
    let mut add = |knob: Knob, value: Value| {
        let settings = Configuration(std::iter::once((knob, value)).collect());
        if space.allows(&settings) {
            rungs.push(settings);
        }
    };
    if own > 0 {
        add(Knob::PrefetchFactor, Value::Int(1));
        for workers in [own / 2, own / 4].into_iter().filter(|w| *w > 0) {
            add(Knob::NumWorkers, Value::Int(workers));
        }
        add(Knob::NumWorkers, Value::Int(0));
    }
    if kind == FailureKind::HostOom {
        add(Knob::PinMemory, Value::Bool(false));
    }
    rungs.dedup();
    rungs
}

/// Knobs that could lower memory and are not in the ladder's reach, with the reason, for the report.
fn say_what_drops_out(session: &mut Session<'_>, space: &Space<'_>) {
    let early = session.died_early();
    // In a plain script it is tried where a recipe lists it.
    let sharding = space.found().starts_processes().then_some(Knob::Strategy);
    for knob in MEMORY.into_iter().chain(sharding) {
        let site = space.found().knobs.iter().find(|s| s.knob == knob);
        let why_not = site.and_then(|s| s.why_not.clone());
        if let Some(why) = why_not {
            // What was not come to says nothing of what there is.
            let seen = !early || knob == Knob::Allocator;
            session.skip(knob.name(), if seen { why } else { UNSEEN.to_owned() });
        } else if site.is_some() && space.site(knob).is_none() {
            let class = site.map_or(knob.class(), |s| s.class);
            session.skip(knob.name(), format!("it is of class {class}, beyond the bound of this search"));
        }
    }
}

/// One bound after the other beyond the policy's, until one offers something new that fits.
pub(super) fn look_beyond(
    session: &mut Session<'_>,
    space: &Space<'_>,
) -> Result<Option<Configuration>, Halt> {
    let mut bound = session.plan.policy.numerics;
    while let Some(looser) = bound.looser() {
        bound = looser;
        let beyond = space.loosened(bound);
        let offers = beyond.rungs().iter().any(|r| session.state(r) == State::Unknown && !space.allows(r));
        if !offers {
            continue;
        }
        // From the strongest down would be quicker, but what is offered should cost no more than it must.
        if climb(session, &beyond, Purpose::Advice)? {
            return Ok(session.seen.last().map(|o| o.settings.clone()));
        }
    }
    Ok(None)
}

/// Knobs whose effect on speed cannot pay here, with the reason, for the report.
pub(super) fn say_what_cannot_pay(session: &mut Session<'_>, space: &Space<'_>) {
    let wait = session.loader_wait();
    for knob in Knob::ALL {
        let in_reach = space.site(*knob).is_some();
        let room = (*knob == Knob::Compile && in_reach).then(|| session.no_room_to_compile(space)).flatten();
        if let Some(why) = room.or_else(|| cannot_pay(*knob, session.plan, space.found(), wait)) {
            // A memory rung that could not be turned has been named already.
            session.skip(knob.name(), why);
        } else if !in_reach && *knob != Knob::BatchSize && space.found().site(*knob).is_some() {
            session.skip(knob.name(), format!("it is of class {}, beyond the bound", knob.class()));
        }
    }
}

/// Whether a configuration uses a rung that lowers memory.
pub(super) fn has_rung(settings: &Configuration, own_batch: Option<i64>) -> bool {
    settings.0.iter().any(|(k, v)| lowers_memory(*k, v, own_batch))
}
