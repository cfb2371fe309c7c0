//! A private folder for what a search needs while it runs: trial directories, the agent, views, caches.
//!
//! It lies outside of every place that trials see through a view, and goes when the search ends.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::exit::{self, Exit};
use crate::process::end_orphans;

/// Places to try, best first: on a disk, not in memory that the trials are measured in.
const ROOTS: [&str; 2] = ["/var/tmp", "/tmp"];

/// The folder of one search; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Processes of an earlier, killed autofit that were found and ended.
    pub orphans: usize,
}

impl Scratch {
    /// Makes the folder, and first ends and removes what a killed search of the same id left behind.
    ///
    /// # Errors
    /// [`Exit`] with status 6 when no place can be written.
    pub fn open(id: &str) -> Result<Self, Exit> {
        let user = nix::unistd::geteuid();
        let mut refused = Vec::new();
        for root in ROOTS {
            let root = Path::new(root).join(format!("autofit-{user}"));
            match private(&root).and_then(|()| {
                let path = root.join(id);
                let orphans = if path.exists() { end_orphans(&path) } else { 0 };
                crate::sandbox::remove_tree(&path)?;
                DirBuilder::new().mode(0o700).create(&path)?;
                Ok(Self { path, orphans })
            }) {
                Ok(scratch) => return Ok(scratch),
                Err(e) => refused.push(format!("{}: {e}", root.display())),
            }
        }
        Err(Exit::new(exit::PLACE, format!("there is no place for trials: {}", refused.join("; "))))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next search of this id.
        let _ = crate::sandbox::remove_tree(&self.path);
    }
}

/// Makes a folder that only this user can enter; refuses one that another user prepared.
fn private(path: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let meta = std::fs::symlink_metadata(path)?;
    let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if ours { Ok(()) } else { Err(std::io::Error::other("exists and is not a private folder of yours")) }
}
