//! A search that is killed and started again, and what must hold whenever it is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::command::{Running, tagged};
use crate::support::evidence::{Evidence, folder, observations};
use crate::support::project::Snapshot;
use crate::support::{Finished, Project, autofit};

/// Baseline, one move, confirm trial.
const MAX_TRIALS: usize = 3;
/// Some 60 steps, however busy the machine is.
const SCRIPT: &str = "python tiny.py --samples 1024 --epochs 2";
/// A start that does more than one trial takes less.
pub const LONG: Duration = Duration::from_secs(120);

/// A search that is killed and started again, and what was seen of it so far.
pub struct Siege {
    /// Where it is.
    pub project: Project,
    before: Snapshot,
    /// Nobody else's trials are in it.
    scratch: tempfile::TempDir,
    /// As it was after the last kill.
    pub evidence: Evidence,
    launchers: Vec<i32>,
    /// Kills that hit a running script: without any, "nothing is left" would show nothing.
    pub hits: usize,
}

impl Siege {
    /// Nothing has been started.
    pub fn new() -> Self {
        let project = Project::with_tiny();
        let before = project.snapshot();
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let evidence = Evidence::read(&project);
        Self { project, before, scratch, evidence, launchers: Vec::new(), hits: 0 }
    }

    /// The same command each time, but for `--fresh`.
    pub fn start(&mut self, fresh: bool) -> Running {
        let fresh = if fresh { "--fresh" } else { "" };
        let running = autofit(self.project.path())
            .with_python()
            .env("AUTOFIT_SCRATCH", self.scratch.path())
            .line(&format!("{fresh} --device cpu --max-trials {MAX_TRIALS} -- {SCRIPT}"))
            .limit(LONG)
            .start();
        self.launchers.push(running.pid());
        running
    }

    /// Kills it once `due` says so or the time is up, unless it has ended by itself; then looks at everything.  Says
    /// whether it was killed.
    pub fn kill(&mut self, mut running: Running, patience: Duration, due: impl FnMut() -> bool) -> bool {
        if running.watch(patience, due) {
            let script = |(_, line): &(i32, String)| line.starts_with("python ");
            self.hits += usize::from(tagged(&running.tag()).iter().any(script));
            running.signal(libc::SIGKILL);
        }
        let end = running.finish().leaves_no_process().leaves_no_helper();
        let killed = end.code() == 137;
        self.look(if killed { end } else { end.expect(0) });
        killed
    }

    /// What must hold at any moment.
    fn look(&mut self, end: Finished) {
        self.project.assert_unchanged(&self.before);
        let now = Evidence::read(&self.project);
        now.continues(&self.evidence);
        now.is_consistent();
        assert!(observations(&now.records()).len() <= MAX_TRIALS, "{:#?}", now.records());
        self.evidence = now;
        self.no_room_of_the_dead(end.code() == 0);
    }

    /// A start removes what killed launchers left, before it makes room of its own.
    fn no_room_of_the_dead(&self, ended_by_itself: bool) {
        let last = self.launchers.last().map(|pid| format!("{pid}-")).unwrap_or_default();
        let rooms = rooms(self.scratch.path());
        let made_its_own = rooms.iter().any(|r| r.starts_with(&last));
        let foreign = rooms.iter().filter(|r| !r.starts_with(&last)).count();
        assert!(!made_its_own || foreign == 0, "{last} left the rooms of others: {rooms:?}");
        assert!(!ended_by_itself || rooms.is_empty(), "{last} ended by itself and left {rooms:?}");
    }

    /// Lets the search come to its end.
    pub fn let_it_end(&mut self) {
        let running = self.start(false);
        let end = running.finish().expect(0).leaves_no_process().leaves_no_helper();
        self.look(end);
        let records = self.evidence.records();
        assert_eq!(records.last().unwrap()["t"], "finished", "{records:#?}");
        let result = self.evidence.result.as_ref().expect("a search that ended has a result");
        assert_eq!(result["status"], "tuned", "{result:#}");
        let schema: serde_json::Value = serde_json::from_str(include_str!("../result.schema.json")).unwrap();
        jsonschema::validate(&schema, result).unwrap_or_else(|e| panic!("{e}\n{result:#}"));
        assert!(self.project.path().join("autofit.env").exists());
        let unfinished = self.evidence.names.iter().filter(|n| n.starts_with('.')).collect::<Vec<_>>();
        assert!(unfinished.is_empty(), "half-written files are left: {unfinished:?}");
        let groups = groups(Path::new("/sys/fs/cgroup"), &self.launchers, 6);
        assert!(groups.is_empty(), "cgroups are left: {groups:?}");
    }
}

/// Names of the directories in which launchers keep their trials.
fn rooms(scratch: &Path) -> Vec<String> {
    let bases = fs::read_dir(scratch).unwrap().map(|e| e.unwrap().path());
    bases
        .flat_map(|b| fs::read_dir(b).unwrap())
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Cgroups that these launchers made.
fn groups(dir: &Path, launchers: &[i32], depth: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let name = entry.file_name().into_string().unwrap_or_default();
        if launchers.iter().any(|pid| name.starts_with(&format!("autofit-{pid}-"))) {
            found.push(name);
        } else if depth > 0 {
            found.extend(groups(&entry.path(), launchers, depth - 1));
        }
    }
    found
}

/// Observations in the journal.
pub fn observed(project: &Path) -> usize {
    moments(project).iter().filter(|m| m.starts_with("observation")).count()
}

/// What a search has reached: one name for every record and every file.  A trial that is launched again because it
/// was killed is the same moment.
pub fn moments(project: &Path) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let Some(folder) = folder(project) else { return reached };
    let journal = fs::read_to_string(folder.join("journal.jsonl")).unwrap_or_default();
    let mut observed = 0;
    for line in journal.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
        let kind = ["search", "started", "observation", "finished"]
            .into_iter()
            .find(|k| line.contains(&format!("\"t\":\"{k}\"")))
            .unwrap();
        reached.insert(format!("{kind} {observed}"));
        observed += usize::from(kind == "observation");
    }
    for dir in [project, &folder] {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            // Names of half-written files end in something of their own.
            let unfinished = name.strip_suffix(".tmp").map(|n| n.trim_end_matches(char::is_alphanumeric));
            reached.insert(unfinished.unwrap_or(&name).to_owned());
        }
    }
    reached
}
