//! Every observation of a search, on disk before the next launch.
//!
//! # Theory of operation
//! A search has an id, the hash of what makes it the same search ([`SearchKey`]), and a folder `.autofit/<id>/` where
//! the user stands (or below `--out`):
//!
//! | file | what |
//! | --- | --- |
//! | `journal.jsonl` | one line an event, appended and synced before the call returns |
//! | `meta.json` | the parts of the key, for people |
//! | `result.json`, `report.html`, `report.md` | replaced as a whole, never half written |
//! | `lock` | held while a search runs; its content is the holder's PID |
//!
//! Beside these folders lies another `lock`, of whichever search is to write `autofit.env` ([`FolderLock`]).
//!
//! A line says `started` before a trial is launched and `observation` after it has ended, so that a killed search knows
//! which trial was running.  A crash in the middle of a write leaves a torn last line: it is cut off and said.  Any
//! other line that cannot be read is an error, for a measurement would be lost silently.
//!
//! **Architecture invariant:** an observation is never rewritten or removed; `--fresh` sets the old journal aside.

mod atomic;
mod earlier;
mod error;
mod key;
mod line;
mod lock;
mod reading;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use serde::Serialize;

pub use atomic::write_atomic;
pub use error::{GOES_ON, JournalError};
pub use key::{SearchKey, hash_file, redact};
pub use line::{Finished, Interrupted};
pub use lock::{DeviceLock, FolderLock};
pub use reading::{Recorded, write_report};

use self::line::{Entry, Replay};
use crate::model::observation::{Observation, TrialSpec};

/// The folder's name where the user stands.
pub const FOLDER: &str = ".autofit";

/// Free space that must be there before anything runs, bytes: a journal of a long search with its report is smaller.
const NEEDED_SPACE: u64 = 8 << 20;

/// The open journal of one search; holds its lock until dropped.
#[derive(Debug)]
pub struct Journal {
    id: String,
    dir: PathBuf,
    file: File,
    /// Length up to which every line is whole and synced.
    length: u64,
    replay: Replay,
    notes: Vec<String>,
    _lock: Flock<File>,
}

impl Journal {
    /// Opens the journal of the search that `key` describes, below `dir`, or begins one, and gives back what was
    /// observed before.  With `fresh` the old journal and result are set aside as `journal.<n>.jsonl` first.
    ///
    /// Everything that could refuse later is tried here, before anything runs: the folder is made, the lock taken, space
    /// looked at, and a first line written.
    ///
    /// # Errors
    /// See [`JournalError`]; each is exit status 6 and says what to do.
    pub fn open(dir: &Path, key: &SearchKey, fresh: bool) -> Result<(Self, Vec<Observation>), JournalError> {
        let id = key.id();
        let folder = folder(dir, &id)?;
        let lock = lock::exclusive(&folder.join("lock"), 0o644)?
            .map_err(|pid| JournalError::Locked { path: folder.clone(), holder: lock::holder(pid) })?;
        atomic::sweep(&folder);
        ignore(dir, &folder)?;
        let path = folder.join("journal.jsonl");
        if fresh {
            set_aside(&folder)?;
        }
        let mut replay = Replay::read(&path)?;
        // A finished search is only shown.
        if replay.finished.is_none() {
            space(&folder)?;
        }
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| JournalError::io("opening", &path, e))?;
        let mut notes = Vec::new();
        if replay.torn > 0 {
            file.set_len(replay.length)
                .map_err(|e| JournalError::io("cutting the torn end off", &path, e))?;
            file.sync_all().map_err(|e| JournalError::io("syncing", &path, e))?;
            notes.push(format!(
                "the journal ended in the middle of a line ({} bytes, as after a crash); that line is dropped",
                replay.torn
            ));
        }
        if let Some(trial) = &replay.interrupted {
            notes.push(format!(
                "trial {} ({}) was running when the search was ended; it does not count",
                trial.trial, trial.settings
            ));
        }
        let mut length = replay.length;
        if length == 0 {
            // Who starts anew wants nothing of what was.
            let earlier = if fresh { Vec::new() } else { earlier::of_the_same_command(dir, key) };
            replay.earlier.clone_from(&earlier);
            let autofit = env!("CARGO_PKG_VERSION").into();
            append(&mut file, &path, &mut length, &Entry::Search { id: id.clone(), autofit, earlier })?;
            atomic::sync_dir(&folder)?;
        }
        let meta = folder.join("meta.json");
        if replay.length == 0 || !meta.exists() {
            write_atomic(&meta, &key.meta(&id))?;
        }
        let observations = replay.observations.clone();
        Ok((Self { id, dir: folder, file, length, replay, notes, _lock: lock }, observations))
    }

    /// The search's id, also its folder's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `.autofit/<id>`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the user should know of the opening: a torn line, a trial that was interrupted.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Earlier searches of the same command on the same machine that this one knows of, by id, the latest first.  They
    /// are those of its beginning, so that a resumed search knows what it knew.
    pub fn earlier(&self) -> Vec<(String, Vec<Observation>)> {
        let place = self.dir.ancestors().nth(2).unwrap_or(&self.dir);
        let read = earlier::read(place, &self.replay.earlier);
        read.into_iter().map(|(id, recorded)| (id, recorded.observations)).collect()
    }

    /// The trial that was running when the search was killed.
    pub fn interrupted(&self) -> Option<&Interrupted> {
        self.replay.interrupted.as_ref()
    }

    /// How the search ended, if it did: then its result is there to be shown, and nothing needs to run.
    pub fn finished(&self) -> Option<&Finished> {
        self.replay.finished.as_ref()
    }

    /// The number of the next trial; numbers of interrupted trials are not used again.
    pub fn next_trial(&self) -> u32 {
        self.replay.last_trial + 1
    }

    /// Says that a trial is about to be launched.
    ///
    /// # Errors
    /// When the line could not be written and synced.
    pub fn started(&mut self, trial: u32, spec: &TrialSpec) -> Result<(), JournalError> {
        let line = Interrupted {
            trial,
            settings: spec.settings.clone(),
            purpose: spec.purpose,
            unix_seconds: unix_seconds(),
        };
        self.write(&Entry::Started(line.clone()))?;
        self.replay.last_trial = self.replay.last_trial.max(trial);
        self.replay.interrupted = Some(line);
        Ok(())
    }

    /// Writes one observation; when this returns it is on disk.
    ///
    /// # Errors
    /// When the line could not be written and synced; the journal stays as it was.
    pub fn append(&mut self, observation: &Observation) -> Result<(), JournalError> {
        self.write(&Entry::Observation(Box::new(observation.clone())))?;
        self.replay.last_trial = self.replay.last_trial.max(observation.trial);
        self.replay.ended(observation.trial);
        Ok(())
    }

    /// Marks the search as over; call it after `result.json` was written.
    ///
    /// # Errors
    /// When the line could not be written and synced.
    pub fn finish(&mut self, reason: &str, exit_status: i32) -> Result<(), JournalError> {
        let end = Finished { reason: reason.to_owned(), exit_status, unix_seconds: unix_seconds() };
        self.write(&Entry::Finished(end.clone()))?;
        self.replay.finished = Some(end);
        Ok(())
    }

    /// Replaces `result.json` as a whole.
    ///
    /// # Errors
    /// When it could not be written and synced; the old one is then still there.
    pub fn write_result(&self, result: &impl Serialize) -> Result<PathBuf, JournalError> {
        let path = self.dir.join("result.json");
        let mut text =
            serde_json::to_vec_pretty(result).map_err(|e| JournalError::io("writing", &path, e.into()))?;
        text.push(b'\n');
        write_atomic(&path, &text)?;
        Ok(path)
    }

    /// The result as it was written, if there is one.
    pub fn read_result(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("result.json")).ok()?).ok()
    }

    fn write(&mut self, entry: &Entry) -> Result<(), JournalError> {
        append(&mut self.file, &self.dir.join("journal.jsonl"), &mut self.length, entry)?;
        self.replay.finished = None;
        Ok(())
    }
}

/// Appends a line in one write and syncs it; after a failure the file is as long as before.
fn append(file: &mut File, path: &Path, length: &mut u64, entry: &Entry) -> Result<(), JournalError> {
    let line = entry
        .to_line()
        .map_err(|e| JournalError::io("writing a line that can be read again to", path, e.into()))?;
    if let Err(e) = file.write_all(&line).and_then(|()| file.sync_data()) {
        // Should this fail too, the next opening finds a torn line and cuts it off.
        let _ = file.set_len(*length);
        return Err(JournalError::io("appending to", path, e));
    }
    *length += line.len() as u64;
    Ok(())
}

/// Makes `.autofit/<id>`.
fn folder(dir: &Path, id: &str) -> Result<PathBuf, JournalError> {
    let folder = dir.join(FOLDER).join(id);
    std::fs::create_dir_all(&folder).map_err(|e| JournalError::io("making", &folder, e))?;
    atomic::sync_dir(dir)?;
    Ok(folder)
}

/// A `.gitignore` that keeps all of ours out of the user's repository; made in the search's own folder, where nobody
/// else writes.
fn ignore(dir: &Path, folder: &Path) -> Result<(), JournalError> {
    let ignore = dir.join(FOLDER).join(".gitignore");
    match ignore.exists() {
        true => Ok(()),
        false => atomic::write_by_way_of(folder, &ignore, b"*\n"),
    }
}

fn space(folder: &Path) -> Result<(), JournalError> {
    let Ok(s) = nix::sys::statvfs::statvfs(folder) else { return Ok(()) };
    let free = s.blocks_available().saturating_mul(s.fragment_size());
    // File systems that do not know (some network ones) say that they have no blocks at all.
    if s.blocks() > 0 && free < NEEDED_SPACE {
        return Err(JournalError::NoSpace { path: folder.to_owned(), free: Some(free) });
    }
    Ok(())
}

fn set_aside(folder: &Path) -> Result<(), JournalError> {
    let number = (1..).find(|n| !folder.join(format!("journal.{n}.jsonl")).exists()).unwrap_or(1);
    // The journal last: a kill between two of them must not leave a result that is of no journal, or of the next one.
    for (name, kind) in [("report", "html"), ("report", "md"), ("result", "json"), ("journal", "jsonl")] {
        let from = folder.join(format!("{name}.{kind}"));
        let to = folder.join(format!("{name}.{number}.{kind}"));
        match std::fs::rename(&from, &to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(JournalError::io("renaming", &from, e));
            }
            _ => {}
        }
    }
    atomic::sync_dir(folder)
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
