//! The winner in a fresh, longer launch; what does not hold there, or leaves too little room, hands over to another.

use super::explore::with_less_memory;
use super::launches::{State, state_of, timings};
use super::outcome::{Advice, Outcome, OutcomeEnd};
use super::replay::{Halt, Session, Step};
use super::same_training::{Training, same_training};
use super::secure::{confirmed, confirmed_already, not_confirmed};
use super::settle::ranking;
use super::space::{Space, with};
use crate::model::event::Phase;
use crate::model::observation::Kind;
use crate::model::plan::Device;
use crate::model::size::Bytes;
use crate::model::{Configuration, Knob, Observation, Purpose, Verdict};

/// Confirm trials at most: the winner and the next best ones.
const CONFIRMS: usize = 3;
/// Peaks of equal launches on the processor differ by this part of the limit, or by more where they were seen to: which
/// thread frees first decides where the heap has holes.  What was seen nearer to its limit may not fit the next time.  A
/// GPU's allocator fills what it may use and gives way before memory runs out, so that its peak says nothing of the kind.
pub(super) const ROOM: f64 = 0.03;
/// Standard deviations that are kept free above the highest peak.
const SPREADS: f64 = 2.5;
/// Repeats that it takes to believe in another spread than [`ROOM`] stands for.
const USUAL_WEIGHT: f64 = 1.0;
/// What a limit on the processor counts and a peak does not, bytes: page tables and other memory of the kernel, and the
/// pages of files without which the processes stand still.
const BESIDE_THE_PEAK: u64 = 32 << 20;

/// Confirms the winner; if that fails, or leaves too little room, the next best.  `None` where it ran out of memory,
/// nothing that was launched should do better, and `search_on` says that something else can be looked for.
pub(super) fn confirm(
    session: &mut Session<'_>,
    space: &Space<'_>,
    winner: Configuration,
    search_on: bool,
) -> Step<Option<Outcome>> {
    let mut failed: Vec<Configuration> = Vec::new();
    // Some of them train otherwise.
    let mut other: Vec<Configuration> = Vec::new();
    // What has held with too little room.
    let mut narrow: Option<&Observation> = None;
    let mut candidate = Some(winner);
    while let Some(settings) = candidate {
        if let Training::Other(trial, why) = same_training(session, space, &settings)? {
            session.notes.push(format!("{settings} trains otherwise (trial {trial}: {why})"));
            session.skip(settings.to_string(), format!("diverged: {why}"));
            other.push(settings.clone());
            failed.push(settings);
            let others = ranking(session, space).into_iter().map(|(c, _)| c);
            candidate = others.into_iter().find(|c| !failed.contains(c)).filter(|_| failed.len() < CONFIRMS);
            continue;
        }
        let o = match confirmed_already(session, &settings)
            .map_or_else(|| session.launch(&settings, Purpose::Confirm), Ok)
        {
            Ok(o) => o,
            Err(Halt::Spent(_)) if narrow.or(confirmed(session, &other)).is_some() => break,
            Err(Halt::Spent(limit)) => {
                let reason = format!("{settings} fits, but {limit} left no launch to confirm it");
                return Ok(Some(session.end(OutcomeEnd::Unconfirmed, Some(settings), reason)));
            }
            Err(launch) => return Err(launch),
        };
        if !holds(o) {
            session.notes.push(not_confirmed(o));
        } else if session.has_room(&settings) {
            let instead = narrow.map(|n| format!("{}, so {settings} is taken", little_room(session, n)));
            session.notes.extend(instead);
            return tuned(session, &settings, o).map(Some);
        } else {
            narrow = narrow.or(Some(o));
        }
        failed.push(settings);
        candidate = match failed.len() < CONFIRMS {
            true => another(session, space, &failed, o)?,
            false => None,
        };
        let may_not =
            |c: &Configuration| session.state(c) == State::Fits && !session.may_win(space).contains(c);
        let hopeless = || candidate.as_ref().is_none_or(may_not);
        if search_on && narrow.is_none() && state_of(o) == State::TooLarge && hopeless() {
            return Ok(None);
        }
    }
    if let Some(o) = narrow.or(confirmed(session, &other)) {
        let note = little_room(session, o);
        session
            .notes
            .push(format!("{note}, and nothing that needs less was found: a run may go out of memory"));
        return tuned(session, &o.settings, o).map(Some);
    }
    let reason = "what fitted in short launches did not hold when it was looked at again".to_owned();
    Ok(Some(session.end(OutcomeEnd::Unconfirmed, None, reason)))
}

/// Whether a confirm trial has shown what it is for.
pub(super) fn holds(o: &Observation) -> bool {
    matches!(o.verdict, Verdict::Fit) || (o.verdict == Verdict::Disturbed && o.timing.is_some())
}

fn little_room(session: &Session<'_>, o: &Observation) -> String {
    let left = session.cap_bytes().saturating_sub(session.highest(&o.settings).unwrap_or(0));
    format!(
        "{} left {} of the limit, and equal launches may differ by {}",
        o.settings,
        Bytes(left),
        Bytes(session.room(&o.settings))
    )
}

/// What takes the place of one that did not hold, or left too little room.
fn another(
    session: &mut Session<'_>,
    space: &Space<'_>,
    failed: &[Configuration],
    last: &Observation,
) -> Step<Option<Configuration>> {
    if let Some(with_it) = between_phases(space, last) {
        return Ok(Some(with_it));
    }
    let others: Vec<Configuration> =
        ranking(session, space).into_iter().map(|(c, _)| c).filter(|c| !failed.contains(c)).collect();
    let first = others.first().cloned();
    if !holds(last) && state_of(last) != State::TooLarge {
        return Ok(first);
    }
    let context = session.context(space);
    let memory = session.memory(&context);
    let smaller = |c: &&Configuration| {
        context.needs_less(c, &last.settings) && session.should_hold(&context, &memory, c)
    };
    let known = others.iter().find(smaller).cloned();
    let found = match with_less_memory(session, space, &last.settings, known.as_ref()) {
        Err(Halt::Spent(_)) => None,
        answer => answer?,
    };
    Ok(found.or(known).or(first.filter(|_| !holds(last))))
}

/// The same with memory given back between the phases, where memory ran out in one that training had filled it for.
fn between_phases(space: &Space<'_>, last: &Observation) -> Option<Configuration> {
    let after_training = matches!(last.oom_phase, Some(Phase::Eval | Phase::Save));
    let with_it = with(&last.settings, Knob::EmptyCache, true.into());
    (after_training && with_it != last.settings && space.allows(&with_it)).then_some(with_it)
}

fn tuned(session: &mut Session<'_>, settings: &Configuration, o: &Observation) -> Step<Outcome> {
    prove_peak(session, settings)?;
    if o.verdict == Verdict::Disturbed {
        session
            .notes
            .push("other load disturbed the confirm trial; it fits, but its speed is uncertain".to_owned());
    }
    let launches = session.seen.len();
    let reason = if settings.is_baseline() {
        format!("the script as it is was not beaten by anything that was tried in {launches} launches")
    } else {
        format!("{settings} is the fastest of what fits, after {launches} launches")
    };
    let mut outcome = session.end(OutcomeEnd::Tuned, Some(settings.clone()), reason);
    outcome.winner = Some(o.trial);
    outcome.advice.extend(batch_advice(session, settings));
    Ok(outcome)
}

/// Where it is asked for: the winner once more, with no more memory than it was seen to need and what equal launches may
/// differ by.  Whatever comes of it, the winner stays what it is: it has held under the limit itself.
fn prove_peak(session: &mut Session<'_>, settings: &Configuration) -> Step<()> {
    let Some(limit) = session.own_limit(settings).filter(|_| session.plan.limits.prove_peak) else {
        return Ok(());
    };
    let note = if limit >= session.cap_bytes() {
        "the winner's peak, and what equal launches may differ by, come to the limit itself, under which it was confirmed"
            .to_owned()
    } else {
        match session.prove(settings, limit) {
            Ok(o) if holds(o) => return Ok(()),
            Ok(o) => format!(
                "the winner did not hold under its own peak, {} (trial {}: {}): leave it more than that",
                Bytes(limit),
                o.trial,
                o.why
            ),
            Err(Halt::Spent(what)) => format!("{what} left no launch to prove the winner's peak"),
            Err(launch) => return Err(launch),
        }
    };
    session.notes.push(note);
    Ok(())
}

/// What the one launch with a larger batch has shown.
fn batch_advice(session: &Session<'_>, winner: &Configuration) -> Option<Advice> {
    let larger = session.seen.iter().find(|o| {
        o.purpose == Purpose::Advice && o.settings.without(Knob::BatchSize) == winner.without(Knob::BatchSize)
    })?;
    let batch = larger.settings.int(Knob::BatchSize)?;
    let rate = |c: &Configuration| timings(&session.seen, c).last().map(|t| t.samples_per_second);
    let gain = rate(&larger.settings)? / rate(winner)? - 1.0;
    (gain > 0.05).then(|| Advice {
        text: format!(
            "with a batch of {batch} it ran {:.0} % faster in one launch; that is another training run, so it is only taken \
             when asked for",
            gain * 100.0
        ),
        trial: Some(larger.trial),
        option: Some("--batch max".to_owned()),
    })
}

impl Session<'_> {
    /// Whether a configuration leaves as much of the limit as its launches may differ by.
    pub fn has_room(&self, settings: &Configuration) -> bool {
        let fits = |peak: u64| peak.saturating_add(self.room(settings)) <= self.cap_bytes();
        self.plan.device != Device::Cpu || self.highest(settings).is_none_or(fits)
    }

    /// By how much the next launch of a configuration may exceed all before it, bytes.  What a margin keeps free
    /// counts.
    pub fn room(&self, settings: &Configuration) -> u64 {
        let (cap, margin) = (self.cap_bytes() as f64, self.plan.limits.margin);
        let usual = ((ROOM - margin).max(0.0) * cap) as u64;
        let of_all = self.expected_spread(settings).saturating_sub((margin * cap) as u64);
        usual.max(of_all).max(self.seen_spread(settings))
    }

    /// What equal launches of anything differ by, of a peak as high as this configuration's, bytes.
    fn expected_spread(&self, settings: &Configuration) -> u64 {
        (SPREADS * self.common_spread() * self.highest(settings).unwrap_or(0) as f64) as u64
    }

    /// Relative standard deviation of the peaks of equal launches, by the repeats of all configurations: there are too
    /// few of one, and how a heap differs from launch to launch is taken to depend on the script more than on settings.
    fn common_spread(&self) -> f64 {
        let mut groups: Vec<(&Configuration, Kind, Vec<f64>)> = Vec::new();
        for o in self.seen.iter().filter(|o| state_of(o) == State::Fits) {
            let (Some(peak), kind) = (o.peak(), o.purpose.kind()) else { continue };
            match groups.iter_mut().find(|(c, k, _)| **c == o.settings && *k == kind) {
                Some((_, _, peaks)) => peaks.push(peak as f64),
                None => groups.push((&o.settings, kind, vec![peak as f64])),
            }
        }
        let usual = ROOM / SPREADS;
        let (mut squares, mut degrees) = (USUAL_WEIGHT * usual * usual, USUAL_WEIGHT);
        for (_, _, peaks) in groups.iter().filter(|g| g.2.len() > 1) {
            let mean = peaks.iter().sum::<f64>() / peaks.len() as f64;
            squares += peaks.iter().map(|p| (p / mean - 1.0).powi(2)).sum::<f64>();
            degrees += peaks.len() as f64 - 1.0;
        }
        (squares / degrees).sqrt()
    }

    /// The limit under which a configuration should hold by all that was seen of it, bytes.
    fn own_limit(&self, settings: &Configuration) -> Option<u64> {
        let highest = self.highest(settings)?;
        let usual = (ROOM * highest as f64) as u64;
        let spread = usual.max(self.expected_spread(settings)).max(self.seen_spread(settings));
        let beside = if self.plan.device == Device::Cpu { BESIDE_THE_PEAK } else { 0 };
        Some((highest + spread + beside).next_multiple_of(1 << 20))
    }

    /// By how much the peaks of a configuration's launches of one kind differ, bytes: a confirm trial needs more than the
    /// first steps do, and that is no uncertainty.
    fn seen_spread(&self, settings: &Configuration) -> u64 {
        let spread = |kind: Kind| {
            let alike = || {
                let launches = self.fitting_launches(settings).filter(|o| o.purpose.kind() == kind);
                launches.filter_map(|o| o.peak())
            };
            alike().max().zip(alike().min()).map_or(0, |(most, least)| most - least)
        };
        spread(Kind::Measured).max(spread(Kind::Confirm))
    }

    /// The highest peak of all launches of a configuration, bytes.
    pub fn highest(&self, settings: &Configuration) -> Option<u64> {
        self.fitting_launches(settings).filter_map(|o| o.peak()).max()
    }

    fn fitting_launches(&self, settings: &Configuration) -> impl Iterator<Item = &Observation> {
        self.seen.iter().copied().filter(move |o| o.settings == *settings && state_of(o) == State::Fits)
    }
}
