//! A copy of the working directory for one trial, where no view can be mounted.
//!
//! The copy lies under the same path below a directory of ours, and beside it and above it stand links to the real
//! things, so that `../data` is found.  What is too large to copy is a link, too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Bytes copied for one trial, at most; a file system that shares blocks between files (reflinks) copies more.
const BYTES: u64 = 4 << 30;
/// Files copied, at most.
const FILES: u64 = 50_000;
/// Above this many links beside the way to the working directory the rest is left out.
const SIBLINGS: usize = 4096;
/// A directory that is too large is split this many levels deep, so that only the large part of it is a link.
const SPLIT: u32 = 3;

/// A copy that a script can run in.
#[derive(Debug)]
pub(crate) struct Copied {
    /// The working directory's copy.
    pub cwd: PathBuf,
    /// What is a link to the real thing because it is too large.
    pub linked: Vec<PathBuf>,
}

/// What may still be copied.
struct Budget {
    bytes: u64,
    files: u64,
    linked: Vec<PathBuf>,
}

/// Copies `cwd` (absolute, without links) below `room`.
pub(crate) fn copy(cwd: &Path, room: &Path) -> io::Result<Copied> {
    let mut ours = room.join("view");
    fs::create_dir_all(&ours)?;
    let mut real = PathBuf::from("/");
    for part in cwd.strip_prefix("/").unwrap_or(cwd) {
        for entry in fs::read_dir(&real).into_iter().flatten().flatten().take(SIBLINGS) {
            if entry.file_name() != part {
                symlink(entry.path(), ours.join(entry.file_name()))?;
            }
        }
        real.push(part);
        ours.push(part);
        fs::create_dir(&ours)?;
    }
    let free = super::scratch::free(room).unwrap_or(BYTES);
    let mut budget = Budget { bytes: BYTES.min(free / 2), files: FILES, linked: Vec::new() };
    fill(cwd, &ours, room, SPLIT, &mut budget)?;
    Ok(Copied { cwd: ours, linked: budget.linked })
}

/// Copies what a directory holds.
fn fill(real: &Path, ours: &Path, room: &Path, split: u32, budget: &mut Budget) -> io::Result<()> {
    for entry in fs::read_dir(real)?.flatten() {
        let (from, to) = (entry.path(), ours.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if room.starts_with(&from) || entry.file_name() == ".autofit" {
            // Not the copies themselves, and not what searches keep.
        } else if kind.is_dir() {
            let fits = measure(&from, budget.bytes, budget.files);
            if fits.is_some() || split > 0 {
                fs::create_dir(&to)?;
                let deeper = if fits.is_some() { u32::MAX } else { split - 1 };
                fill(&from, &to, room, deeper, budget)?;
                fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
            } else {
                link(&from, &to, budget)?;
            }
        } else if kind.is_file() {
            file(&from, &to, budget)?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path, budget: &mut Budget) -> io::Result<()> {
    budget.linked.push(from.to_owned());
    symlink(from, to)
}

fn file(from: &Path, to: &Path, budget: &mut Budget) -> io::Result<()> {
    let Ok(source) = fs::File::open(from) else {
        // It cannot be read in a trial either.
        return symlink(from, to);
    };
    let found = source.metadata()?;
    let copy = fs::File::create(to)?;
    if reflink(&source, &copy) {
        budget.files = budget.files.saturating_sub(1);
    } else if found.len() <= budget.bytes && budget.files > 0 {
        budget.bytes -= found.len();
        budget.files -= 1;
        fs::copy(from, to)?;
    } else {
        fs::remove_file(to)?;
        return link(from, to, budget);
    }
    fs::set_permissions(to, found.permissions())?;
    // Programs compare times of sources and what was built from them.
    if let Ok(modified) = found.modified() {
        let _ = copy.set_modified(modified);
    }
    Ok(())
}

/// Shares blocks instead of copying them, where the file system can.
fn reflink(from: &fs::File, to: &fs::File) -> bool {
    // SAFETY: the call takes two open descriptors.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}

/// Bytes and files below a directory, unless there are more than these.
fn measure(dir: &Path, bytes: u64, files: u64) -> Option<(u64, u64)> {
    let (mut total, mut count, mut queue) = (0, 0, vec![dir.to_owned()]);
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            count += 1;
            if found.is_dir() {
                queue.push(entry.path());
            } else if found.is_file() {
                total += found.len();
            }
            if total > bytes || count > files {
                return None;
            }
        }
    }
    Some((total, count))
}

/// An argument with the working directory's path replaced by that of its copy: `PATH` and `--name=PATH`.
pub(crate) fn rewrite(argument: &OsStr, cwd: &Path, copy: &Path) -> OsString {
    let bytes = argument.as_bytes();
    let start = match bytes.iter().position(|b| *b == b'=') {
        Some(at) if bytes.starts_with(b"-") => at + 1,
        _ => 0,
    };
    match Path::new(OsStr::from_bytes(&bytes[start..])).strip_prefix(cwd) {
        Ok(below) if bytes.len() > start => {
            let mut new = bytes[..start].to_vec();
            let path = if below.as_os_str().is_empty() { copy.to_owned() } else { copy.join(below) };
            new.extend_from_slice(path.as_os_str().as_bytes());
            OsString::from_vec(new)
        }
        _ => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_stands_where_the_original_stands() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        let cwd = home.join("me/project");
        fs::create_dir_all(cwd.join("src")).unwrap();
        fs::create_dir_all(home.join("me/data")).unwrap();
        fs::write(home.join("me/data/x"), "data").unwrap();
        fs::write(cwd.join("src/train.py"), "code").unwrap();
        symlink("src/train.py", cwd.join("train.py")).unwrap();
        let room = tempfile::tempdir().unwrap();
        let copied = copy(&cwd, room.path()).unwrap();
        assert_eq!(copied.linked, [] as [PathBuf; 0]);
        fs::write(copied.cwd.join("train.py"), "changed").unwrap();
        assert_eq!(fs::read_to_string(cwd.join("src/train.py")).unwrap(), "code");
        assert_eq!(fs::read_to_string(copied.cwd.join("../data/x")).unwrap(), "data");
    }

    #[test]
    fn what_is_too_large_is_a_link() {
        let (real, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(real.path().join("small"), "1234").unwrap();
        fs::create_dir(real.path().join("data")).unwrap();
        fs::write(real.path().join("data/large"), "1234567890").unwrap();
        let mut budget = Budget { bytes: 6, files: 10, linked: Vec::new() };
        fill(real.path(), ours.path(), Path::new("/none"), 0, &mut budget).unwrap();
        assert_eq!(budget.linked, [real.path().join("data")]);
        assert!(ours.path().join("small").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn arguments_follow_the_copy() {
        let new = |a: &str| rewrite(a.as_ref(), Path::new("/p"), Path::new("/c/p")).into_string().unwrap();
        assert_eq!(new("/p/train.py"), "/c/p/train.py");
        assert_eq!(new("--out=/p"), "--out=/c/p");
        assert_eq!(new("--out=/pp"), "--out=/pp");
        assert_eq!(new("a=/p/x"), "a=/p/x");
        assert_eq!(new(""), "");
    }
}
