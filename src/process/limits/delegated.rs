//! cgroup v2: where a group with a memory limit may be made.
//!
//! A group can limit its children's memory only while no process lives in it directly.  Our own group always has one:
//! us.  So if we are alone in it we move down into a leaf; otherwise the trial's group is made beside our own, below
//! the nearest group above that hands the controller down and may be written (root's, or the user manager's).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::group::GroupError;
use super::mounts::Own;

/// The directory to make the group in.
pub(super) fn parent(own: &Own) -> Result<PathBuf, GroupError> {
    if has_memory(&own.dir.join("cgroup.subtree_control")) {
        return Ok(own.dir.clone());
    }
    let refusal = match hand_down(&own.dir) {
        Ok(()) => return Ok(own.dir.clone()),
        Err(refusal) => refusal,
    };
    above(own).ok_or(refusal)
}

fn has_memory(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|t| t.split_whitespace().any(|controller| controller == "memory"))
}

/// Makes the controller available to children of our own group.
fn hand_down(dir: &Path) -> Result<(), GroupError> {
    let refused = |path: &Path, error| GroupError::Refused { path: path.to_owned(), error };
    if !has_memory(&dir.join("cgroup.controllers")) {
        return Err(GroupError::NotDelegated(dir.to_owned()));
    }
    let control = dir.join("cgroup.subtree_control");
    match fs::write(&control, "+memory") {
        Ok(()) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(refused(&control, error)),
    }
    let me = std::process::id().to_string();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    if procs.split_whitespace().any(|pid| pid != me) {
        return Err(GroupError::NotDelegated(dir.to_owned()));
    }
    let leaf = dir.join("autofit-launcher");
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(&leaf, error)),
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), &me).map_err(|e| refused(&leaf, e))?;
    fs::write(&control, "+memory").map_err(|e| refused(&control, e))
}

/// The nearest group above that may be used.  A limit on the way is ours to respect: a trial must not escape it.
fn above(own: &Own) -> Option<PathBuf> {
    let unlimited =
        |dir: &Path| fs::read_to_string(dir.join("memory.max")).map_or(true, |limit| limit.trim() == "max");
    let may = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    let mut dir = own.dir.as_path();
    while dir != own.top && unlimited(dir) {
        dir = dir.parent()?;
        if has_memory(&dir.join("cgroup.subtree_control")) && may(dir) && may(&dir.join("cgroup.procs")) {
            return Some(dir.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::mounts::Version;
    use super::*;

    fn group(dir: &Path, control: &str, limit: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), control).unwrap();
        fs::write(dir.join("cgroup.procs"), "").unwrap();
        fs::write(dir.join("memory.max"), limit).unwrap();
    }

    /// Files in the shape of the kernel's; what the kernel does when they are written is not shown here.
    #[test]
    fn a_group_beside_ours_unless_a_limit_would_be_escaped() {
        let top = tempfile::tempdir().unwrap();
        let slice = top.path().join("app.slice");
        let ours = slice.join("terminal.scope");
        group(top.path(), "cpu memory", "max");
        group(&slice, "cpu memory pids", "max");
        group(&ours, "", "max");
        let own = Own { version: Version::V2, top: top.path().to_owned(), dir: ours.clone() };
        assert_eq!(above(&own), Some(slice.clone()));
        fs::write(slice.join("cgroup.subtree_control"), "cpu").unwrap();
        assert_eq!(above(&own), Some(top.path().to_owned()));
        fs::write(ours.join("memory.max"), "1073741824").unwrap();
        assert_eq!(above(&own), None);
        fs::write(ours.join("cgroup.subtree_control"), "memory").unwrap();
        assert_eq!(parent(&own).unwrap(), ours);
    }
}
