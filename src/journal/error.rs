//! What can be wrong with the place where a search keeps its journal.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::exit::{self, Exit};
use crate::model::size::Bytes;

/// Why the journal cannot be used.  Each is exit status 6.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The folder may not be written.
    #[error("{path} cannot be written ({source}); name another folder with --out DIR")]
    NotWritable {
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file system is full, or the quota is used up.
    #[error("no space left for {path}{}; free some or name another folder with --out DIR", room(*free))]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes left, where they were asked for.
        free: Option<u64>,
    },
    /// The same search runs already.
    #[error("this search is already running{holder}; wait for it, or stop it there; its journal is {path}")]
    Locked {
        /// `.autofit/<id>`.
        path: PathBuf,
        /// ` as process 123`, or empty when the holder did not say.
        holder: String,
    },
    /// Another search is to write its result in the same folder.
    #[error(
        "another search is running in {folder}{holder}, and both would write autofit.env there; wait for it, or name \
         another folder with --out DIR"
    )]
    FolderLocked {
        /// Where `autofit.env` goes.
        folder: PathBuf,
        /// As in [`JournalError::Locked`].
        holder: String,
    },
    /// Another search measures on the same GPU.
    #[error("another search is using {device}{holder}; two at a time would spoil each other's measurements")]
    DeviceLocked {
        /// The device as it was named to [`super::DeviceLock::take`].
        device: String,
        /// As in [`JournalError::Locked`].
        holder: String,
    },
    /// Written by a version of autofit that writes other lines.
    #[error(
        "{path} has version {found}, this autofit reads version {known}; start anew with --fresh (the old one is kept)"
    )]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        known: u32,
    },
    /// A line other than the last cannot be read.
    #[error("line {line} of {path} cannot be read ({why}); start anew with --fresh (the old one is kept)")]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else that the system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

fn room(free: Option<u64>) -> String {
    free.map_or_else(String::new, |n| format!(" ({} left)", Bytes(n)))
}

impl JournalError {
    /// Sorts a system error by what the user can do about it.
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => Self::NotWritable { path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, free: None },
            _ => Self::Io { doing, path, source },
        }
    }
}

impl JournalError {
    /// The same where trials have been measured already: another folder would not have them.
    pub fn midway(&self) -> String {
        let what = match self {
            Self::NoSpace { path, .. } => format!("no space left for {}", path.display()),
            Self::NotWritable { path, source } => format!("{} cannot be written ({source})", path.display()),
            other => other.to_string(),
        };
        format!("{what}; {GOES_ON}")
    }
}

/// Said when a search cannot go on for now.
pub const GOES_ON: &str =
    "what was measured is kept: mend that and type the same command again, and the search goes on from there";

impl From<JournalError> for Exit {
    fn from(error: JournalError) -> Self {
        Self::new(exit::PLACE, error.to_string())
    }
}
