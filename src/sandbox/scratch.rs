//! Room on disk for what trials write: outside of everything that is protected, and removed after each trial.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use crate::process::Identity;

/// Names the place for scratch; otherwise one is chosen.
pub const VARIABLE: &str = "AUTOFIT_SCRATCH";

/// With this much free space a place is as good as one with more, bytes.
const ENOUGH: u64 = 64 << 30;

/// File systems that live in memory or cannot hold an overlay's upper layer.
const UNFIT: [i64; 6] = [
    0x0102_1994, // tmpfs: what a trial writes would count as its memory
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs: refused as upper layer
    0x6969,      // NFS: refused as upper layer
    0xff53_4d42, // CIFS
    0x6573_5546, // FUSE: mostly refused
];

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
        fs::create_dir(&dir)?;
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

/// The directory that holds all scratch of this user, made if need be.
///
/// # Errors
/// When there is no place that can be written.
pub fn base() -> io::Result<PathBuf> {
    if let Some(place) = std::env::var_os(VARIABLE) {
        return own_directory(Path::new(&place));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|h| h.join(".local/state")))
        .filter(|p| p.is_absolute());
    let temporary = std::env::temp_dir();
    // /var/tmp first: it is no part of anybody's home, and on disk.
    let places = [Some(PathBuf::from("/var/tmp")), Some(temporary), state];
    let mut best: Option<(bool, u64, PathBuf)> = None;
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for place in places.into_iter().flatten() {
        match own_directory(&place) {
            Ok(dir) => {
                let fit = statfs(&dir).is_ok_and(|s| !UNFIT.contains(&(s.filesystem_type().0 as i64)));
                let room = free(&dir).unwrap_or(0).min(ENOUGH);
                if best.as_ref().is_none_or(|(f, r, _)| (fit, room) > (*f, *r)) {
                    best = Some((fit, room, dir));
                }
            }
            Err(error) => failure = error,
        }
    }
    best.map(|(_, _, dir)| dir).ok_or(failure)
}

/// Free bytes for this user.
pub fn free(dir: &Path) -> Option<u64> {
    statvfs(dir).ok().map(|s| s.blocks_available() * s.fragment_size())
}

/// `PLACE/autofit-UID`, which must be ours: in a public place somebody else could have made it.
fn own_directory(place: &Path) -> io::Result<PathBuf> {
    let dir = place.join(format!("autofit-{}", geteuid()));
    match fs::DirBuilder::new().mode(0o700).recursive(false).create(&dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
        }
        Err(e) => return Err(e),
    }
    let found = fs::symlink_metadata(&dir)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        let message = format!("{} is not a directory of this user alone", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    dir.canonicalize()
}

/// Removes what killed launchers of this user left; what living ones use stays.
pub fn sweep() {
    let Ok(base) = base() else { return };
    let Ok(entries) = fs::read_dir(base) else { return };
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
        fs::set_permissions(&inner, fs::Permissions::from_mode(0)).unwrap();
        remove(&dir.path().join("work")).unwrap();
        assert!(!dir.path().join("work").exists());
    }
}
