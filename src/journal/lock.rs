//! Locks that end with their holder: `flock` on files that stay.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::JournalError;

/// Overrides where device locks lie; for tests and for machines where neither default is shared by all users.
pub const LOCK_DIR_ENV: &str = "AUTOFIT_LOCK_DIR";

/// Where device locks lie.  All that can be used are used, for on some machines only root may write the first.
const LOCK_DIRS: [&str; 2] = ["/run/lock", "/tmp"];

/// Takes the lock at `path`, made with this mode, and writes our PID into it; the inner error is the PID of who has it, if it says so.
pub(super) fn exclusive(path: &Path, mode: u32) -> Result<Result<Flock<File>, Option<u32>>, JournalError> {
    let file = open(path, mode).map_err(|e| JournalError::io("opening", path, e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // The PID is only a help for people; the lock is what counts.
            let _ = sign(&mut lock);
            Ok(Ok(lock))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Ok(Err(text.trim().parse().ok()))
        }
        Err((_, e)) => Err(JournalError::io("locking", path, e.into())),
    }
}

/// Opens without following links, first without creating: in a sticky folder the kernel refuses to create over a file of
/// another user.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = match options.clone().create_new(true).open(path) {
                // Somebody was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return options.open(path),
                other => other?,
            };
            // Whatever the umask; where it cannot be set the lock works all the same for this user.
            let _ = file.set_permissions(std::fs::Permissions::from_mode(mode));
            Ok(file)
        }
        // Of another user, not writable for us: reading is enough to lock.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
        }
        other => other,
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Ok(());
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

/// ` as process 123`, or nothing.
pub(super) fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |p| format!(" as process {p}"))
}

/// Keeps two searches from writing their results in one folder, the later over the earlier; ends when dropped.
#[derive(Debug)]
pub struct FolderLock {
    _held: Flock<File>,
}

impl FolderLock {
    /// Takes the lock of the folder that `autofit.env` goes to; `.autofit` must be there.
    ///
    /// # Errors
    /// [`JournalError::FolderLocked`] when another search has it.
    pub fn take(folder: &Path) -> Result<Self, JournalError> {
        match exclusive(&folder.join(super::FOLDER).join("lock"), 0o644)? {
            Ok(held) => Ok(Self { _held: held }),
            Err(pid) => Err(JournalError::FolderLocked { folder: folder.to_owned(), holder: holder(pid) }),
        }
    }
}

/// Keeps two searches from measuring on one GPU at a time; ends when dropped.
#[derive(Debug)]
pub struct DeviceLock {
    _held: Vec<Flock<File>>,
    note: Option<String>,
}

impl DeviceLock {
    /// Takes the lock of the device with this UUID; `name` is what messages call it.  Searches in containers that share
    /// a GPU but no `/run/lock` or `/tmp` do not see each other.
    ///
    /// # Errors
    /// [`JournalError::DeviceLocked`] when another search has it.
    pub fn take(uuid: &str, name: &str) -> Result<Self, JournalError> {
        let dirs: Vec<PathBuf> = match std::env::var_os(LOCK_DIR_ENV) {
            Some(dir) => vec![dir.into()],
            None => LOCK_DIRS.iter().map(PathBuf::from).collect(),
        };
        Self::take_in(&dirs, uuid, name)
    }

    /// As [`DeviceLock::take`], in these folders.
    ///
    /// # Errors
    /// As [`DeviceLock::take`].
    pub fn take_in(dirs: &[PathBuf], uuid: &str, name: &str) -> Result<Self, JournalError> {
        let file: String =
            uuid.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let mut held = Vec::new();
        for dir in dirs {
            // Another user must be able to lock it, and to say so in it.
            match exclusive(&dir.join(format!("autofit-{file}.lock")), 0o666) {
                Ok(Ok(lock)) => held.push(lock),
                Ok(Err(pid)) => {
                    return Err(JournalError::DeviceLocked { device: name.to_owned(), holder: holder(pid) });
                }
                // Not there or not ours to write: the next one.
                Err(_) => {}
            }
        }
        let note = held
            .is_empty()
            .then(|| format!("no lock could be taken for {name}; another search on it would not be noticed"));
        Ok(Self { _held: held, note })
    }

    /// Said when no lock could be taken at all.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_search_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [PathBuf::from("/no/such/folder"), dir.path().to_owned()];
        let first = DeviceLock::take_in(&dirs, "GPU-1", "NVIDIA A").unwrap();
        assert_eq!(first.note(), None);
        let second = DeviceLock::take_in(&dirs, "GPU-1", "NVIDIA A").unwrap_err();
        let said = format!("another search is using NVIDIA A as process {}", std::process::id());
        assert!(second.to_string().starts_with(&said), "{second}");
        DeviceLock::take_in(&dirs, "GPU-2", "NVIDIA B").unwrap();
        drop(first);
        DeviceLock::take_in(&dirs, "GPU-1", "NVIDIA A").unwrap();
        assert!(DeviceLock::take_in(&dirs[..1], "GPU-1", "NVIDIA A").unwrap().note().is_some());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("precious");
        std::fs::write(&target, "keep").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("autofit-GPU-1.lock")).unwrap();
        assert!(DeviceLock::take_in(&[dir.path().to_owned()], "GPU-1", "A").unwrap().note().is_some());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "keep");
    }
}
