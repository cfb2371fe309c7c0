//! What a trial writes to stdout and stderr: wholly in a file of bounded size, and its last lines in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Largest log.  A script that floods its output must not fill the disk.
pub(crate) const LOG_LIMIT: u64 = 64 << 20;
/// Lines in memory: enough for a traceback of every rank.
const LINES: usize = 4000;
/// Longest line in memory, bytes; the rest of it is in the log only.
const LINE: usize = 8 << 10;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Shared by the two reading threads and everybody who looks.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    lines: VecDeque<String>,
    /// The unfinished line of each stream.
    open: [Vec<u8>; 2],
    /// A carriage return came last: the next byte that is no newline starts the line again (progress bars).
    returned: [bool; 2],
    /// Lines finished since the start.
    count: u64,
    log: BoundedLog,
}

impl Output {
    /// Output that is kept in `log`, which is created.
    pub(crate) fn create(log: &Path) -> io::Result<Self> {
        let log = BoundedLog::create(log, LOG_LIMIT)?;
        Ok(Self(Arc::new(Mutex::new(Inner {
            lines: VecDeque::new(),
            open: [Vec::new(), Vec::new()],
            returned: [false; 2],
            count: 0,
            log,
        }))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A reader that panicked left whole lines behind: they are still worth reading.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads a stream to its end.
    pub(crate) fn drain(&self, stream: Stream, mut from: impl Read) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.lock().take(stream, &buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lock().finish(stream);
    }

    /// The last `n` lines of both streams, unfinished ones included.
    pub(crate) fn tail(&self, n: usize) -> Vec<String> {
        let inner = self.lock();
        let open = inner.open.iter().filter(|l| !l.is_empty()).map(|l| text(l));
        let mut lines: Vec<String> = inner.lines.iter().cloned().chain(open).collect();
        lines.drain(..lines.len().saturating_sub(n));
        lines
    }

    /// Lines finished since the start, and those of them after number `seen` that are still in memory.
    pub(crate) fn since(&self, seen: u64) -> (u64, Vec<String>) {
        let inner = self.lock();
        let new = usize::try_from(inner.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = inner.lines.len().saturating_sub(new);
        (inner.count, inner.lines.iter().skip(skip).cloned().collect())
    }
}

impl Inner {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        self.log.write(bytes);
        let i = stream as usize;
        for &byte in bytes {
            match byte {
                b'\n' => {
                    self.returned[i] = false;
                    self.push(i);
                }
                b'\r' => self.returned[i] = true,
                _ => {
                    if std::mem::take(&mut self.returned[i]) {
                        self.open[i].clear();
                    }
                    if self.open[i].len() < LINE {
                        self.open[i].push(byte);
                    }
                }
            }
        }
    }

    fn push(&mut self, i: usize) {
        let line = text(&self.open[i]);
        self.open[i].clear();
        self.count += 1;
        self.lines.push_back(line);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    fn finish(&mut self, stream: Stream) {
        let i = stream as usize;
        if !self.open[i].is_empty() {
            self.push(i);
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

/// A file that keeps its first quarter and its newest part.
#[derive(Debug)]
struct BoundedLog {
    file: File,
    size: u64,
    limit: u64,
    /// A full disk costs the log, not the trial.
    broken: bool,
}

const CUT: &[u8] = b"\n[... output left out ...]\n";

impl BoundedLog {
    fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self { file, size: 0, limit, broken: false })
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.broken = self.try_write(bytes).is_err();
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            self.compact()?;
        }
        Ok(())
    }

    /// Keeps the first quarter, drops what follows, keeps the last half.
    fn compact(&mut self) -> io::Result<()> {
        let head = self.limit / 4;
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(self.size - self.limit / 2))?;
        self.file.read_to_end(&mut tail)?;
        self.file.seek(SeekFrom::Start(head))?;
        self.file.write_all(CUT)?;
        self.file.write_all(&tail)?;
        self.size = self.file.stream_position()?;
        self.file.set_len(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dir: &tempfile::TempDir) -> Output {
        Output::create(&dir.path().join("log")).unwrap()
    }

    #[test]
    fn lines_of_both_streams_and_progress_bars() {
        let dir = tempfile::tempdir().unwrap();
        let output = output(&dir);
        output.drain(Stream::Out, &b"one\r\n 1%\r 2%\r100%\nlast"[..]);
        output.drain(Stream::Err, &b"err\xff\n"[..]);
        assert_eq!(output.tail(9), ["one", "100%", "last", "err\u{fffd}"]);
        assert_eq!(output.tail(1), ["err\u{fffd}"]);
        assert_eq!(output.since(3), (4, vec!["err\u{fffd}".to_owned()]));
    }

    #[test]
    fn a_flood_stays_in_bounds_and_keeps_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = BoundedLog::create(&path, 4000).unwrap();
        for i in 0..5000 {
            log.write(format!("line {i}\n").as_bytes());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 4000 + 16, "{}", text.len());
        assert!(text.starts_with("line 0\nline 1\n"));
        assert!(text.ends_with("line 4998\nline 4999\n"));
        assert!(text.contains("output left out"));
    }
}
