//! Takes launches from the history, or asks for them.

use super::SearchPlan;
use super::ahead::same_launch;
use super::bans::{Ban, blame, not_applied};
use super::earlier::Known;
use super::launches::{State, state_of};
use super::outcome::Skipped;
use crate::model::observation::Kind;
use crate::model::{Configuration, Inspection, Knob, Observation, Purpose, TrialSpec, Verdict};
use crate::verdict::bands::Terms;
use crate::verdict::parity::{Parity, Trace, check, is_reference, unrepeatable};

/// A disturbed launch is repeated this often for one configuration ...
const DISTURBED_EACH: usize = 1;
/// ... and this often in a search; on a machine that never comes to rest a search must still end.
const DISTURBED_ALL: usize = 3;

/// Why the procedure cannot go on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Halt {
    /// It needs this launch.
    Launch(TrialSpec),
    /// The budget does not allow another launch (beyond the one that confirms).
    Spent(String),
}

/// Either a result, or the reason to leave the procedure.
pub(super) type Step<T> = Result<T, Halt>;

/// The procedure's memory: what was seen up to this point.
pub(super) struct Session<'a> {
    pub plan: &'a SearchPlan,
    /// What the procedure has asked for, in order.
    pub seen: Vec<&'a Observation>,
    /// Launches that only compare how training goes: they tell nothing of speed or memory.
    pub compared: Vec<&'a Observation>,
    /// Launches that measure several configurations in turns: what they tell of each is less than a launch of its own.
    pub sweeps: Vec<&'a Observation>,
    /// Launches under less than the search's limit: what does not fit there may fit all the same.
    pub proofs: Vec<&'a Observation>,
    /// What earlier searches know, as far as it still holds.
    pub known: Vec<&'a Known>,
    /// What it has not asked for yet.
    rest: Vec<&'a Observation>,
    /// Struck out.
    pub bans: Vec<Ban>,
    pub skipped: Vec<Skipped>,
    pub notes: Vec<String>,
    /// Time of the whole search over time of its trials, at least 1.
    overhead: f64,
}

impl<'a> Session<'a> {
    pub fn new(plan: &'a SearchPlan, history: &'a [Observation]) -> Self {
        let trials: f64 = history.iter().map(|o| o.seconds).sum();
        let overhead = if trials > 0.0 { (plan.seconds_spent / trials).clamp(1.0, 3.0) } else { 1.0 };
        Self {
            plan,
            seen: Vec::new(),
            compared: Vec::new(),
            sweeps: Vec::new(),
            proofs: Vec::new(),
            known: Vec::new(),
            rest: history.iter().filter(|o| o.verdict != Verdict::Interrupted).collect(),
            bans: Vec::new(),
            skipped: Vec::new(),
            notes: Vec::new(),
            overhead,
        }
    }

    /// One that has seen all of `history`, for models outside of the procedure.
    pub fn having_seen(plan: &'a SearchPlan, history: &'a [Observation]) -> Self {
        let mut session = Self::new(plan, &[]);
        history.iter().for_each(|o| session.remember(o));
        session
    }

    /// What the first launch found.
    pub fn inspection(&self) -> Option<&'a Inspection> {
        self.plan.inspection.as_ref().or_else(|| self.seen.iter().find_map(|o| o.inspection.as_ref()))
    }

    /// One launch of `settings`.  A disturbed one is repeated, within bounds; where the repeat cannot be paid for, what
    /// the disturbed one has shown must do.
    pub fn launch(&mut self, settings: &Configuration, purpose: Purpose) -> Step<&'a Observation> {
        // How something trains does not change from launch to launch.
        let known = self.compared.iter().find(|o| o.settings == *settings).copied();
        if let (Purpose::Parity, Some(o)) = (purpose, known) {
            return Ok(o);
        }
        let mut last = None;
        loop {
            let o = match (self.once(settings, purpose), last) {
                (Ok(o), _) if purpose == Purpose::Parity => return Ok(o), // load does no harm to it
                (Err(Halt::Spent(_)), Some(disturbed)) => return Ok(disturbed),
                (answer, _) => answer?,
            };
            if self.may_be_noise(o) {
                return self.against_noise(o);
            }
            last = Some(o);
            let disturbed = |o: &&&Observation| o.verdict == Verdict::Disturbed;
            let all = self.seen.iter().filter(disturbed).count();
            let same = |o: &&&Observation| o.settings == *settings && o.purpose.kind() == purpose.kind();
            let each = self.seen.iter().filter(disturbed).filter(same).count();
            if o.verdict != Verdict::Disturbed || each > DISTURBED_EACH || all > DISTURBED_ALL {
                return Ok(o);
            }
        }
    }

    fn once(&mut self, settings: &Configuration, purpose: Purpose) -> Step<&'a Observation> {
        self.take(TrialSpec::new(settings.clone(), purpose))
    }

    /// One launch that measures `windows` in turns with `settings`; a disturbed one is not repeated, since what it
    /// compares was disturbed alike.
    pub fn sweep(&mut self, settings: &Configuration, windows: Vec<Configuration>) -> Step<&'a Observation> {
        self.take(TrialSpec { windows, ..TrialSpec::new(settings.clone(), Purpose::Sweep) })
    }

    /// One launch of a confirmed configuration under `limit`, bytes; a disturbed one tells as much of its memory.
    pub fn prove(&mut self, settings: &Configuration, limit: u64) -> Step<&'a Observation> {
        self.take(TrialSpec { limit: Some(limit), ..TrialSpec::new(settings.clone(), Purpose::Prove) })
    }

    fn take(&mut self, spec: TrialSpec) -> Step<&'a Observation> {
        let Some(at) = self.rest.iter().position(|o| answers(o, &spec)) else {
            self.affordable(spec.purpose)?;
            return Err(Halt::Launch(spec));
        };
        let o = self.rest.remove(at);
        self.remember(o);
        match o.purpose.kind() {
            Kind::Parity | Kind::Prove => {}
            Kind::Sweep => self.learn_from_windows(o),
            Kind::Measured | Kind::Confirm if self.may_be_noise(o) => {}
            Kind::Measured | Kind::Confirm => self.learn(o),
        }
        Ok(o)
    }

    /// Puts it where launches of its kind are.
    pub fn remember(&mut self, o: &'a Observation) {
        match o.purpose.kind() {
            Kind::Parity => self.compared.push(o),
            Kind::Sweep => self.sweeps.push(o),
            Kind::Prove => self.proofs.push(o),
            Kind::Measured | Kind::Confirm => self.seen.push(o),
        }
    }

    /// Whether it differs from a baseline of which nobody knows how well it repeats itself.
    fn may_be_noise(&self, o: &Observation) -> bool {
        let references = self.seen.iter().filter(|o| is_reference(o)).count();
        o.verdict == Verdict::Diverged && o.purpose.kind() == Kind::Measured && references == 1
    }

    /// Launches the script as it is once more: if that differs from itself as much, what has diverged is launched again
    /// and judged by it.
    fn against_noise(&mut self, o: &'a Observation) -> Step<&'a Observation> {
        let again = match self.once(&Configuration::baseline(), Purpose::Repeat) {
            Err(Halt::Spent(_)) => None,
            other => Some(other?),
        };
        let baseline = self.seen.iter().find(|o| is_reference(o)).copied();
        let (Some(again), Some(baseline)) = (again.filter(|a| is_reference(a)), baseline) else {
            self.learn(o);
            return Ok(o);
        };
        let terms = Terms::new(&o.settings, self.inspection());
        let judged = check(Trace::of(baseline), Trace::of(o), &terms, Some(Trace::of(again))).parity;
        if matches!(judged, Parity::Diverged(_)) {
            self.learn(o);
            return Ok(o);
        }
        if let Some(why) = unrepeatable(Trace::of(baseline), Trace::of(again), &terms) {
            self.notes.push(format!("whether settings change training cannot be told: {why}"));
        }
        match self.once(&o.settings, o.purpose) {
            Err(Halt::Spent(_)) => {
                self.learn(o);
                Ok(o)
            }
            other => other,
        }
    }

    /// Whether a launch can be paid for and the confirm trial after it, too.
    fn affordable(&self, purpose: Purpose) -> Step<()> {
        if self.seen.is_empty() {
            return Ok(());
        }
        let confirm = confirms(purpose);
        let reserve = self.reserve(purpose);
        if let Some(most) = self.plan.limits.max_trials
            && self.launched() + 1 + reserve > most
        {
            return Err(Halt::Spent(format!("the limit of {most} launches")));
        }
        let Some(budget) = self.plan.limits.budget else { return Ok(()) };
        let fits = self.seen.iter().any(|o| state_of(o) == State::Fits);
        let first_confirm = confirm && !self.seen.iter().any(|o| confirms(o.purpose));
        let (launch, confirming) = self.usual_seconds();
        let need = if purpose.covers() { confirming } else { launch } + f64::from(reserve) * confirming;
        // The first confirm trial is launched all the same: without it nothing could be claimed.
        if self.spent() + need > budget && !(first_confirm && fits) {
            return Err(Halt::Spent(format!("the budget of {budget:.0} s")));
        }
        Ok(())
    }

    /// Whether a sweep of `seconds` leaves room for a launch of what it suggests and for the confirm trial.
    pub fn room_for_sweep(&self, seconds: f64) -> bool {
        let (launch, confirming) = self.usual_seconds();
        let closing = self.reserve(Purpose::Sweep);
        let need = self.overhead * seconds + 2.0 * launch + f64::from(closing) * confirming;
        self.plan.limits.max_trials.is_none_or(|most| self.launched() + 2 + closing <= most)
            && self.plan.limits.budget.is_none_or(|budget| self.spent() + need <= budget)
    }

    /// Launches that are to be left after one of this purpose: the confirm trial, and the proof of the winner's peak where
    /// that is asked for.
    fn reserve(&self, purpose: Purpose) -> u32 {
        let proof = u32::from(self.plan.limits.prove_peak);
        let held = || self.seen.iter().any(|o| confirms(o.purpose) && state_of(o) == State::Fits);
        match purpose {
            // To have something to claim comes first; once there is, proving it comes before a better figure.
            Purpose::Confirm if held() => proof,
            Purpose::Confirm | Purpose::Prove => 0,
            // Before anything fits there is nothing to confirm yet; but what is found then must be confirmed, too.
            _ => 1 + proof,
        }
    }

    fn launched(&self) -> u32 {
        let all = self.seen.len() + self.compared.len() + self.sweeps.len() + self.proofs.len();
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Seconds of the search so far.
    fn spent(&self) -> f64 {
        let all = self.seen.iter().chain(&self.compared).chain(&self.sweeps).chain(&self.proofs);
        self.overhead * all.map(|o| o.seconds).sum::<f64>()
    }

    /// Seconds that a launch, and a confirm trial, usually take here.
    fn usual_seconds(&self) -> (f64, f64) {
        let of = |state: Option<State>| -> Vec<f64> {
            let wanted = |o: &&&Observation| state.is_none_or(|s| state_of(o) == s) && !confirms(o.purpose);
            self.seen.iter().filter(wanted).map(|o| o.seconds * self.overhead).collect()
        };
        let mut seconds = of(Some(State::Fits));
        if seconds.is_empty() {
            seconds = of(None);
        }
        seconds.sort_by(f64::total_cmp);
        let usual = seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
        // A confirm trial measures longer and goes through the end of an epoch.
        (usual, usual * 1.4 + 4.0)
    }

    /// Strikes out what a launch has shown to be of no use.
    fn learn(&mut self, o: &'a Observation) {
        if o.settings.is_baseline() || confirms(o.purpose) {
            return;
        }
        if let Some(why) = self.other_batch(o) {
            let bans = vec![Ban::With(o.settings.clone())];
            self.strike(bans, &why);
        } else if state_of(o) == State::Bad {
            let hangs = matches!(o.verdict, Verdict::Timeout | Verdict::Diverged);
            let sound = |p: &&&Observation| match state_of(p) {
                State::Fits => true,
                // What ran out of memory has at least started: it tells whom to blame for a failure to start.
                State::TooLarge => !hangs,
                _ => false,
            };
            let bans = blame(o, self.seen.iter().filter(sound).map(|p| &p.settings));
            self.strike(bans, &format!("{}: {}", o.verdict.name().replace('_', " "), o.why));
        }
    }

    /// What is not in force between two steps is not in force from the start either.  A batch is another matter: it was
    /// cut, not set.
    fn learn_from_windows(&mut self, o: &Observation) {
        for window in &o.windows {
            for report in window.not_applied.iter().filter(|r| r.knob != Knob::BatchSize) {
                let why = window.why_not.as_deref().or(report.reason.as_deref()).unwrap_or_default();
                self.strike(vec![not_applied(report)], &format!("not applied: {why}"));
            }
        }
    }

    fn strike(&mut self, bans: Vec<Ban>, why: &str) {
        for ban in bans {
            if !self.bans.contains(&ban) {
                self.skip(ban.words(), why);
                self.bans.push(ban);
            }
        }
    }

    /// A setting must not change the effective batch unless it is the batch that was set.
    fn other_batch(&self, o: &Observation) -> Option<String> {
        if o.settings.get(Knob::BatchSize).is_some() || state_of(o) != State::Fits {
            return None;
        }
        let samples = |o: &Observation| o.timing.as_ref().map(|t| t.samples_per_step).filter(|s| *s > 0.0);
        let usual = self.usual_batch()?;
        let now = samples(o)?;
        // Batches of variable size differ a little from launch to launch.
        let same = (0.7..1.4).contains(&(now / usual));
        (!same)
            .then(|| format!("a step took {now:.0} samples instead of {usual:.0}: another effective batch"))
    }

    /// Samples of a step of the script as it is.
    pub fn usual_batch(&self) -> Option<f64> {
        let baseline = self.seen.iter().filter(|o| o.settings.is_baseline());
        let measured =
            baseline.filter_map(|o| o.timing.as_ref()).map(|t| t.samples_per_step).find(|s| *s > 0.0);
        measured.or_else(|| {
            let detected = self.inspection()?.detected.as_ref()?;
            (detected.samples_per_step > 0 && detected.samples_from == "loader")
                .then_some(detected.samples_per_step as f64)
        })
    }

    /// Remembers, once, that a move was left out.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let entry = Skipped { what: what.into(), why: why.into() };
        if !self.skipped.iter().any(|s| s.what == entry.what) {
            self.skipped.push(entry);
        }
    }

    /// Whether `settings` fits, as far as it was launched.
    pub fn state(&self, settings: &Configuration) -> State {
        if self.banned(settings) {
            return State::Bad;
        }
        let mut state = State::Unknown;
        for o in self.seen.iter().filter(|o| o.settings == *settings) {
            match state_of(o) {
                State::TooLarge => return State::TooLarge,
                // A confirm trial may fail for what only it does; it does not unsay what was measured before.
                State::Bad if confirms(o.purpose) => {}
                State::Unknown => {}
                s => state = s,
            }
        }
        state
    }

    pub fn banned(&self, settings: &Configuration) -> bool {
        self.bans.iter().any(|b| b.hits(settings))
    }

    /// Configurations that fit, in the order in which they were found.
    pub fn fitting(&self) -> Vec<Configuration> {
        let mut all: Vec<Configuration> = Vec::new();
        for o in &self.seen {
            if !all.contains(&o.settings) && self.state(&o.settings) == State::Fits {
                all.push(o.settings.clone());
            }
        }
        all
    }
}

/// Whether it is what is asked for.
fn answers(o: &Observation, spec: &TrialSpec) -> bool {
    same_launch(&TrialSpec::new(o.settings.clone(), o.purpose), spec)
}

pub(super) fn confirms(purpose: Purpose) -> bool {
    purpose == Purpose::Confirm
}
