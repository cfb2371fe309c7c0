//! The folder that launcher and nodes share, and whose jobs are whose.
//!
//! It bears the name of the jobs and is locked while its launcher lives.  A folder without a living launcher was left by
//! one that was killed: its jobs are ended, by their name, and it is removed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

use super::client;
use crate::journal;

/// Folders and jobs begin with it.
const PREFIX: &str = "autofit-jobs-";
const LOCK: &str = "lock";

/// Removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    name: String,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes one below `out`, which nodes must see under the same path; also says how many killed launchers' jobs were
    /// ended.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn make(out: &Path) -> anyhow::Result<(Self, usize)> {
        let parent = out.join(journal::FOLDER);
        let ended = end_left_behind(&parent);
        let name = format!("{PREFIX}{}", super::super::local::nonce());
        let path = parent.join(&name);
        let made = (|| {
            fs::create_dir_all(&path)?;
            lock(&path)
        })();
        let lock = made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok((Self { path, name, _lock: lock }, ended))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of every job.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        // Where no search keeps its journal beside it, nothing is left at all.
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn lock(path: &Path) -> std::io::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

fn end_left_behind(parent: &Path) -> usize {
    let mut ended = 0;
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && lock(&entry.path()).is_ok() {
            ended += client::cancel_all(&name);
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    ended
}
