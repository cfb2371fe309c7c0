//! One memory cgroup for one trial, in either version of the interface.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::delegated;
use super::mounts::{Version, own};

/// Why there is no cgroup for a trial.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The memory controller is not mounted where this process can see it.
    #[error("no memory cgroup is mounted")]
    NotMounted,
    /// A directory could not be made, or a limit could not be written.
    #[error("{}: {error}", path.display())]
    Refused {
        /// What was made or written.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// cgroup v2: the memory controller is not handed down to this process's cgroup.
    #[error("{}: the memory controller is not delegated", .0.display())]
    NotDelegated(PathBuf),
}

/// How long the kernel may take to empty a cgroup whose processes are dead.
const REMOVAL: Duration = Duration::from_secs(5);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A cgroup that exists until it is removed or dropped.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    version: Version,
    /// `oom_kill` when the group was made (0 for a fresh one, read all the same).
    kills_before: u64,
}

impl Group {
    /// Makes a cgroup below this process's own (or beside it), with a limit in bytes if there is one.  Swap is off inside.
    ///
    /// # Errors
    /// When no memory cgroup is mounted, may be made, or may be limited.
    pub fn create(limit: Option<u64>) -> Result<Self, GroupError> {
        let own = own().ok_or(GroupError::NotMounted)?;
        let parent = match own.version {
            Version::V1 => own.dir,
            Version::V2 => delegated::parent(&own)?,
        };
        sweep(&parent);
        let name = format!("autofit-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = parent.join(name);
        fs::create_dir(&dir).map_err(|error| GroupError::Refused { path: dir.clone(), error })?;
        let mut group = Self { dir, version: own.version, kills_before: 0 };
        if !group.dir.join(group.limit_file()).exists() {
            return Err(GroupError::NotDelegated(group.dir.clone()));
        }
        if let Some(bytes) = limit {
            group.limit(bytes)?;
        }
        group.kills_before = group.kill_counter();
        Ok(group)
    }

    /// Takes over a cgroup that an earlier launcher made, to end and remove it.
    pub(crate) fn adopt(dir: &Path) -> Option<Self> {
        let version = match (dir.join("memory.limit_in_bytes").exists(), dir.join("memory.max").exists()) {
            (true, _) => Version::V1,
            (_, true) => Version::V2,
            _ => return None,
        };
        Some(Self { dir: dir.to_owned(), version, kills_before: 0 })
    }

    fn limit_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }

    fn limit(&self, bytes: u64) -> Result<(), GroupError> {
        self.write(self.limit_file(), &bytes.to_string())?;
        // Swap would turn "does not fit" into "slow".  Kernels without swap accounting lack these files.
        match self.version {
            Version::V1 => {
                let _ = self.write("memory.swappiness", "0");
                let _ = self.write("memory.memsw.limit_in_bytes", &bytes.to_string());
            }
            Version::V2 => {
                let _ = self.write("memory.swap.max", "0");
            }
        }
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), GroupError> {
        let path = self.dir.join(file);
        fs::write(&path, text).map_err(|error| GroupError::Refused { path, error })
    }

    /// `cgroup v1` or `cgroup v2`.
    pub fn version(&self) -> &'static str {
        match self.version {
            Version::V1 => "cgroup v1",
            Version::V2 => "cgroup v2",
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves a process in; its later children follow.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self, pid: i32) -> Result<(), GroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Processes inside, as this process numbers them.
    pub fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Anonymous and shared memory in use now, bytes; page cache is left out.
    pub fn memory_now(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.dir.join("memory.stat")).ok()?;
        let (anonymous, shared) = match self.version {
            Version::V1 => ("total_rss", "total_shmem"),
            Version::V2 => ("anon", "shmem"),
        };
        Some(field(&stat, anonymous)? + field(&stat, shared).unwrap_or(0))
    }

    /// Processes that the kernel killed for memory in this group.
    pub fn oom_kills(&self) -> u64 {
        self.kill_counter().saturating_sub(self.kills_before)
    }

    fn kill_counter(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        field(&text, "oom_kill").unwrap_or(0)
    }

    /// How often the limit was reached (the kernel then reclaims page cache, and kills if that does not help).
    pub fn limit_hits(&self) -> u64 {
        match self.version {
            // With swap off both limits are the same number, and either may be the one that is hit.
            Version::V1 => ["memory.failcnt", "memory.memsw.failcnt"]
                .into_iter()
                .filter_map(|f| fs::read_to_string(self.dir.join(f)).ok()?.trim().parse::<u64>().ok())
                .sum(),
            Version::V2 => {
                let text = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
                field(&text, "max").unwrap_or(0)
            }
        }
    }

    /// Kills everything inside, and again until nothing is left or the time is up.  Says whether it is empty.
    pub fn kill_all(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            if fs::write(self.dir.join("cgroup.kill"), "1").is_err() {
                for pid in pids {
                    super::super::tree::kill(pid);
                }
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Removes the group; its processes must have ended.  Says whether it is gone.
    pub fn remove(self) -> bool {
        self.remove_within(REMOVAL)
    }

    fn remove_within(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            remove_children(&self.dir);
            match fs::remove_dir(&self.dir) {
                Ok(()) => return true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return true,
                Err(_) if Instant::now() >= until => return false,
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove_within(Duration::ZERO);
    }
}

/// Removes what killed launchers left.  The kernel refuses for a group in which a process still lives: that is for
/// [`end_orphans`](crate::process::end_orphans), which knows whose they are.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let launcher =
            name.to_str().and_then(|n| n.strip_prefix("autofit-")?.split_once('-')?.0.parse().ok());
        if launcher.is_some_and(|pid| super::super::tree::stat(pid).is_none()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// A script may have made groups of its own inside.
fn remove_children(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_children(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The number after a word at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field("max 5\n", "max"), Some(5));
        assert_eq!(field(text, "oom"), None);
    }
}
