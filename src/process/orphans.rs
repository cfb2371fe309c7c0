//! What a killed autofit left behind: recorded in each trial directory, ended at the next start.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::limits::Group;
use super::tree::{self, Identity};
use crate::model::VERSION;

/// In a trial directory while its trial runs.
const FILE: &str = "launched.json";
/// Trial directories lie this deep below the directory that is looked through, at most.
const DEPTH: usize = 4;
/// How long an orphan may take to die.
const DEATH: Duration = Duration::from_secs(10);
/// Between two looks for processes that are to die; longer than it takes to replace a program by another.
const AGAIN: Duration = Duration::from_millis(10);

/// What a trial consists of, outside of this process's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// A record from before a reboot names nobody.
    boot: String,
    launcher: Option<Identity>,
    helper: Option<Identity>,
    group: Option<PathBuf>,
}

impl Record {
    pub(super) fn of(helper: i32, group: Option<&Group>) -> Self {
        Self {
            version: VERSION,
            boot: boot(),
            launcher: Identity::of(std::process::id().cast_signed()),
            helper: Identity::of(helper),
            group: group.map(|g| g.dir().to_owned()),
        }
    }

    pub(super) fn write(&self, trial_dir: &Path) -> io::Result<()> {
        fs::write(trial_dir.join(FILE), serde_json::to_vec(self)?)
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The trial is over.
pub(super) fn forget(trial_dir: &Path) {
    let _ = fs::remove_file(trial_dir.join(FILE));
}

/// Ends what earlier launchers left running below `state_dir`, and removes what they made.  A trial whose launcher
/// lives is left alone.  Returns how many processes were killed.
pub fn end_orphans(state_dir: &Path) -> usize {
    records(state_dir, DEPTH).into_iter().map(|trial_dir| end_one(&trial_dir)).sum()
}

fn records(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if dir.join(FILE).is_file() {
        found.push(dir.to_owned());
    }
    if let (Ok(entries), Some(depth)) = (fs::read_dir(dir), depth.checked_sub(1)) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            found.extend(records(&entry.path(), depth));
        }
    }
    found
}

fn end_one(trial_dir: &Path) -> usize {
    let record: Option<Record> =
        fs::read(trial_dir.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(record) = record else { return 0 };
    if record.boot != boot() {
        forget(trial_dir);
        return 0;
    }
    if record.launcher.is_some_and(Identity::lives) {
        return 0;
    }
    let mut killed = 0;
    if let Some(helper) = record.helper.filter(|h| h.lives()) {
        // Whole while it is alive: once the helper is dead, its children are found by other ways only.
        killed += kill_until_none(|| tree::descendants(helper.pid));
        killed += kill_all(&[helper.pid]);
    }
    if let Some(group) = record.group.as_deref().and_then(Group::adopt) {
        killed += group.pids().len();
        group.kill_all(DEATH);
        group.remove();
    }
    // Without namespace and cgroup a daemon has a new parent, but still the environment that names its trial.
    killed += kill_until_none(|| tree::with_environment(trial_dir));
    forget(trial_dir);
    killed
}

/// Looks again until nothing is found: what was looked at may have had a child meanwhile, and a process that is
/// just being replaced by another program shows no environment for a moment.
fn kill_until_none(find: impl Fn() -> Vec<i32>) -> usize {
    let (until, mut killed) = (Instant::now() + DEATH, BTreeSet::new());
    loop {
        let found = find();
        kill_all(&found);
        if found.is_empty() || Instant::now() > until {
            return killed.len();
        }
        killed.extend(found);
        std::thread::sleep(AGAIN);
    }
}

fn kill_all(pids: &[i32]) -> usize {
    for pid in pids {
        tree::kill(*pid);
    }
    pids.len()
}
