//! Reads the agents' records while they are written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::model::Event;

/// At most this much is taken from one file at a time: a talkative agent must not stop the launcher's own clock.
const CHUNK: u64 = 4 << 20;

/// Follows `events.<rank>.jsonl` of a trial directory.
#[derive(Debug)]
pub struct EventReader {
    dir: PathBuf,
    files: BTreeMap<u32, Tail>,
    broken: u64,
}

/// A file of lines that grows, read so far.
#[derive(Debug, Default)]
pub struct Tail {
    offset: u64,
    partial: Vec<u8>,
}

impl EventReader {
    /// Follows the records of this trial directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: BTreeMap::new(), broken: 0 }
    }

    /// What was written since the last call, with the rank that wrote it.  Kinds of records that this version does
    /// not know are skipped; a line that is not finished waits for its end.
    pub fn read(&mut self) -> Vec<(u32, Event)> {
        for rank in self.ranks() {
            self.files.entry(rank).or_default();
        }
        let mut events = Vec::new();
        for (rank, tail) in &mut self.files {
            let path = self.dir.join(format!("events.{rank}.jsonl"));
            for line in tail.lines(&path) {
                match parse(&line) {
                    Parsed::Event(event) => events.push((*rank, *event)),
                    Parsed::Unknown => {}
                    Parsed::Broken => self.broken += 1,
                }
            }
        }
        events
    }

    /// Lines that are no records at all.
    pub fn broken_lines(&self) -> u64 {
        self.broken
    }

    fn ranks(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let rank = |name: &str| name.strip_prefix("events.")?.strip_suffix(".jsonl")?.parse().ok();
        entries.flatten().filter_map(|e| rank(&e.file_name().to_string_lossy())).collect()
    }
}

impl Tail {
    /// The lines that came to their end since the last call.
    pub fn lines(&mut self, path: &Path) -> Vec<Vec<u8>> {
        self.fill(path);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        whole.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn fill(&mut self, path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let before = self.partial.len();
        // What cannot be read now is read next time.
        let _ = file.take(CHUNK).read_to_end(&mut self.partial);
        self.offset += (self.partial.len() - before) as u64;
    }
}

enum Parsed {
    Event(Box<Event>),
    Unknown,
    Broken,
}

fn parse(line: &[u8]) -> Parsed {
    if let Ok(event) = serde_json::from_slice::<Event>(line) {
        return Parsed::Event(Box::new(event));
    }
    // A record of a kind that a later agent writes is an object with a tag; anything else is damage.
    match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(value) if value.get("t").is_some_and(|t| !KNOWN.contains(&t.as_str().unwrap_or_default())) => {
            Parsed::Unknown
        }
        _ => Parsed::Broken,
    }
}

/// The tags of [`crate::model::event::Record`].
const KNOWN: [&str; 19] = [
    "hello",
    "framework",
    "options",
    "loader",
    "root",
    "detected",
    "knob",
    "step",
    "phase",
    "look",
    "oom",
    "filled",
    "fault",
    "heartbeat",
    "memory",
    "parity",
    "pulse",
    "profile",
    "end",
];

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::model::event::Record;

    #[test]
    fn lines_come_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = EventReader::new(dir.path());
        assert!(reader.read().is_empty());
        let mut file = File::create(dir.path().join("events.1.jsonl")).unwrap();
        let beat = r#"{"v":1,"t":"heartbeat","at":2.5,"pid":7,"step":3}"#;
        write!(file, "{beat}\n{}", &beat[..20]).unwrap();
        let first = reader.read();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0, 1);
        assert_eq!(first[0].1.record, Record::Heartbeat { step: 3, place: None, cpu: None });
        assert!(reader.read().is_empty());
        writeln!(file, "{}", &beat[20..]).unwrap();
        assert_eq!(reader.read().len(), 1);
        writeln!(file, r#"{{"v":1,"t":"from_the_future","at":1.0,"pid":7}}"#).unwrap();
        writeln!(file, "no record").unwrap();
        assert!(reader.read().is_empty());
        assert_eq!(reader.broken_lines(), 1);
    }
}
