//! The lines of a journal, and reading them back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::JournalError;
use crate::model::VERSION;
use crate::model::configuration::Configuration;
use crate::model::observation::{Observation, Purpose};

/// A trial that was started; when no observation follows, the search was killed while it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interrupted {
    /// Its number.
    pub trial: u32,
    /// What it tried.
    pub settings: Configuration,
    /// Why.
    pub purpose: Purpose,
    /// When it was launched.
    pub unix_seconds: u64,
}

/// The end of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Why it ended: `complete`, `budget`, ...
    pub reason: String,
    /// What the program ended with.
    pub exit_status: i32,
    /// When.
    pub unix_seconds: u64,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first line.
    Search {
        /// The search's id.
        id: String,
        /// The version of autofit that began it.
        autofit: String,
        /// Ids of earlier searches of the command that it knows of.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        earlier: Vec<String>,
    },
    /// A trial is about to be launched.
    Started(Interrupted),
    /// A trial has ended.
    Observation(Box<Observation>),
    /// The search has ended.
    Finished(Finished),
}

#[derive(Serialize)]
struct VersionedOut<'a> {
    v: u32,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl Entry {
    /// The line, with its newline.  It is read again here: a line that cannot be would only be found out when the search
    /// is resumed.
    pub(super) fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(&VersionedOut { v: VERSION, entry: self })?;
        serde_json::from_slice::<Self>(&line)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// A journal, read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) observations: Vec<Observation>,
    pub(super) interrupted: Option<Interrupted>,
    pub(super) finished: Option<Finished>,
    pub(super) last_trial: u32,
    /// Earlier searches that this one knows of.
    pub(super) earlier: Vec<String>,
    /// Bytes of whole lines.
    pub(super) length: u64,
    /// Bytes after them.
    pub(super) torn: u64,
}

impl Replay {
    /// Reads the journal at `path`; one that is not there is empty.
    pub(super) fn read(path: &Path) -> Result<Self, JournalError> {
        let bytes = match std::fs::read(path) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(JournalError::io("reading", path, e)),
        };
        let mut replay = Self::default();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        for (i, line) in lines.iter().enumerate() {
            let last = i + 1 == lines.len();
            match parse(line) {
                Ok(entry) if line.ends_with(b"\n") => {
                    replay.length += line.len() as u64;
                    replay.take(entry);
                }
                Err(Unreadable::Version(found)) => {
                    return Err(JournalError::Version { path: path.to_owned(), found, known: VERSION });
                }
                // Also a last line that is whole but for its newline: its writer never learned that it was written.
                _ if last => replay.torn = line.len() as u64,
                Ok(_) => {}
                Err(Unreadable::Text(why)) => {
                    return Err(JournalError::Corrupt { path: path.to_owned(), line: i + 1, why });
                }
            }
        }
        Ok(replay)
    }

    /// A trial is over; one that was begun after it (where several run at a time) is not.
    pub(super) fn ended(&mut self, trial: u32) {
        self.interrupted.take_if(|begun| begun.trial <= trial);
    }

    fn take(&mut self, entry: Entry) {
        if !matches!(entry, Entry::Search { .. }) {
            self.finished = None;
        }
        match entry {
            Entry::Search { earlier, .. } => self.earlier = earlier,
            Entry::Started(s) => {
                self.last_trial = self.last_trial.max(s.trial);
                self.interrupted = Some(s);
            }
            Entry::Observation(o) => {
                self.last_trial = self.last_trial.max(o.trial);
                self.ended(o.trial);
                self.observations.push(*o);
            }
            Entry::Finished(f) => self.finished = Some(f),
        }
    }
}

enum Unreadable {
    Version(u64),
    Text(String),
}

fn parse(line: &[u8]) -> Result<Entry, Unreadable> {
    let text = |e: serde_json::Error| Unreadable::Text(e.to_string());
    let value: serde_json::Value = serde_json::from_slice(line).map_err(text)?;
    match value.get("v").and_then(serde_json::Value::as_u64) {
        Some(v) if v == u64::from(VERSION) => serde_json::from_value(value).map_err(text),
        Some(v) => Err(Unreadable::Version(v)),
        None => Err(Unreadable::Text("it has no version".into())),
    }
}
