//! A memory limit that is not autofit's own, to check its claims from outside.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory cgroup of our own; removed when dropped.
pub struct Cgroup {
    dir: PathBuf,
    v2: bool,
}

impl Cgroup {
    /// One with this limit in bytes, swap included.
    ///
    /// # Errors
    /// Where cgroups cannot be written (an ordinary user without delegation, most containers).
    pub fn with_limit(bytes: u64) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (parent, v2) = parent()?;
        let name = format!("autofit-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = parent.join(name);
        fs::create_dir(&dir)?;
        let group = Self { dir, v2 };
        if v2 {
            group.write("memory.max", bytes)?;
            // Without swap accounting there is nothing to bound.
            let _ = group.write("memory.swap.max", 0);
        } else {
            group.write("memory.limit_in_bytes", bytes)?;
            let _ = group.write("memory.memsw.limit_in_bytes", bytes);
        }
        Ok(group)
    }

    /// Makes the command start inside.
    pub fn enter(&self, command: &mut Command) {
        let procs = self.dir.join("cgroup.procs");
        // SAFETY: between fork and exec only a file is opened and written; the path was built before.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
    }

    /// Processes that the kernel killed for want of memory.
    pub fn kills(&self) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        fs::read_to_string(self.dir.join(file))
            .unwrap()
            .lines()
            .find_map(|l| l.strip_prefix("oom_kill "))
            .map_or(0, |n| n.trim().parse().unwrap())
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.dir.join(file), value.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The group that this process is in.
fn parent() -> io::Result<(PathBuf, bool)> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.split(',').any(|c| c == "memory") {
            return Ok((Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')), false));
        }
    }
    let path = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    let dir = Path::new("/sys/fs/cgroup").join(path);
    if fs::read_to_string(dir.join("cgroup.subtree_control"))?.split_whitespace().any(|c| c == "memory") {
        return Ok((dir, true));
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "the memory controller is not delegated to this cgroup"))
}
