//! Where the memory controller of this process is mounted.

use std::path::{Path, PathBuf};

/// Which interface the controller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `memory.limit_in_bytes` and friends.
    V1,
    /// `memory.max` and friends.
    V2,
}

/// The cgroup of this process, as a directory, and the mount point above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Interface.
    pub version: Version,
    /// Top of what can be seen of the hierarchy.
    pub top: PathBuf,
    /// This process's own group.
    pub dir: PathBuf,
}

/// Finds it from `/proc/self`.
pub fn own() -> Option<Own> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&groups, &mounts)
}

/// The same from the text of the two files.
fn find(groups: &str, mounts: &str) -> Option<Own> {
    // The memory controller is attached to one hierarchy only: a v1 line that names it wins over the v2 line.
    let v1 = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let _ = fields.next()?;
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers.split(',').any(|c| c == "memory").then_some(path)
    });
    let (version, path) = match v1 {
        Some(path) => (Version::V1, path),
        None => (Version::V2, groups.lines().find_map(|l| l.strip_prefix("0::"))?),
    };
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|o| o == "memory"),
            Version::V2 => kind == "cgroup2",
        };
        if !fits {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let root = Path::new(left.next()?);
        let top = PathBuf::from(left.next()?);
        // In a container without a cgroup namespace the mount shows a part of the hierarchy only.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let dir = if below.as_os_str().is_empty() { top.clone() } else { top.join(below) };
        Some(Own { version, top, dir })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_v1_controller_wins_over_an_empty_v2_hierarchy() {
        let own = find("4:memory:/a/b\n0::/\n", MOUNTS).unwrap();
        assert_eq!(own.version, Version::V1);
        assert_eq!(own.dir, Path::new("/sys/fs/cgroup/memory/a/b"));
        let own = find("0::/user.slice/x\n", MOUNTS).unwrap();
        assert_eq!(own.version, Version::V2);
        assert_eq!(own.dir, Path::new("/sys/fs/cgroup/unified/user.slice/x"));
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let own = find("4:memory:/docker/abc\n", mounts).unwrap();
        assert_eq!(own.dir, Path::new("/sys/fs/cgroup/memory"));
        let own = find("4:memory:/docker/abc/sub\n", mounts).unwrap();
        assert_eq!(own.dir, Path::new("/sys/fs/cgroup/memory/sub"));
        assert_eq!(find("4:memory:/x\n", ""), None);
    }
}
