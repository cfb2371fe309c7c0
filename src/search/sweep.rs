//! One launch instead of many: configurations that can be reached between two steps are measured in turns with one that
//! fits.
//!
//! What a window shows is a ratio within one process, which is sharper than two launches and says less: memory and
//! caches are those of the process, and how it trains is not compared.  So windows steer ([`super::speed`],
//! [`super::memory`]) and never make a winner: that takes a launch of its own.

use super::launches::State;
use super::replay::{Halt, Session, Step};
use super::space::{MEMORY, Space, cannot_pay, with, without};
use crate::model::plan::Way;
use crate::model::{Configuration, Knob, Value};
use crate::verdict::stats::median;

/// A window promises at least this much more speed (its expected improvement): less than a launch, of which it is a part.
const WORTH: f64 = 0.01;
/// Windows of one sweep, at most.
const MOST: usize = 12;
/// Fewer that promise something are not worth a launch that takes longer than others.
const FEWEST: usize = 2;
/// Steps that a window asks for in its first turn, those beside it included; more turns are a matter of time left.
const STEPS: f64 = 8.0;
/// Seconds that all windows together may take.
const SECONDS: f64 = 60.0;
/// A window is at least this likely to fit: one that does not ends the launch.
const SAFE: f64 = 0.9;
/// Parts of the batch that are measured to tell how memory and time grow with it.
const PARTS: [i64; 2] = [2, 4];

/// Measures what can be measured in turns with `base`.
pub(super) fn sweep(session: &mut Session<'_>, space: &Space<'_>, base: &Configuration) -> Step<()> {
    let Some((step, launch)) = seconds(session, base) else { return Ok(()) };
    let Chosen { windows, promising } = choose(session, space, base, (SECONDS / (STEPS * step)) as usize);
    let needed = windows.len() as f64 * STEPS * step;
    let cheap = needed <= launch;
    // Near its cap a search needs to know what each rung saves.
    let tight = session.state(&Configuration::baseline()) != State::Fits;
    let worth = promising >= FEWEST || cheap || tight;
    if windows.is_empty() || !worth || !session.room_for_sweep(needed) {
        return Ok(());
    }
    match session.sweep(base, windows) {
        // What it would have told must be found out otherwise, or is not found out.
        Ok(_) | Err(Halt::Spent(_)) => Ok(()),
        Err(launch) => Err(launch),
    }
}

/// What a step, and a launch, of `base` took.
fn seconds(session: &Session<'_>, base: &Configuration) -> Option<(f64, f64)> {
    let mut launches = session.seen.iter().rev().filter(|o| o.settings == *base);
    launches.find_map(|o| Some((median(&o.timing.as_ref()?.step_seconds)?, o.seconds))).filter(|s| s.0 > 0.0)
}

/// The windows of a sweep.
struct Chosen {
    windows: Vec<Configuration>,
    /// How many of them could be faster by what a launch is worth.
    promising: usize,
}

/// What promises something comes first, then a value of each knob, then the next value of each; smaller batches last,
/// because they alone can break a script.
fn choose(session: &Session<'_>, space: &Space<'_>, base: &Configuration, room: usize) -> Chosen {
    let context = session.context(space);
    let fitting = session.fitting_in(space);
    let (speed, memory) = (session.speed(&context, &fitting), session.memory(&context));
    let mut steps: Vec<(bool, usize, f64, Configuration)> = Vec::new();
    for (knob, settings) in one_step(session, space, base) {
        if memory.fits(&context, &settings) < SAFE {
            continue;
        }
        let gain = speed.ratio(&settings, base).improvement();
        let nth = steps.iter().filter(|s| s.3.get(knob) != base.get(knob)).count();
        steps.push((gain < WORTH, nth, gain, settings));
    }
    // The sort is stable: of equals the one that comes first in the ladder stays first.
    steps.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.total_cmp(&a.2)));
    steps.truncate(room.min(MOST).saturating_sub(PARTS.len() + 1));
    let promising = steps.iter().filter(|s| !s.0).count();
    // Itself among them: peaks of windows are compared with one another.
    let alone = steps.is_empty();
    let own = Some(base.clone()).filter(|_| !alone);
    let mut windows: Vec<Configuration> = own.into_iter().chain(steps.into_iter().map(|s| s.3)).collect();
    if let Some(own) = base.int(Knob::BatchSize).or_else(|| space.batch()).filter(|_| !alone) {
        let smaller = PARTS.iter().map(|p| own / p).filter(|b| *b > 0);
        windows.extend(smaller.map(|b| with(base, Knob::BatchSize, Value::Int(b))));
    }
    Chosen { windows, promising }
}

/// `base` with one knob more, changed or taken away, where that can be done between two steps; and that knob.
fn one_step(session: &Session<'_>, space: &Space<'_>, base: &Configuration) -> Vec<(Knob, Configuration)> {
    let wait = session.loader_wait();
    let mut all: Vec<(Knob, Configuration)> = Vec::new();
    let mut add = |knob: Knob, settings: Configuration| {
        let plain = space.plain(&settings);
        let known = all.iter().any(|(_, c)| *c == plain);
        let open = !known && space.allows(&plain) && !session.banned(&plain);
        if plain != *base && open && base.turns_into(&plain) {
            all.push((knob, plain));
        }
    };
    for knob in base.0.keys() {
        add(*knob, without(base, *knob));
    }
    // What the script's option or a framework's switch turns is read once.
    let live = |k: &Knob| {
        let way = space.site(*k).and_then(|s| s.way);
        way == Some(Way::Agent) || (*k == Knob::OmpThreads && way == Some(Way::Environment))
    };
    for knob in Knob::ALL.iter().filter(|k| **k != Knob::BatchSize && live(k)) {
        // A rung that only lowers memory is measured, too: it tells what would fit where.
        if cannot_pay(*knob, session.plan, space.found(), wait).is_some() && !MEMORY.contains(knob) {
            continue;
        }
        if *knob == Knob::Compile && session.no_room_to_compile(space).is_some() {
            continue;
        }
        for value in space.values(*knob) {
            add(*knob, with(base, *knob, value));
        }
    }
    all
}
