//! `autofit -- COMMAND`: the main job.

use std::path::Path;

use super::bench::{Bench, Clock};
use super::signals::Signals;
use super::workplace::Workplace;
use super::{Job, finish, terminal};
use crate::exit::{self, Exit};
use crate::journal::{FolderLock, Journal, JournalError};
use crate::model::{NumericsClass, Observation, Progress, TrialSpec, Verdict};
use crate::report::result::Status;
use crate::sandbox::scratch;
use crate::search::{self, Earlier, Next, Outcome, SearchPlan};
use crate::trial::Launches;

/// Tunes; the program's exit status.
///
/// # Errors
/// [`Exit`] for what the user can mend (recipe, command, place), anything else for what went wrong in here.
pub async fn run(job: Job) -> anyhow::Result<i32> {
    let place = Workplace::open(&job).await?;
    let (mut journal, history) = open_journal(&place, &job)?;
    if let Some(status) = finish::show_finished(&journal, &place, &job)? {
        // Killed after its last line, it left its room behind.
        scratch::sweep();
        return Ok(status);
    }
    let _here = FolderLock::take(&place.out).map_err(unusable)?;
    let mut bench = Bench::open(&place, &job, &history)?;
    bench.tell(&started(&place, &journal, &history));
    bench.recall(&history);
    for note in journal.notes() {
        bench.tell(&Progress::Note(note.clone()));
    }
    let earlier = known_earlier(&journal, &place);
    let mut search =
        Search { place: &place, job: &job, history, earlier, numerics: place.recipe.policy.numerics };
    let end = search.climb(&mut bench, &mut journal).await?;
    bench.finish_reporting();
    finish::emit(&place, &job, &mut journal, &bench, &search.history, end)
}

/// What the agent writes into its trial's folder when a GPU's memory runs out.
const SNAPSHOT: &str = "oom_snapshot.pickle";

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
    job: &'a Job,
    history: Vec<Observation>,
    earlier: Vec<Earlier>,
    numerics: NumericsClass,
}

impl Search<'_> {
    /// Asks for the next trial, runs it, writes it down; until there is none.
    async fn climb(&mut self, bench: &mut Bench, journal: &mut Journal) -> anyhow::Result<End> {
        let mut running: Vec<(u32, TrialSpec)> = Vec::new();
        loop {
            let plan = self.plan(&bench.clock);
            let spec = match search::next(&plan, &self.history) {
                Next::Trial(spec) => spec,
                // What still runs was launched ahead, and is not needed.
                Next::Stop(outcome) => match self.accept_looser(&outcome) {
                    Some(looser) => {
                        self.numerics = looser;
                        continue;
                    }
                    None => return Ok(End::Stopped(Box::new(outcome))),
                },
            };
            match stopped(&bench.signals) {
                Some(status) if running.is_empty() => return Ok(End::Interrupted(status)),
                Some(_) => {}
                None => {
                    let asked = |(_, s): &(u32, TrialSpec)| search::same_launch(s, &spec);
                    let mut wanted = Some(spec.clone()).filter(|_| !running.iter().any(asked));
                    while running.len() < bench.executor.places() {
                        let specs: Vec<TrialSpec> = running.iter().map(|(_, s)| s.clone()).collect();
                        let ahead = || search::ahead(&plan, &self.history, &specs);
                        let Some(spec) = wanted.take().or_else(ahead) else { break };
                        let trial = journal.next_trial();
                        journal.started(trial, &spec).map_err(midway)?;
                        bench.executor.start(trial, &spec).await?;
                        running.push((trial, spec));
                    }
                }
            }
            let observation = bench.executor.ended().await?;
            running.retain(|(trial, _)| *trial != observation.trial);
            if observation.verdict == Verdict::Interrupted {
                // It tells nothing; a resumed search launches it again.
                return Ok(End::Interrupted(bench.signals.status()));
            }
            journal.append(&observation).map_err(midway)?;
            bench.tell(&Progress::TrialEnded(Box::new(observation.clone())));
            keep_snapshot(bench, observation.trial, journal.dir(), self.place);
            self.history.push(observation);
        }
    }

    fn plan(&self, clock: &Clock) -> SearchPlan {
        let mut plan = self.place.search_plan(&self.history);
        plan.policy.numerics = self.numerics;
        plan.earlier.clone_from(&self.earlier);
        plan.seconds_spent = clock.spent();
        plan
    }

    /// Where nothing fits within the bound but something fits one bound further: asks, or takes `--yes` for an
    /// answer.
    fn accept_looser(&self, outcome: &Outcome) -> Option<NumericsClass> {
        let beyond = outcome.fits_beyond.as_ref().filter(|b| b.class > self.numerics)?;
        let question = format!(
            "nothing fits with numerics up to {}, but {} does (class {}); take it?",
            self.numerics, beyond.settings, beyond.class
        );
        (self.job.yes || terminal::ask(&question)).then_some(beyond.class)
    }
}

/// What the searches that the journal knows of can tell this one.
fn known_earlier(journal: &Journal, place: &Workplace) -> Vec<Earlier> {
    let searches = journal.earlier();
    let noise = search::usual_noise(place.device);
    searches.iter().filter_map(|(id, observations)| Earlier::of(id, observations, noise)).collect()
}

/// What a GPU's allocator held when memory ran out stays beside the journal; the trial's own folder goes.
fn keep_snapshot(bench: &Bench, trial: u32, dir: &Path, place: &Workplace) {
    let from = bench.executor.trial_dir(trial).join(SNAPSHOT);
    if !from.is_file() {
        return;
    }
    let to = dir.join(format!("oom-{trial}.pickle"));
    let shown = finish::shown(&to, place);
    let note = match std::fs::copy(&from, &to) {
        Ok(_) => format!("what the GPU's memory held is in {shown}, for pytorch.org/memory_viz"),
        Err(e) => format!("what the GPU's memory held could not be kept in {shown} ({e})"),
    };
    bench.tell(&Progress::Note(note));
}

fn stopped(signals: &Signals) -> Option<Status> {
    signals.stopped().then(|| signals.status())
}

fn unusable(error: JournalError) -> Exit {
    Exit::new(exit::PLACE, error.to_string())
}

/// The same after trials were measured.
pub fn midway(error: JournalError) -> Exit {
    Exit::new(exit::PLACE, error.midway())
}

fn open_journal(place: &Workplace, job: &Job) -> Result<(Journal, Vec<Observation>), Exit> {
    let env = place.out.join("autofit.env");
    // `--out` names a place, not one that must be there.
    std::fs::create_dir_all(&place.out).map_err(|e| {
        let what = format!(
            "{} cannot be made ({}); name another folder with --out DIR",
            place.out.display(),
            e.kind()
        );
        Exit::new(exit::PLACE, what)
    })?;
    crate::emit::env::check_target(&env).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
    let key = place.key(job);
    let (journal, history) = Journal::open(&place.out, &key, job.fresh).map_err(unusable)?;
    if !failed_as_it_is(&history) {
        return Ok((journal, history));
    }
    // The user has come back because something was mended that the key does not know of (a package, a data file).
    drop(journal);
    Journal::open(&place.out, &key, true).map_err(unusable)
}

/// Whether all that an earlier search found out is that the script fails by itself.
fn failed_as_it_is(history: &[Observation]) -> bool {
    let by_itself = |v| matches!(v, Verdict::Failed | Verdict::AgentMissing | Verdict::Timeout);
    !history.is_empty() && history.iter().all(|o| o.settings.is_baseline() && by_itself(o.verdict))
}

fn started(place: &Workplace, journal: &Journal, history: &[Observation]) -> Progress {
    Progress::Started {
        id: journal.id().to_owned(),
        command: place.command.clone(),
        device: place.device,
        cap: place.cap.clone(),
        budget: place.recipe.limits.budget,
        resumed: u32::try_from(history.len()).unwrap_or(u32::MAX),
    }
}
