//! A journal that is only read: of a search that is over, or that runs somewhere else.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::error::JournalError;
use super::line::{Finished, Interrupted, Replay};
use super::{FOLDER, write_atomic};
use crate::model::observation::Observation;

/// The name of a journal in its folder.
const NAME: &str = "journal.jsonl";

/// What lies in the folder of a search; nothing is locked or changed by reading it.
#[derive(Debug)]
pub struct Recorded {
    /// `.autofit/<id>`.
    pub dir: PathBuf,
    /// Every trial that has ended.
    pub observations: Vec<Observation>,
    /// The trial that was running when the last line was written.
    pub running: Option<Interrupted>,
    /// How the search ended, if it did.
    pub finished: Option<Finished>,
    /// `meta.json`, if it can be read.
    pub meta: Option<Value>,
    /// `result.json`, if it can be read.
    pub result: Option<Value>,
}

impl Recorded {
    /// Reads the folder of one search.
    ///
    /// # Errors
    /// When there is no journal or a line of it cannot be read.
    pub fn read(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(NAME);
        // A journal that is not there would read as an empty one.
        std::fs::metadata(&path).map_err(|e| JournalError::io("reading", &path, e))?;
        let replay = Replay::read(&path)?;
        let json = |name: &str| serde_json::from_slice(&std::fs::read(dir.join(name)).ok()?).ok();
        Ok(Self {
            dir: dir.to_owned(),
            observations: replay.observations,
            running: replay.interrupted,
            finished: replay.finished,
            meta: json("meta.json"),
            result: json("result.json"),
        })
    }

    /// Folders of searches at `place`, the latest first: the folder itself, or those below it or below its `.autofit`.
    pub fn find(place: &Path) -> Vec<PathBuf> {
        if place.join(NAME).is_file() {
            return vec![place.to_owned()];
        }
        let mut found: Vec<(SystemTime, PathBuf)> = [place.join(FOLDER), place.to_owned()]
            .iter()
            .flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten())
            .filter_map(|entry| {
                let written = entry.path().join(NAME).metadata().ok()?.modified().ok()?;
                Some((written, entry.path()))
            })
            .collect();
        found.sort_by(|a, b| b.cmp(a));
        found.dedup();
        found.into_iter().map(|(_, dir)| dir).collect()
    }
}

/// Writes a report beside a journal or elsewhere, as a whole.
///
/// # Errors
/// When it could not be written and synced; an older one is then still there.
pub fn write_report(dir: &Path, name: &str, text: &str) -> Result<PathBuf, JournalError> {
    let path = dir.join(name);
    write_atomic(&path, text.as_bytes())?;
    Ok(path)
}
