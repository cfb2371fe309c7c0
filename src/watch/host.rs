//! Host memory of the processes of a trial, from `/proc`.
//!
//! The figure that matters is *demand*: anonymous and shared memory, swap included; the page cache of mapped files can
//! be dropped and is not demand.  Forked workers share pages with their parent, so the exact figure is a sum of
//! proportional shares (`smaps_rollup`).  That walks page tables under the process's memory lock, which costs
//! milliseconds a GiB and can hold up page faults of the script; so it is read only when the cheap upper bound
//! (`status`, shared pages counted in every process) says that the peak may have moved, and only within a share of a core.
//!
//! Between two readings memory may rise and fall: temporaries of a step, data that is made at the start.  The kernel keeps
//! the highest resident set of each process (`VmHWM`); where that has grown beyond what the readings saw, the difference is
//! demand, but for mapped files, of which there were about as many then as at the two readings around it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Share of a core that exact readings may take; after each one they pause accordingly.
const ROLLUP_SHARE: f64 = 0.02;
/// When one exact reading of the tree costs more CPU time than this (hundreds of GiB), the rest of the trial goes
/// without.
const ROLLUP_BOUND: Duration = Duration::from_millis(200);

/// Memory of one process from `/proc/<pid>/status`, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident set.
    pub rss: u64,
    /// Its highest value so far, as the kernel keeps it.
    pub high_water: u64,
    /// Anonymous part of the resident set.
    pub anonymous: u64,
    /// Shared memory part (tmpfs, `MAP_SHARED` anonymous, `/dev/shm`).
    pub shared: u64,
    /// Swapped out.
    pub swap: u64,
}

/// Memory of a process tree at one moment, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostReading {
    /// Processes that could be read.
    pub processes: u32,
    /// Sum of resident sets; pages shared between processes count in each.
    pub rss: u64,
    /// Anonymous + shared memory + swap, summed over processes: an upper bound of demand.
    pub bound: u64,
    /// Swapped out.
    pub swap: u64,
    /// The largest `VmHWM` among the processes.
    pub high_water: u64,
    /// Demand, each shared page counted once; `None` when it was not read this time.  Where it cannot be read at all,
    /// the bound.
    pub demand: Option<u64>,
    /// Demand at the highest moment since the reading before, as far as the kernel's marks of the processes tell; at least
    /// `estimate`.
    pub crest: u64,
    /// Demand, or the bound in the proportion of the latest exact reading: for a display.
    pub estimate: u64,
}

/// Reads a value of a `Key:   123 kB` line, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let number = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
    number.parse::<u64>().ok().map(|n| n << 10)
}

/// Memory of one process; `None` when it is gone or a kernel thread.
pub fn process(proc: &Path, pid: u32) -> Option<ProcessMemory> {
    let dir = proc.join(pid.to_string());
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    let rss = kib(&status, "VmRSS")?;
    let (anonymous, shared) = match kib(&status, "RssAnon") {
        Some(a) => (a, kib(&status, "RssShmem").unwrap_or(0)),
        // Kernels and sandboxes that do not split it: resident less file-backed and shared pages.
        None => (rss.saturating_sub(statm_shared(&dir)), 0),
    };
    Some(ProcessMemory {
        rss,
        high_water: kib(&status, "VmHWM").unwrap_or(rss),
        anonymous,
        shared,
        swap: kib(&status, "VmSwap").unwrap_or(0),
    })
}

fn statm_shared(dir: &Path) -> u64 {
    let statm = std::fs::read_to_string(dir.join("statm")).unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(2).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * page_size()
}

pub(super) fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |n| n as u64)
}

/// Anonymous + shared memory + swap of one process, each shared page divided by the processes that map it.  `None`
/// where the kernel does not tell (too old, no permission, process gone).
pub fn proportional(proc: &Path, pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(proc.join(pid.to_string()).join("smaps_rollup")).ok()?;
    Some(kib(&text, "Pss_Anon")? + kib(&text, "Pss_Shmem")? + kib(&text, "SwapPss").unwrap_or(0))
}

/// What a process had at the latest reading, bytes.
#[derive(Debug)]
struct Mark {
    high_water: u64,
    /// Resident pages of mapped files.
    mapped: u64,
}

/// Reads the process tree of one trial; remembers what is too slow or refused.
#[derive(Debug)]
pub struct HostReader {
    proc: PathBuf,
    rollup: bool,
    next_rollup: Instant,
    proportion: f64,
    peak: u64,
    marks: HashMap<u32, Mark>,
    /// Why proportional figures are not read any more.
    pub note: Option<String>,
}

impl Default for HostReader {
    fn default() -> Self {
        Self::at(Path::new("/proc"))
    }
}

impl HostReader {
    /// Reads below this `/proc`.
    pub fn at(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            rollup: true,
            next_rollup: Instant::now(),
            proportion: 1.0,
            peak: 0,
            marks: HashMap::new(),
            note: None,
        }
    }

    /// Memory of these processes now.  The exact figure is read when there are several processes and the bound is above
    /// the highest demand so far; with one process the bound is exact.
    pub fn read(&mut self, pids: &[u32]) -> HostReading {
        let mut sum = HostReading::default();
        let mut above = 0;
        for &pid in pids {
            let Some(p) = process(&self.proc, pid) else { continue };
            above = above.max(self.above(pid, &p));
            sum.processes += 1;
            sum.rss += p.rss;
            sum.bound += p.anonymous + p.shared + p.swap;
            sum.swap += p.swap;
            sum.high_water = sum.high_water.max(p.high_water);
        }
        if self.rollup && sum.processes > 1 {
            if sum.bound > self.peak && Instant::now() >= self.next_rollup {
                sum.demand = self.proportional(pids).map(|p| p.min(sum.bound));
            }
        } else if sum.processes > 0 {
            sum.demand = Some(sum.bound);
        }
        if let Some(demand) = sum.demand {
            self.peak = self.peak.max(demand);
            self.proportion = if sum.bound > 0 { demand as f64 / sum.bound as f64 } else { 1.0 };
        } else if !self.rollup {
            sum.demand = Some(sum.bound);
        }
        sum.estimate = sum.demand.unwrap_or((sum.bound as f64 * self.proportion) as u64);
        sum.crest = sum.estimate + above;
        sum
    }

    /// By how much the demand of a process was above what it is now, at the highest moment since the reading before.
    fn above(&mut self, pid: u32, now: &ProcessMemory) -> u64 {
        let mapped = now.rss.saturating_sub(now.anonymous + now.shared);
        let before = self.marks.insert(pid, Mark { high_water: now.high_water, mapped });
        match before {
            Some(before) if now.high_water > before.high_water => now
                .high_water
                .saturating_sub(mapped.max(before.mapped))
                .saturating_sub(now.anonymous + now.shared),
            _ => 0,
        }
    }

    fn proportional(&mut self, pids: &[u32]) -> Option<u64> {
        let before = thread_seconds();
        let shares: Vec<u64> = pids.iter().filter_map(|pid| proportional(&self.proc, *pid)).collect();
        let cost = Duration::from_secs_f64((thread_seconds() - before).max(0.0));
        self.next_rollup = Instant::now() + cost.div_f64(ROLLUP_SHARE);
        let why = if shares.is_empty() {
            "the kernel does not tell shares of memory"
        } else if cost > ROLLUP_BOUND {
            "reading shares of memory takes too long"
        } else {
            return Some(shares.iter().sum());
        };
        self.rollup = false;
        self.note = Some(format!("{why}; pages shared between processes count in each"));
        None
    }

    /// Whether pages shared between processes are counted once.
    pub fn exact(&self) -> bool {
        self.rollup
    }
}

/// CPU seconds of this thread so far; the cost of a reading must not depend on who else runs.
pub(super) fn thread_seconds() -> f64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9)
}

/// The process and everything below it now, itself first; empty when it is gone.
pub fn descendants(root: u32) -> Vec<u32> {
    let proc = Path::new("/proc");
    if !proc.join(root.to_string()).exists() {
        return Vec::new();
    }
    if proc.join(format!("{root}/task/{root}/children")).exists() {
        by_children(root)
    } else {
        by_parents(root)
    }
}

fn by_children(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[next]));
        // Children belong to the thread that forked them.
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|n| n.parse().ok()) {
                if !found.contains(&pid) {
                    found.push(pid);
                }
            }
        }
        next += 1;
    }
    found
}

fn by_parents(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let of = found[next];
        found.extend(all.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// The parent of a process, from `/proc/<pid>/stat`.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_read_both_ways() {
        let me = std::process::id();
        let held = vec![7_u8; 64 << 20];
        let p = process(Path::new("/proc"), me).unwrap();
        assert!(p.anonymous > 64 << 20 && p.rss >= p.anonymous && p.high_water >= p.rss, "{p:?}");
        let exact = proportional(Path::new("/proc"), me).unwrap();
        assert!(
            exact > 64 << 20 && exact < p.anonymous + p.shared + p.swap + (8 << 20),
            "{exact} against {p:?}"
        );
        drop(held);
    }

    #[test]
    fn what_came_and_went_between_two_readings_is_seen() {
        let held = |mib: usize| std::hint::black_box(vec![7_u8; mib << 20]);
        let mut reader = HostReader::default();
        let me = [std::process::id()];
        // So that what other tests hold meanwhile, and have held before, is far below.
        drop(held(512));
        reader.read(&me);
        drop(held(768));
        let reading = reader.read(&me);
        assert!(reading.crest > 768 << 20, "{reading:?}");
        assert!(reading.demand.unwrap() < 512 << 20, "{reading:?}");
        let reading = reader.read(&me);
        assert!(reading.crest < 768 << 20, "it is told once: {reading:?}");
    }

    #[test]
    fn both_ways_to_find_a_tree_agree() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "sleep 5 & sleep 5; :"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(4);
        while by_parents(child.id()).len() < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (mut a, mut b) = (by_children(child.id()), by_parents(child.id()));
        for pid in &a[1..] {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(*pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
        }
        child.wait().unwrap();
        a.sort_unstable();
        b.sort_unstable();
        assert_eq!(a.len(), 3);
        assert_eq!(a, b);
        assert!(descendants(child.id()).is_empty());
    }

    #[test]
    fn files_without_the_split_still_give_a_figure() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("9");
        std::fs::create_dir(&p).unwrap();
        std::fs::write(p.join("status"), "Name:\tx\nVmRSS:\t  400 kB\n").unwrap();
        std::fs::write(p.join("statm"), "500 100 25 0 0 0 0\n").unwrap();
        let m = process(dir.path(), 9).unwrap();
        assert_eq!(m.anonymous, (400 << 10) - 25 * page_size());
        let mut reader = HostReader::at(dir.path());
        assert_eq!(reader.read(&[9, 10]).demand, Some(m.anonymous));
        assert!(reader.exact());
    }

    #[test]
    fn refused_shares_are_said_once_and_the_bound_is_used() {
        let dir = tempfile::tempdir().unwrap();
        for pid in ["1", "2"] {
            let p = dir.path().join(pid);
            std::fs::create_dir(&p).unwrap();
            std::fs::write(p.join("status"), "VmRSS:\t400 kB\nRssAnon:\t300 kB\nRssShmem:\t50 kB\n").unwrap();
        }
        let mut reader = HostReader::at(dir.path());
        assert_eq!(reader.read(&[1, 2]).demand, Some(700 << 10));
        assert!(!reader.exact() && reader.note.is_some());
    }
}
