//! `autofit -- COMMAND`: the main job.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::scratch::Scratch;
use super::signals::Signals;
use super::workplace::Workplace;
use super::{Job, finish};
use crate::agent::AgentFiles;
use crate::exit::{self, Exit};
use crate::journal::{DeviceLock, Journal, JournalError};
use crate::model::{NumericsClass, Observation, Progress};
use crate::report::result::Status;
use crate::report::{Mode, Reporter, TuneResult};
use crate::search::{self, Next, Outcome, SearchPlan};
use crate::trial::Executor;
use crate::trial::local::LocalExecutor;

/// A reporter that signals and trials share.
pub type SharedReporter = Arc<Mutex<Reporter>>;

/// Tunes; the program's exit status.
///
/// # Errors
/// [`Exit`] for what the user can mend (recipe, command, place), anything else for what went wrong in here.
pub async fn run(job: Job) -> anyhow::Result<i32> {
    let place = Workplace::open(&job)?;
    let (mut journal, history) = open_journal(&place, &job)?;
    if let Some(shown) = finish::show_finished(&journal, &job)? {
        return Ok(shown);
    }
    let locks = lock_devices(&place)?;
    let reporter: SharedReporter = Arc::new(Mutex::new(Reporter::new(Mode::detect(job.verbosity))));
    let tell = teller(&reporter);
    tell(&started(&place, &job, &journal, &history));
    reporter.lock().unwrap_or_else(PoisonError::into_inner).recall(&history);
    for note in journal.notes().iter().map(String::as_str).chain(locks.iter().filter_map(DeviceLock::note)) {
        tell(&Progress::Note(note.to_owned()));
    }
    let noted = Arc::clone(&reporter);
    let signals = Signals::listen(move |text| {
        handle(&noted, &Progress::Note(text.to_owned()));
    })?;

    let scratch = Scratch::open(journal.id())?;
    let agent = AgentFiles::unpack(&scratch.path().join("agent"))?;
    let clock = Clock::start(&place, &history);
    let left = clock.clone();
    let to_reporter = Arc::clone(&reporter);
    let mut executor = LocalExecutor::new(
        place.site(&job, scratch.path().to_owned()),
        agent,
        &history,
        signals.receiver(),
        Box::new(move || left.left()),
        move |progress| handle(&to_reporter, &progress),
    );
    let mut search = Search { place: &place, history, numerics: place.recipe.policy.numerics };
    let end = search.climb(&mut executor, &mut journal, &signals, &clock, &job, &tell).await?;
    reporter.lock().unwrap_or_else(PoisonError::into_inner).finish();
    finish::emit(&place, &job, &mut journal, &executor, &search.history, end, clock.spent())
}

/// How the loop ended.
pub enum End {
    /// The search has its answer.
    Stopped(Box<Outcome>),
    /// The user stopped it.
    Interrupted(Status),
}

/// The search and what it has seen.
struct Search<'a> {
    place: &'a Workplace,
    history: Vec<Observation>,
    numerics: NumericsClass,
}

impl Search<'_> {
    /// Asks for the next trial, runs it, writes it down; until there is none.
    async fn climb<E: Executor>(
        &mut self,
        executor: &mut E,
        journal: &mut Journal,
        signals: &Signals,
        clock: &Clock,
        job: &Job,
        tell: &dyn Fn(&Progress),
    ) -> anyhow::Result<End> {
        loop {
            let plan = self.plan(clock);
            let spec = match search::next(&plan, &self.history) {
                Next::Trial(spec) => spec,
                Next::Stop(outcome) => match accept_looser(&outcome, job, self.numerics)? {
                    Some(looser) => {
                        self.numerics = looser;
                        continue;
                    }
                    None => return Ok(End::Stopped(Box::new(outcome))),
                },
            };
            if signals.stopped() {
                return Ok(End::Interrupted(signals.status()));
            }
            journal.started(journal.next_trial(), &spec)?;
            let observation = executor.run(&spec).await?;
            journal.append(&observation)?;
            tell(&Progress::TrialEnded(Box::new(observation.clone())));
            self.history.push(observation);
        }
    }

    fn plan(&self, clock: &Clock) -> SearchPlan {
        let mut plan = SearchPlan::new(self.place.device, &self.place.recipe, self.place.inspect_facts());
        plan.policy.numerics = self.numerics;
        plan.inspection = self.history.iter().find_map(|o| o.inspection.clone());
        plan.cap = self.place.cap.clone();
        plan.seconds_spent = clock.spent();
        plan
    }
}

/// Where nothing fits within the bound but something fits one bound further: asks, or takes `--yes` for an answer.
fn accept_looser(
    outcome: &Outcome,
    job: &Job,
    numerics: NumericsClass,
) -> anyhow::Result<Option<NumericsClass>> {
    let Some(fits) = &outcome.fits_beyond else { return Ok(None) };
    if fits.class <= numerics {
        return Ok(None);
    }
    let yes = job.yes
        || crate::report::ask(&format!(
            "nothing fits with numerics up to {numerics}, but {} does ({}); take it?",
            fits.settings, fits.class
        ));
    Ok(yes.then_some(fits.class))
}

fn open_journal(place: &Workplace, job: &Job) -> anyhow::Result<(Journal, Vec<Observation>)> {
    let unusable = |e: JournalError| Exit::new(exit::PLACE, e.to_string());
    crate::emit::env::check_target(&place.out.join("autofit.env"))
        .map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
    Ok(Journal::open(&place.out, &place.key(job), job.fresh).map_err(unusable)?)
}

fn lock_devices(place: &Workplace) -> Result<Vec<DeviceLock>, Exit> {
    let lock = |uuid: &String| {
        DeviceLock::take(uuid, uuid).map_err(|e| Exit::new(exit::PLACE, e.to_string()))
    };
    place.uuids().iter().map(lock).collect()
}

fn started(place: &Workplace, _job: &Job, journal: &Journal, history: &[Observation]) -> Progress {
    Progress::Started {
        id: journal.id().to_owned(),
        command: place.command.clone(),
        device: place.device,
        cap: place.cap.clone(),
        budget: place.recipe.limits.budget,
        resumed: u32::try_from(history.len()).unwrap_or(u32::MAX),
    }
}

fn handle(reporter: &SharedReporter, progress: &Progress) {
    reporter.lock().unwrap_or_else(PoisonError::into_inner).handle(progress);
}

fn teller(reporter: &SharedReporter) -> impl Fn(&Progress) + use<> {
    let reporter = Arc::clone(reporter);
    move |progress| handle(&reporter, progress)
}

/// Time spent, earlier parts of a resumed search included.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    before: f64,
    budget: Option<f64>,
}

impl Clock {
    fn start(place: &Workplace, history: &[Observation]) -> Self {
        let before = history.iter().map(|o| o.seconds).sum();
        Self { started: Instant::now(), before, budget: place.recipe.limits.budget }
    }

    /// Seconds so far.
    pub fn spent(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Seconds of the budget that are left.
    pub fn left(&self) -> Option<f64> {
        Some((self.budget? - self.spent()).max(0.0))
    }
}
