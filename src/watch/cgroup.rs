//! Reads a memory cgroup, version 1 or 2: limit, use and out-of-memory events.  Making and removing cgroups is
//! `process`'s business; here is only reading.

use std::path::{Path, PathBuf};

use super::host::page_size;

/// A limit at or above this is none: version 1 writes a number near 2^63 for "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// A memory cgroup at one moment; bytes.  What its version does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupReading {
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// Charged now, page cache included.
    pub usage: Option<u64>,
    /// Highest charge so far, page cache included.
    pub peak: Option<u64>,
    /// Anonymous memory of the cgroup and those below.
    pub anonymous: Option<u64>,
    /// Shared memory (tmpfs included).
    pub shared: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// Pages of files that are kept in memory now.
    pub cached: Option<u64>,
    /// Pages of files that were read again after the kernel had dropped them, so far.
    pub refaulted: Option<u64>,
    /// Times that a process waited for a page of a mapped file (or of swap) to be read, so far; a count.
    pub major_faults: Option<u64>,
    /// Times that the limit could not be met.
    pub oom: Option<u64>,
    /// Processes killed for it.
    pub oom_kill: Option<u64>,
}

impl CgroupReading {
    /// Anonymous + shared memory: the demand, comparable to what the processes' own figures say.
    pub fn demand(&self) -> Option<u64> {
        Some(self.anonymous? + self.shared.unwrap_or(0))
    }
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')).and_then(|n| n.trim().parse().ok())
}

/// Both versions count shared memory as cache.
fn files(cache: Option<u64>, shared: Option<u64>) -> Option<u64> {
    Some(cache?.saturating_sub(shared.unwrap_or(0)))
}

/// Reads the memory cgroup in this folder; `None` when there is none (any more).
pub fn read(dir: &Path) -> Option<CgroupReading> {
    let stat = std::fs::read_to_string(dir.join("memory.stat")).ok()?;
    if dir.join("memory.limit_in_bytes").exists() {
        let oom = std::fs::read_to_string(dir.join("memory.oom_control")).unwrap_or_default();
        let usage = number(dir, "memory.usage_in_bytes");
        return Some(CgroupReading {
            limit: number(dir, "memory.limit_in_bytes").filter(|n| *n < NO_LIMIT),
            usage,
            peak: number(dir, "memory.max_usage_in_bytes"),
            anonymous: keyed(&stat, "total_rss"),
            shared: keyed(&stat, "total_shmem"),
            swap: keyed(&stat, "total_swap"),
            cached: files(keyed(&stat, "total_cache"), keyed(&stat, "total_shmem")),
            refaulted: keyed(&stat, "total_workingset_refault_file")
                .or_else(|| keyed(&stat, "total_workingset_refault"))
                .map(|n| n * page_size()),
            major_faults: keyed(&stat, "total_pgmajfault"),
            oom: None,
            oom_kill: keyed(&oom, "oom_kill"),
        });
    }
    let events = std::fs::read_to_string(dir.join("memory.events")).unwrap_or_default();
    Some(CgroupReading {
        limit: number(dir, "memory.max").filter(|n| *n < NO_LIMIT),
        usage: number(dir, "memory.current"),
        peak: number(dir, "memory.peak"),
        anonymous: keyed(&stat, "anon"),
        shared: keyed(&stat, "shmem"),
        swap: number(dir, "memory.swap.current"),
        cached: files(keyed(&stat, "file"), keyed(&stat, "shmem")),
        refaulted: keyed(&stat, "workingset_refault_file")
            .or_else(|| keyed(&stat, "workingset_refault"))
            .map(|n| n * page_size()),
        major_faults: keyed(&stat, "pgmajfault"),
        oom: keyed(&events, "oom"),
        oom_kill: keyed(&events, "oom_kill"),
    })
}

/// Where a process's memory cgroup is mounted; version 1's memory hierarchy first, else version 2's.
pub fn of(pid: u32) -> Option<PathBuf> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    controller_dir(&cgroups, &mounts, "memory")
}

/// The folder of a controller (`memory`, `cpu`), from the texts of `/proc/<pid>/cgroup` and `mountinfo`.
fn controller_dir(cgroups: &str, mounts: &str, controller: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.split(',').any(|c| c == controller) {
            found = mounted(mounts, "cgroup", Some(controller), path);
            break;
        }
        if controllers.is_empty() {
            found = mounted(mounts, "cgroup2", None, path);
        }
    }
    found.filter(|d| d.is_dir())
}

/// Joins a cgroup path to the mount that shows it: in a container the mount's root is often the cgroup itself.
fn mounted(mounts: &str, kind: &str, option: Option<&str>, path: &str) -> Option<PathBuf> {
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        if right.next() != Some(kind) {
            continue;
        }
        let options = right.nth(1).unwrap_or_default();
        if option.is_some_and(|o| !options.split(',').any(|x| x == o)) {
            continue;
        }
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        return Some(Path::new(point).join(below.trim_start_matches('/')));
    }
    None
}

/// The lowest memory limit on this process: its own cgroup's and those above, as far as they are visible.
pub fn memory_limit() -> Option<u64> {
    memory_limit_of(std::process::id())
}

/// The same on any process.
pub fn memory_limit_of(pid: u32) -> Option<u64> {
    lowest(&of(pid)?, |dir| read(dir)?.limit)
}

/// The CPU quota on this process in cores, the lowest of its cgroups.
pub fn cpu_quota() -> Option<f64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let quota = |dir: &Path| {
        let (quota, period) = match std::fs::read_to_string(dir.join("cpu.max")) {
            Ok(text) => {
                let (q, p) = text.trim().split_once(' ')?;
                (q.parse().ok()?, p.parse().ok()?)
            }
            Err(_) => (
                number(dir, "cpu.cfs_quota_us").map(|n| n as f64)?,
                number(dir, "cpu.cfs_period_us").map(|n| n as f64)?,
            ),
        };
        (period > 0.0).then_some(quota / period)
    };
    lowest(&controller_dir(&cgroups, &mounts, "cpu")?, quota)
}

fn lowest<T: PartialOrd>(dir: &Path, value: impl Fn(&Path) -> Option<T>) -> Option<T> {
    dir.ancestors()
        .take_while(|d| d.starts_with("/sys/fs/cgroup") || !d.starts_with("/sys"))
        .filter_map(value)
        .reduce(|a, b| if b < a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(rows: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in rows {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn version_two() {
        let dir = files(&[
            ("memory.max", "1048576\n"),
            ("memory.current", "900000\n"),
            (
                "memory.stat",
                "anon 500\nfile 900\nshmem 70\nanon_thp 9\npgmajfault 6\nworkingset_refault_file 2\n",
            ),
            ("memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ]);
        let r = read(dir.path()).unwrap();
        assert_eq!(
            (r.limit, r.demand(), r.oom, r.oom_kill, r.peak),
            (Some(1 << 20), Some(570), Some(3), Some(2), None)
        );
        assert_eq!((r.cached, r.refaulted, r.major_faults), (Some(830), Some(2 * page_size()), Some(6)));
    }

    #[test]
    fn version_one() {
        let dir = files(&[
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
            (
                "memory.stat",
                "rss 1\ntotal_rss 300\ntotal_rss_huge 5\ntotal_shmem 11\ntotal_cache 12\ntotal_pgmajfault 8\n",
            ),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ]);
        let r = read(dir.path()).unwrap();
        assert_eq!((r.limit, r.demand(), r.oom_kill, r.peak), (None, Some(311), Some(1), Some(8192)));
        assert_eq!((r.cached, r.refaulted, r.major_faults), (Some(1), None, Some(8)));
        assert!(read(Path::new("/no/such/cgroup")).is_none());
    }

    #[test]
    fn mounts_of_hosts_and_containers() {
        let v2 = "31 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mounted(v2, "cgroup2", None, "/user.slice/x"), Some("/sys/fs/cgroup/user.slice/x".into()));
        let docker = "40 30 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(
            mounted(docker, "cgroup", Some("memory"), "/docker/abc"),
            Some("/sys/fs/cgroup/memory/".into())
        );
        assert_eq!(mounted(docker, "cgroup", Some("cpu"), "/docker/abc"), None);
    }

    #[test]
    fn our_own_cgroup_can_be_read() {
        // Not every machine lets us see it; where it does, use is never zero for a running process's cgroup.
        if let Some(r) = of(std::process::id()).and_then(|d| read(&d)) {
            assert!(r.usage.is_some_and(|n| n > 0), "{r:?}");
        }
    }
}
