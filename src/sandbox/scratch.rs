//! Room on disk for what trials write: outside of everything that is protected, and removed after each trial.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::statfs::{
    FUSE_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs,
};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use crate::process::Identity;

/// Names the place for scratch; otherwise one is chosen.
pub const VARIABLE: &str = "AUTOFIT_SCRATCH";

/// Agent, records and log of one trial need a few MiB; a place with less than this is full, bytes.
pub const NEEDED: u64 = 16 << 20;

/// With this much free space a place is as good as one with more, bytes.
const ENOUGH: u64 = 64 << 30;

/// File systems that live in memory (what a trial writes would count as its memory), or that overlayfs refuses as
/// upper layer.
const UNFIT: [FsType; 4] = [TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC, NFS_SUPER_MAGIC, FUSE_SUPER_MAGIC];

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A directory that is removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Makes one that belongs to this process: if it is killed, [`sweep`] removes the directory later.
    ///
    /// # Errors
    /// When there is no place that can be written.
    pub fn create() -> io::Result<Self> {
        let base = base()?;
        let me = Identity::of_this_process();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("{}-{}-{number}", me.pid, me.started));
        fs::create_dir(&dir).map_err(|e| named(&dir, &e))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.dir);
    }
}

/// The directory that holds all scratch of this user, made if need be; the same for the life of this process.
///
/// # Errors
/// When there is no place that can be written.
pub fn base() -> io::Result<PathBuf> {
    static CHOSEN: OnceLock<PathBuf> = OnceLock::new();
    if let Some(base) = CHOSEN.get() {
        return Ok(base.clone());
    }
    let base = choose()?;
    Ok(CHOSEN.get_or_init(|| base).clone())
}

/// Where scratch may be, in order of preference: /var/tmp first, since it is no part of anybody's home, and on disk.
fn places_to_be() -> Vec<PathBuf> {
    if let Some(place) = std::env::var_os(VARIABLE) {
        return vec![place.into()];
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| home.map(|h| h.join(".local/state"))).filter(|p| p.is_absolute());
    [Some(PathBuf::from("/var/tmp")), Some(std::env::temp_dir()), state].into_iter().flatten().collect()
}

/// A later place must be able to hold an overlay where an earlier one is not, or have twice the room.
fn choose() -> io::Result<PathBuf> {
    let mut places: Vec<(bool, u64, PathBuf)> = Vec::new();
    for place in places_to_be() {
        let there = place.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"));
        let fit = statfs(there).is_ok_and(|s| !UNFIT.contains(&s.filesystem_type()));
        let room = free(there).unwrap_or(0).min(ENOUGH);
        let behind = places.iter().position(|(f, r, _)| (fit && !*f) || (fit == *f && room / 2 > *r));
        places.insert(behind.unwrap_or(places.len()), (fit, room, place));
    }
    let mut refused: Vec<String> = Vec::new();
    for (_, _, place) in places {
        match own_directory(&place) {
            Ok(dir) => return Ok(dir),
            Err(e) => refused.push(named(&place, &e).to_string()),
        }
    }
    Err(io::Error::other(refused.join(", ")))
}

/// `/mnt: read-only filesystem or storage medium`.
fn named(place: &Path, error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {why}", place.display()))
}

/// Whether what trials write would be kept in memory, and count as theirs.
pub fn is_in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|s| s.filesystem_type() == TMPFS_MAGIC)
}

/// Free bytes for this user.
pub fn free(dir: &Path) -> Option<u64> {
    statvfs(dir).ok().map(|s| s.blocks_available() * s.fragment_size())
}

/// Names of it below a place: somebody else (another user who is root in a container) may hold the first.
fn names() -> impl Iterator<Item = String> {
    ["", "-2", "-3", "-4"].into_iter().map(|more| format!("autofit-{}{more}", geteuid()))
}

/// A directory below `place` that is ours alone: in a public place somebody else could have made it.
fn own_directory(place: &Path) -> io::Result<PathBuf> {
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for name in names() {
        let dir = place.join(name);
        result = make_own(&dir).and_then(|()| dir.canonicalize());
        if result.is_ok() {
            break;
        }
    }
    result
}

fn make_own(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        }
        other => other?,
    }
    let found = fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} is not a directory of this user alone", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// Removes what killed launchers of this user left; what living ones use stays.
pub fn sweep() {
    let bases = places_to_be().into_iter().flat_map(|place| names().map(move |name| place.join(name)));
    let entries = bases.filter_map(|base| fs::read_dir(base).ok()).flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let mut numbers = name.to_str().unwrap_or_default().split('-');
        let owner = (|| {
            let pid = numbers.next()?.parse().ok()?;
            let started = numbers.next()?.parse().ok()?;
            numbers.next()?.parse::<u32>().ok()?;
            Some(Identity { pid, started })
        })();
        if owner.is_some_and(|o| !o.lives()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a tree, also directories that a script or overlayfs (`work/work`, mode 000) made unreadable.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    open_up(dir);
    fs::remove_dir_all(dir)
}

fn open_up(dir: &Path) {
    let Ok(found) = fs::symlink_metadata(dir) else { return };
    if !found.is_dir() {
        return;
    }
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_directories_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("work/work");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o000)).unwrap();
        remove(&dir.path().join("work")).unwrap();
        assert!(!dir.path().join("work").exists());
    }
}
