//! The search from its beginning to its end, as one procedure.

use super::SearchPlan;
use super::climb::{has_rung, look_beyond, say_what_cannot_pay};
use super::confirm::confirm;
use super::earlier::recall;
use super::explore::explore;
use super::launches::{State, state_of, timings};
use super::outcome::{Advice, Beyond, Next, Outcome, OutcomeEnd};
use super::priors::Context;
use super::replay::{Halt, Session, Step};
use super::secure::{ran_out_later, secure};
use super::settle::{best_shown, ranking, settle};
use super::space::{Space, with};
use super::sweep::sweep;
use crate::model::observation::ProcessEnd;
use crate::model::plan::Device;
use crate::model::size::Bytes;
use crate::model::{BatchPolicy, Configuration, Knob, NumericsClass, Observation, Purpose, Value, Verdict};

/// What torch.compile takes on the processor: a process that compiles was seen to hold some 300 MiB more than one that
/// does not; as much again is assumed for its workers and the C++ compiler.  It only decides what is tried.
const COMPILER_BYTES: u64 = 600 << 20;

/// A winner that runs out of memory when it is confirmed shows that whole runs need more than what was looked at before:
/// the search goes on with that knowledge, once.
const ROUNDS: usize = 2;

/// Runs the procedure over the history.
pub(super) fn run(plan: &SearchPlan, history: &[Observation]) -> Next {
    let mut session = Session::new(plan, history);
    match search(&mut session) {
        Ok(outcome) => Next::Stop(outcome),
        Err(Halt::Launch(spec)) => Next::Trial(spec),
        // Every phase answers for its own budget; this is the last resort.
        Err(Halt::Spent(limit)) => Next::Stop(session.end(
            OutcomeEnd::Unconfirmed,
            None,
            format!("{limit} was spent before anything could be confirmed"),
        )),
    }
}

fn search(session: &mut Session<'_>) -> Step<Outcome> {
    let baseline = session.launch(&Configuration::baseline(), Purpose::Baseline)?;
    if let Some(outcome) = unusable(session, baseline) {
        return Ok(outcome);
    }
    let Some(found) = session.inspection() else {
        session.notes.push("nothing was found out about the script, so no knob can be turned".to_owned());
        return confirm_baseline(session, baseline);
    };
    let space = Space::new(session.plan, found, session.plan.policy.numerics);
    recall(session, &space, baseline)?;
    let mut round = 1;
    loop {
        match secure(session, &space) {
            Ok(true) => {}
            Ok(false) => return nothing_fits(session, &space),
            Err(Halt::Spent(limit)) => {
                let reason = format!("nothing was found that fits before {limit} was spent");
                return Ok(session.end(OutcomeEnd::NothingFits, None, reason));
            }
            Err(launch) => return Err(launch),
        }
        let winner = improve(session, &space)?;
        if let Some(outcome) = confirm(session, &space, winner, round < ROUNDS)? {
            return Ok(outcome);
        }
        round += 1;
    }
}

/// The ways in which the first launch ends the search.
fn unusable(session: &mut Session<'_>, baseline: &Observation) -> Option<Outcome> {
    let end = match baseline.verdict {
        Verdict::AgentMissing => OutcomeEnd::AgentMissing,
        Verdict::Failed
        | Verdict::Timeout
        | Verdict::Diverged
        | Verdict::NotApplied
        | Verdict::Interrupted => OutcomeEnd::ScriptFails,
        Verdict::Disturbed if baseline.timing.is_none() => OutcomeEnd::ScriptFails,
        Verdict::Fit | Verdict::Oom | Verdict::Thrash | Verdict::Disturbed => return None,
    };
    let reason = match baseline.verdict {
        Verdict::Timeout => {
            let limit = session.plan.limits.trial_timeout.filter(|_| baseline.end == ProcessEnd::TimedOut);
            format!(
                "the script as it is did not take enough steps in {} ({}); --trial-timeout gives it more",
                limit.map_or("time".to_owned(), |seconds| format!(
                    "the {seconds:.0} s that a launch may take"
                )),
                baseline.why
            )
        }
        // It ran well, and it trains nothing.
        _ if baseline.end == (ProcessEnd::Exited { code: 0 }) && baseline.steps == 0 => {
            format!("the script as it is cannot be tuned: {}", baseline.why)
        }
        _ => format!("the script as it is does not run: {}", baseline.why),
    };
    Some(session.end(end, None, reason))
}

fn confirm_baseline(session: &mut Session<'_>, baseline: &Observation) -> Step<Outcome> {
    if session.state(&baseline.settings) != State::Fits {
        let reason = "the script as it is does not fit, and no knob can be turned".to_owned();
        return Ok(session.end(OutcomeEnd::NothingFits, None, reason));
    }
    let found = crate::model::Inspection {
        version: crate::model::VERSION,
        device: session.plan.device,
        frameworks: Default::default(),
        options: None,
        switches: Vec::new(),
        loaders: Vec::new(),
        roots: Vec::new(),
        detected: None,
        launched: Default::default(),
        knobs: Vec::new(),
    };
    let space = Space::new(session.plan, &found, session.plan.policy.numerics);
    let outcome = confirm(session, &space, Configuration::baseline(), false)?;
    let reason = "the script as it is did not hold when it was looked at again, and no knob can be turned";
    Ok(outcome.unwrap_or_else(|| session.end(OutcomeEnd::Unconfirmed, None, reason.to_owned())))
}

/// Explore, settle, prune; whatever the budget cuts short, the best so far.
fn improve(session: &mut Session<'_>, space: &Space<'_>) -> Step<Configuration> {
    say_what_cannot_pay(session, space);
    let phases = |session: &mut Session<'_>| -> Step<Configuration> {
        if !ran_out_later(session) {
            sweep(session, space, &best(session, space))?;
        }
        explore(session, space)?;
        let winner = settle(session, space, best(session, space))?;
        larger_batch(session, space, &winner)?;
        Ok(winner)
    };
    match phases(session) {
        Err(Halt::Spent(limit)) => {
            session.notes.push(format!("{limit} ended the search early; the best so far is confirmed"));
            Ok(best_shown(session, space).unwrap_or_default())
        }
        other => other,
    }
}

fn best(session: &Session<'_>, space: &Space<'_>) -> Configuration {
    let ranked = ranking(session, space);
    match ranked.first() {
        Some((settings, _)) => settings.clone(),
        None => session.fitting().into_iter().next().unwrap_or_default(),
    }
}

/// One launch with twice the batch, for advice, where the policy keeps the batch and memory is left.
fn larger_batch(session: &mut Session<'_>, space: &Space<'_>, winner: &Configuration) -> Step<()> {
    let wanted = session.plan.limits.advice;
    let policy = session.plan.policy;
    let may = policy.batch == BatchPolicy::Keep && policy.numerics < NumericsClass::Dynamics;
    let (Some(own), true) = (space.batch(), may && wanted != Some(false)) else { return Ok(()) };
    let listed = space.found().site(Knob::BatchSize).is_some_and(|s| s.values.is_empty());
    let in_samples = session.usual_batch().is_some();
    if has_rung(winner, Some(own)) || winner.get(Knob::BatchSize).is_some() || !listed || !in_samples {
        return Ok(());
    }
    // Cheap: few launches so far, and at most half of the cap in use.
    let peak = session.seen.iter().filter(|o| o.settings == *winner).filter_map(|o| o.peak()).max();
    let room = peak.is_some_and(|p| 2 * p <= session.cap_bytes());
    let cheap = session.seen.len() <= 10 && room;
    if wanted.is_none() && !cheap {
        return Ok(());
    }
    let settings = with(winner, Knob::BatchSize, Value::Int(own * 2));
    match session.launch(&settings, Purpose::Advice) {
        Ok(_) => Ok(()),
        Err(Halt::Spent(_)) => Ok(()),
        Err(launch) => Err(launch),
    }
}

fn nothing_fits(session: &mut Session<'_>, space: &Space<'_>) -> Step<Outcome> {
    let beyond = match look_beyond(session, space) {
        Ok(beyond) => beyond,
        Err(Halt::Spent(limit)) => {
            session.notes.push(format!("{limit} left nothing to look beyond the bound"));
            None
        }
        Err(launch) => return Err(launch),
    };
    let bound = session.plan.policy.numerics;
    let Some(settings) = beyond else {
        let reason = if session.died_early() {
            "nothing fits: memory ran out before the script's model was first called, so the knobs inside the script \
             could not even be looked at"
        } else {
            "nothing fits: every rung that can be turned for this script ran out of memory"
        };
        let reason = reason.to_owned();
        let advice = higher_cap(session.plan);
        let mut outcome = session.end(OutcomeEnd::NothingFits, None, reason);
        outcome.advice.extend(advice);
        return Ok(outcome);
    };
    let class = class_of(space, &settings);
    let option = if settings.get(Knob::BatchSize).is_some() {
        "--batch lower".to_owned()
    } else {
        format!("--numerics {class}")
    };
    let o = session.seen.iter().rev().find(|o| o.settings == settings);
    let trial = o.map_or(0, |o| o.trial);
    let rate = o.and_then(|o| o.timing.as_ref());
    // Three digits: one launch knows no more.
    let digits = |x: f64| if x >= 100.0 { 0 } else { usize::from(x < 10.0) + 1 };
    let rounded = |x: f64| format!("{x:.*}", digits(x));
    let speed = rate.map_or(String::new(), |t| format!(", {} {}", rounded(t.samples_per_second), t.unit));
    let text = format!("{settings} fits{speed}; it is of class {class}, so it is only taken when asked for");
    let reason = format!("nothing fits with numerics up to {bound}, but {settings} does");
    let mut outcome = session.end(OutcomeEnd::NothingFits, None, reason);
    outcome.advice.push(Advice { text, trial: Some(trial), option: Some(option.clone()) });
    outcome.fits_beyond = Some(Beyond { settings, class, option, trial });
    Ok(outcome)
}

/// What is left where no setting fits: more memory, where the limit is the user's own.
fn higher_cap(plan: &SearchPlan) -> Option<Advice> {
    let (cap, have) = (plan.cap.bytes?, plan.machine.ram_bytes);
    let own = plan.device == Device::Cpu && cap < have - have / 20;
    own.then(|| Advice {
        text: format!(
            "nothing that may be turned for this script is left; a higher --memory-cap is (this machine has {})",
            Bytes(have)
        ),
        trial: None,
        option: None,
    })
}

/// The loosest class of what is set, as it is for this script.
fn class_of(space: &Space<'_>, settings: &Configuration) -> NumericsClass {
    let of = |k: &Knob| space.found().site(*k).map_or(k.class(), |s| s.class);
    settings.0.keys().map(of).max().unwrap_or(NumericsClass::Exact)
}

impl<'a> Session<'a> {
    /// Whether the script as it is ran out of memory before it showed what it trains.
    pub fn died_early(&self) -> bool {
        let Some(baseline) = self.seen.iter().find(|o| o.settings.is_baseline()) else { return false };
        let nothing_seen = self.inspection().is_none_or(|i| i.roots.is_empty());
        state_of(baseline) == State::TooLarge && baseline.steps == 0 && nothing_seen
    }

    /// The outcome, with everything that was left out and noted on the way.
    pub fn end(&mut self, end: OutcomeEnd, settings: Option<Configuration>, reason: String) -> Outcome {
        Outcome {
            end,
            winner: None,
            settings,
            reason,
            fits_beyond: None,
            advice: Vec::new(),
            skipped: std::mem::take(&mut self.skipped),
            notes: std::mem::take(&mut self.notes),
        }
    }

    /// What the priors depend on, as far as it is known now.
    pub fn context<'b>(&self, space: &Space<'b>) -> Context<'b> {
        Context {
            device: self.plan.device,
            found: space.found(),
            cores: self.plan.machine.cores,
            cpu_bf16: self.plan.machine.cpu_bf16,
            loader_wait: self.loader_wait().unwrap_or(0.0),
            fragmented: self.fragmentation() == Some(true)
                || self.seen.iter().any(|o| o.peaks.alloc_retries > 0),
            batch: space.batch(),
        }
    }

    /// Share of a step in which the loop waits for its loader, in the first launch that was timed.
    pub fn loader_wait(&self) -> Option<f64> {
        let own_loader = |o: &&&Observation| o.settings.get(Knob::NumWorkers).is_none();
        self.seen.iter().filter(own_loader).find_map(|o| o.timing.as_ref()).map(|t| t.loader_wait_share)
    }

    /// The same in the latest timed launch of a configuration.
    pub fn wait_of(&self, settings: &Configuration) -> Option<f64> {
        timings(&self.seen, settings).last().map(|t| t.loader_wait_share)
    }

    /// Whether the script as it is ran out of memory for want of contiguous memory.
    pub fn fragmentation(&self) -> Option<bool> {
        self.seen.iter().find(|o| o.settings.is_baseline())?.failure.as_ref()?.fragmentation
    }

    /// The memory that may be used, bytes.
    pub fn cap_bytes(&self) -> u64 {
        let stated = self.plan.cap.bytes.or_else(|| self.seen.iter().find_map(|o| o.cap.bytes));
        let device = || self.seen.iter().find_map(|o| o.failure.as_ref()?.fields.total_bytes);
        let host =
            || (self.plan.device == Device::Cpu).then_some(self.plan.machine.ram_bytes).filter(|r| *r > 0);
        let seen = || self.seen.iter().filter_map(|o| o.peak()).max().map(|p| 2 * p);
        stated.or_else(device).or_else(host).or_else(seen).unwrap_or(1 << 40)
    }

    /// On the processor the compiler shares the limit with what it compiles; why that leaves no room for it.
    pub fn no_room_to_compile(&self, space: &Space<'_>) -> Option<String> {
        if self.plan.device != Device::Cpu {
            return None;
        }
        let fitting = self.fitting_in(space);
        let peaks = self.seen.iter().filter(|o| fitting.contains(&o.settings)).filter_map(|o| o.peak());
        let least = peaks.min()?;
        (least + COMPILER_BYTES > self.cap_bytes())
            .then(|| format!("the compiler itself needs about {} of the memory limit", Bytes(COMPILER_BYTES)))
    }

    /// Configurations that fit and that the bound allows (advice is measured beyond it).
    pub fn fitting_in(&self, space: &Space<'_>) -> Vec<Configuration> {
        self.fitting().into_iter().filter(|c| space.allows(c)).collect()
    }
}
