//! Process trees as `/proc` shows them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What `/proc/PID/stat` says about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its parent.
    pub parent: i32,
    /// Clock ticks since boot; with the pid it names one process for ever.
    pub started: u64,
    /// Dead, not yet reaped.
    pub zombie: bool,
}

/// A process, for as long as the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

impl Identity {
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: stat(pid)?.started })
    }

    pub fn of_this_process() -> Self {
        let pid = std::process::id().cast_signed();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|s| s.started == self.started && !s.zombie)
    }
}

/// Reads one process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, also parentheses: what follows the last one counts.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, started, zombie: state == "Z" || state == "X" })
}

/// Every process that can be seen.
fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Living descendants of a process, itself not counted.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat.zombie));
        }
    }
    let (mut found, mut queue) = (Vec::new(), vec![root]);
    while let Some(pid) = queue.pop() {
        for (child, zombie) in children.get(&pid).into_iter().flatten() {
            queue.push(*child);
            if !zombie {
                found.push(*child);
            }
        }
    }
    found
}

/// Processes whose environment names a path, however they were born.
pub(crate) fn with_environment(text: &Path) -> Vec<i32> {
    use std::os::unix::ffi::OsStrExt;
    let needle = text.as_os_str().as_bytes();
    let holds = |environ: Vec<u8>| environ.windows(needle.len()).any(|w| w == needle);
    let me = std::process::id().cast_signed();
    all()
        .into_iter()
        .filter(|pid| *pid != me && !needle.is_empty())
        .filter(|pid| fs::read(format!("/proc/{pid}/environ")).is_ok_and(holds))
        .collect()
}

/// Sends SIGKILL; a process that is gone already is no error.
pub(crate) fn kill(pid: i32) {
    signal(pid, libc::SIGKILL);
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: kill takes two integers and touches no memory of ours.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Anonymous and shared memory that processes hold, bytes.  Pages that several of them share count once where the
/// kernel tells proportional sizes; that costs a walk over their page tables, so one process alone is read cheaply.
pub(crate) fn memory(pids: &[i32]) -> u64 {
    let resident: Vec<(i32, u64)> = pids.iter().map(|pid| (*pid, resident(*pid).unwrap_or(0))).collect();
    let notable = resident.iter().filter(|(_, bytes)| *bytes > NOTABLE).count();
    if notable <= 1 {
        return resident.iter().map(|(_, bytes)| bytes).sum();
    }
    resident.iter().map(|(pid, bytes)| proportional(*pid).unwrap_or(*bytes)).sum()
}

/// Below this a process (a shell, a resource tracker) is not worth a look at what it shares.
const NOTABLE: u64 = 32 << 20;

fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(kib(&text, "RssAnon:")? + kib(&text, "RssShmem:").unwrap_or(0))
}

fn proportional(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(kib(&text, "Pss_Anon:")? + kib(&text, "Pss_Shmem:").unwrap_or(0))
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|n| n * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "42 (a) b (c) S 7 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 12345 99 9";
        assert_eq!(parse(text), Some(Stat { parent: 7, started: 12345, zombie: false }));
    }

    #[test]
    fn reads_this_process() {
        let me = std::process::id().cast_signed();
        assert!(stat(me).unwrap().started > 0);
        assert!(memory(&[me]) > 0);
    }
}
