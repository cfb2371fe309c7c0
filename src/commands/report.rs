//! `autofit report [DIR]`, `autofit report A B`: the report of a search again, or of two beside each other.

use std::path::{Path, PathBuf};

use super::finish::best_so_far;
use super::terminal;
use crate::exit::{self, Exit};
use crate::journal::{JournalError, Recorded, write_report};
use crate::model::Observation;
use crate::model::plan::Device;
use crate::report::TuneResult;
use crate::report::assemble::SummaryInput;
use crate::report::machine::Machine;
use crate::report::page::{Comparison, Page};
use crate::report::result::{Files, Isolation, Status};
use crate::report::words;

/// What `autofit report` was asked for.
#[derive(Debug, Clone, Default)]
pub struct ReportRequest {
    /// One folder, or two to be compared; none is the one where the user stands.
    pub places: Vec<PathBuf>,
    /// Where the files go, instead of beside the journal.
    pub out: Option<PathBuf>,
}

/// Writes the files and names them; the exit status.
///
/// # Errors
/// [`Exit`] with status 2 where there is no search, 6 where it cannot be read or the files cannot be written.
pub fn run(request: &ReportRequest) -> anyhow::Result<i32> {
    match request.places.as_slice() {
        [] => one(Path::new("."), request.out.as_deref()),
        [place] => one(place, request.out.as_deref()),
        [a, b, ..] => two(a, b, request.out.as_deref().unwrap_or(Path::new("."))),
    }
}

/// Writes both reports of a search into a folder; their paths.
///
/// # Errors
/// When one could not be written.
pub fn write(
    dir: &Path,
    result: &TuneResult,
    observations: &[Observation],
) -> Result<[PathBuf; 2], JournalError> {
    let page = Page::of(result, observations);
    Ok([write_report(dir, HTML, &page.html())?, write_report(dir, MARKDOWN, &page.markdown())?])
}

/// Names in the folder of a search.
pub const HTML: &str = "report.html";
/// See [`HTML`].
pub const MARKDOWN: &str = "report.md";

fn one(place: &Path, out: Option<&Path>) -> anyhow::Result<i32> {
    let search = search(place)?;
    let result = result(&search);
    let dir = out.unwrap_or(&search.dir);
    make(dir)?;
    say(&write(dir, &result, &search.observations).map_err(place_error)?);
    Ok(exit::TUNED)
}

fn two(a: &Path, b: &Path, out: &Path) -> anyhow::Result<i32> {
    let (a, b) = (search(a)?, search(b)?);
    let (of_a, of_b) = (result(&a), result(&b));
    let comparison = Comparison::of(Page::of(&of_a, &a.observations), Page::of(&of_b, &b.observations));
    make(out)?;
    let text = comparison.markdown();
    let html = write_report(out, "comparison.html", &comparison.html()).map_err(place_error)?;
    let markdown = write_report(out, "comparison.md", &text).map_err(place_error)?;
    terminal::print(&text);
    say(&[html, markdown]);
    Ok(exit::TUNED)
}

/// The latest search at a place; where there are several, says so.
///
/// # Errors
/// [`Exit`] with status 2 where there is none, 6 where it cannot be read.
pub fn search(place: &Path) -> anyhow::Result<Recorded> {
    let usage = |what: String| Exit::new(exit::USAGE, what);
    if !place.exists() {
        return Err(usage(format!("there is no folder {}", place.display())).into());
    }
    let mut found = Recorded::find(place);
    let others = found.len().saturating_sub(1);
    let Some(dir) = found.drain(..).next() else {
        let what = format!(
            "there is no search in {}: neither a journal.jsonl nor a folder .autofit with one; name the folder where \
             autofit was started, or the one that its output named",
            place.display()
        );
        return Err(usage(what).into());
    };
    if others > 0 {
        let older = words::count(others as u64, "older search", "older searches");
        terminal::say(&format!(
            "the latest of the searches in {} is taken: {} ({older})\n",
            place.display(),
            dir.display()
        ));
    }
    let search = Recorded::read(&dir).map_err(place_error)?;
    if search.observations.is_empty() {
        return Err(usage(format!("the search in {} has measured nothing yet", dir.display())).into());
    }
    Ok(search)
}

/// As the search wrote it; where it was killed, or has gone on since, from what is in the journal.
fn result(search: &Recorded) -> TuneResult {
    let written: Option<TuneResult> =
        search.result.as_ref().and_then(|v| serde_json::from_value(v.clone()).ok());
    let whole = |r: &TuneResult| {
        r.trials.len() == search.observations.len()
            && r.trials.iter().zip(&search.observations).all(|(t, o)| t.trial == o.trial)
    };
    match written {
        Some(result) if whole(&result) => result,
        earlier => TuneResult::assemble(&unfinished(search, earlier)),
    }
}

fn unfinished(search: &Recorded, earlier: Option<TuneResult>) -> SummaryInput {
    let key = search.meta.as_ref().and_then(|m| m.get("key"));
    let word = |name: &str| key.and_then(|k| k.get(name)?.as_str()).unwrap_or_default().to_owned();
    let argv = key.and_then(|k| serde_json::from_value(k.get("argv")?.clone()).ok());
    let device = key.and_then(|k| serde_json::from_value(k.get("device")?.clone()).ok());
    let found = search.observations.iter().find_map(|o| o.inspection.clone());
    let mut packages = found.as_ref().map(|i| i.frameworks.clone()).unwrap_or_default();
    let machine = Machine { python: packages.remove("python"), packages, ..Machine::default() };
    let running = search.running.as_ref().map_or_else(
        || "the search has not come to its end".to_owned(),
        |t| format!("the search has not come to its end: trial {} was begun last", t.trial),
    );
    let id = search.dir.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let directory = Some(search.dir.display().to_string());
    SummaryInput {
        id,
        status: Status::Interrupted,
        reason: running,
        command: earlier.as_ref().map(|r| r.command.clone()).or(argv).unwrap_or_default(),
        invocation: earlier.as_ref().map(|r| r.invocation.clone()).unwrap_or_default(),
        directory: earlier.as_ref().map_or_else(|| word("cwd"), |r| r.directory.clone()),
        device: earlier.as_ref().map(|r| r.device).or(device).unwrap_or(Device::Cpu),
        machine: earlier.as_ref().map_or(machine, |r| r.machine.clone()),
        cap: search.observations.first().map(|o| o.cap.clone()).unwrap_or_default(),
        isolation: earlier.map_or_else(Isolation::default, |r| r.isolation),
        inspection: found,
        observations: search.observations.clone(),
        predictions: Default::default(),
        winner: best_so_far(&search.observations),
        advice: Vec::new(),
        skipped: Vec::new(),
        notes: Vec::new(),
        compared: None,
        seconds: search.observations.iter().map(|o| o.seconds).sum(),
        files: Files { directory, ..Files::default() },
    }
}

fn make(dir: &Path) -> Result<(), Exit> {
    std::fs::create_dir_all(dir)
        .map_err(|e| Exit::new(exit::PLACE, format!("{} cannot be made ({})", dir.display(), e.kind())))
}

fn place_error(error: JournalError) -> Exit {
    Exit::new(exit::PLACE, error.to_string())
}

/// As the user would name them from where they stand.
fn say(paths: &[PathBuf]) {
    let here = std::env::current_dir().unwrap_or_default();
    for path in paths {
        let path = path.strip_prefix("./").unwrap_or(path);
        terminal::print(&format!("{}\n", path.strip_prefix(&here).unwrap_or(path).display()));
    }
}
