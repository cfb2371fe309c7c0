//! `autofit profile [--set ...] -- COMMAND`: one steady step of a configuration under PyTorch's profiler, and what its
//! memory was for.  A trial like every other: nothing of the user's is changed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::bench::Bench;
use super::try_one::refuse_what_cannot_be_turned;
use super::workplace::Workplace;
use super::{Job, finish, terminal};
use crate::agent::EventReader;
use crate::exit::{self, Exit};
use crate::model::event::Record;
use crate::model::observation::{ProcessEnd, RankFigures};
use crate::model::profile::Profile;
use crate::model::{Configuration, Observation, Progress, Purpose, TrialSpec, VERSION, Verdict};
use crate::report::profile::{ProfileText, render};
use crate::report::style::{Stream, Style};
use crate::trial::{Executor, Launches};
use crate::verdict::judge::signal_name;

/// What the agent writes beside its records, and what it is for.
const FILES: [(&str, &str); 4] = [
    ("trace.json.gz", "the whole step, for ui.perfetto.dev or chrome://tracing"),
    ("blocks.json", "the memory at its peak, block by block, with the lines that made them"),
    ("memory_summary.txt", "the caching allocator's own summary"),
    ("memory_snapshot.pickle", "every allocation of the step, for pytorch.org/memory_viz"),
];
/// Where they go, below `--out`.
const FOLDER: &str = "autofit-profile";

/// Lines of a failed launch's output that the error has.
const TAIL_LINES: usize = 12;
/// SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: the end of native code that has gone wrong.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];
/// How Python's faulthandler begins, which the agent switches on in a profile.
const CRASH: &str = "Fatal Python error";

/// `autofit profile`.
#[derive(Debug, Clone)]
pub struct ProfileRequest {
    /// What is profiled.
    pub settings: Configuration,
    /// The rest.
    pub job: Job,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    version: u32,
    settings: &'a Configuration,
    #[serde(flatten)]
    profile: &'a Profile,
    ranks: &'a [RankFigures],
    files: Vec<String>,
}

/// Profiles; the program's exit status.
///
/// # Errors
/// [`Exit`] for what the user can mend.
pub async fn run(request: ProfileRequest) -> anyhow::Result<i32> {
    let ProfileRequest { settings, job } = request;
    let place = Workplace::open(&job).await?;
    if place.cluster.as_ref().is_some_and(|cluster| cluster.nodes > 1) {
        let message = "a profile is of one rank on one node; ask for it with --slurm --nodes=1";
        return Err(Exit::new(exit::USAGE, message).into());
    }
    let mut bench = Bench::open(&place, &job, &[])?;
    let mut trial = 1;
    if !settings.is_baseline() {
        // The script as it is comes first: that launch tells how each knob is turned.
        let observation = launch(&mut bench, trial, &Configuration::baseline(), Purpose::Baseline).await?;
        if let Some(status) = stopped(&bench, &observation)? {
            return Ok(status);
        }
        if let Some(inspection) = bench.executor.inspection() {
            refuse_what_cannot_be_turned(&settings, inspection)?;
        }
        trial += 1;
    }
    bench.executor.profile();
    let purpose = if settings.is_baseline() { Purpose::Baseline } else { Purpose::Climb };
    let mut observation = launch(&mut bench, trial, &settings, purpose).await?;
    let mut failed = None;
    if let Some(how) = profiler_failed(&bench.executor.trial_dir(trial), &observation) {
        let note = format!("{how}; the profile is of a second launch");
        bench.tell(&Progress::Note(note.clone()));
        failed = Some(note);
        trial += 1;
        observation = launch(&mut bench, trial, &settings, purpose).await?;
    }
    if let Some(status) = stopped(&bench, &observation)? {
        return Ok(status);
    }
    bench.finish_reporting();
    let folder = bench.executor.trial_dir(trial);
    let Some(mut profile) = told(&folder) else { return Err(without(&observation).into()) };
    profile.notes.extend(failed);
    let files = keep(&folder, &place.out.join(FOLDER))?;
    let shown = |path: &PathBuf| finish::shown(path, &place);
    if job.json {
        let files = files.iter().map(|(path, _)| shown(path)).collect();
        let ranks = &observation.ranks;
        let printed = Printed { version: VERSION, settings: &settings, profile: &profile, ranks, files };
        terminal::print(&(serde_json::to_string_pretty(&printed)? + "\n"));
    } else {
        let files = files.iter().map(|(path, what)| (shown(path), *what)).collect();
        let text = ProfileText { settings: &settings, profile: &profile, files };
        terminal::print(&render(&text, Style::of(Stream::Stdout)));
    }
    Ok(exit::TUNED)
}

async fn launch(
    bench: &mut Bench,
    trial: u32,
    settings: &Configuration,
    purpose: Purpose,
) -> anyhow::Result<Observation> {
    let spec = TrialSpec::new(settings.clone(), purpose);
    let observation = bench.executor.run(trial, &spec).await?;
    bench.tell(&Progress::TrialEnded(Box::new(observation.clone())));
    Ok(observation)
}

/// The exit status where nothing more is launched.
fn stopped(bench: &Bench, observation: &Observation) -> anyhow::Result<Option<i32>> {
    if observation.verdict == Verdict::Interrupted {
        bench.finish_reporting();
        return Ok(Some(bench.signals.status().exit_status()));
    }
    finish::refuse_unusable(observation)?;
    Ok(None)
}

/// The agent's record, of the first rank.
fn told(folder: &Path) -> Option<Profile> {
    let events = EventReader::new(folder).read();
    events.into_iter().find_map(|(_, event)| match event.record {
        Record::Profile(profile) => Some(*profile),
        _ => None,
    })
}

/// How the profiler itself came to fail, in a script that trains: what sees PyTorch from within may crash with it, now and
/// then.  `None` where there is a profile, or the script has ended in a way of its own.
fn profiler_failed(folder: &Path, observation: &Observation) -> Option<String> {
    if observation.verdict != Verdict::Failed || observation.steps == 0 || told(folder).is_some() {
        return None;
    }
    if let ProcessEnd::Signaled { signal } = observation.end
        && CRASHES.contains(&signal)
    {
        return Some(format!("the process crashed while it trained ({})", signal_name(signal)));
    }
    EventReader::new(folder).read().into_iter().find_map(|(_, event)| match event.record {
        Record::Fault { hook, error } if hook.contains("Profile") => {
            Some(format!("the profiler failed ({error})"))
        }
        _ => None,
    })
}

/// Why nothing was told, and where the launch itself has come to a bad end, its last words.
fn without(observation: &Observation) -> Exit {
    let said = observation.why.clone();
    let (status, why) = match observation.verdict {
        Verdict::Oom => (exit::NOTHING_FITS, format!("{said}; `--set` takes what lowers its demand")),
        Verdict::Fit | Verdict::Disturbed => {
            let few = "the script has too few steps: two more are looked at when enough were measured";
            (exit::SCRIPT_FAILS, few.to_owned())
        }
        _ => (exit::SCRIPT_FAILS, said),
    };
    let mut message = format!("nothing was profiled ({}): {why}", observation.verdict.name());
    if matches!(observation.verdict, Verdict::Failed | Verdict::Timeout) {
        for line in last_words(&observation.tail) {
            message.push_str("\n  | ");
            message.push_str(line);
        }
    }
    Exit::new(status, message)
}

/// The end of the output; of a crash all that Python has said of it.
fn last_words(tail: &[String]) -> &[String] {
    let crash = tail.iter().rposition(|line| line.starts_with(CRASH));
    &tail[crash.unwrap_or(tail.len().saturating_sub(TAIL_LINES))..]
}

/// Copies what the agent has written to where the user finds it.
fn keep(from: &Path, to: &Path) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    let mut kept = Vec::new();
    for (name, what) in FILES {
        if from.join(name).is_file() {
            let path = to.join(name);
            std::fs::create_dir_all(to)
                .and_then(|()| std::fs::copy(from.join(name), &path))
                .with_context(|| format!("cannot write {}", path.display()))?;
            kept.push((path, what));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn of_a_crash_all_is_told_that_python_has_said() {
        let before = "a line\n".repeat(30);
        let crash = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
            .to_owned() + &"  File \"steps.py\", line 1 in stop\n".repeat(20);
        assert_eq!(last_words(&lines(&(before.clone() + &crash))), lines(&crash));
        assert_eq!(last_words(&lines(&before)).len(), TAIL_LINES);
        assert_eq!(last_words(&lines("one\ntwo")), ["one", "two"]);
    }
}
