//! Files that are there as a whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::error::JournalError;

/// Replaces `path` by these bytes: written beside it, synced, renamed, and the folder synced.  A reader sees the old or
/// the new content, also after a crash.  Mode 0644, less the process's umask.
///
/// # Errors
/// When any step is refused; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    let fail = |e: io::Error| JournalError::io("writing", path, e);
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    // The name is our own: a rename over it is then what makes it visible.
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
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
    sync_dir(dir)
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
