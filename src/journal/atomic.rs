//! Files that are there as a whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::error::JournalError;

/// How names end that are not yet what they are to be.
const UNFINISHED: &str = ".tmp";

/// Replaces `path` by these bytes: written beside it, synced, renamed, and the folder synced.  A reader sees the old or
/// the new content, also after a crash.  Mode 0644, less the process's umask.
///
/// # Errors
/// When any step is refused; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    write_by_way_of(folder_of(path), path, bytes)
}

/// The same, written in another folder of the same file system first: a kill may leave it there.
pub(super) fn write_by_way_of(place: &Path, path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    let fail = |e: io::Error| JournalError::io("writing", path, e);
    let name = path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    // The name is our own: a rename over it is then what makes it visible.
    let temporary = place.join(format!(".{name}.{}{UNFINISHED}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(e) = written {
        // It may not exist; what matters is the first error.
        let _ = std::fs::remove_file(&temporary);
        return Err(fail(e));
    }
    sync_dir(folder_of(path))
}

/// Removes what killed processes were writing in a folder; to be called by the only one that may write there.
pub(super) fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with('.') && n.ends_with(UNFINISHED)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes names in a folder survive a crash.  File systems that cannot sync a folder say so with EINVAL or the like,
/// which is no error of ours.
pub(super) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir).and_then(|d| d.sync_all()) {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EINVAL | libc::ENOTSUP | libc::EBADF | libc::EACCES)
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(JournalError::io("syncing", dir, e)),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".result.json.1.tmp", ".autofit.env.x.tmp", "result.json", "mine.tmp", ".keep"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path());
        let left =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, [".keep", "mine.tmp", "result.json"]);
    }

    #[test]
    fn replaced_as_a_whole_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // A folder in the way: refused, cleaned up.
        std::fs::create_dir(dir.path().join("busy")).unwrap();
        assert!(write_atomic(&dir.path().join("busy"), b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
