//! What a command writes to its terminal while ours shows something else: its latest lines, and all of it afterwards.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::report::style::one_line;

/// Lines that are kept to be shown.
const LINES: usize = 200;
/// Bytes that are kept to be written to the terminal once it shows itself again.
const KEPT: usize = 4 << 20;
/// How long a grandchild that holds the terminal open is waited for after the command's end.
const DRAIN: Duration = Duration::from_millis(500);

/// Reads until the command's terminal is closed.
pub struct Pane {
    state: Arc<Mutex<State>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// The line that is not finished, as bytes: a character may be.
    open: Vec<u8>,
    kept: VecDeque<u8>,
    dropped: u64,
    /// From now on everything goes straight to the terminal.
    through: bool,
}

impl Pane {
    /// Begins to read.
    pub fn new(mut from: File) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            // An error is the end: the last writer has closed its side.
            while let Ok(n) = from.read(&mut chunk) {
                if n == 0 {
                    break;
                }
                lock(&shared).take(&chunk[..n]);
            }
        });
        Self { state, reader }
    }

    /// The latest lines, as they would stand on a terminal without colours.
    pub fn lines(&self) -> Vec<String> {
        let state = lock(&self.state);
        let open = plain(&state.open);
        state.lines.iter().cloned().chain(Some(open).filter(|l| !l.is_empty())).collect()
    }

    /// Writes what was kept to the terminal, which is the person's again, and from now on everything at once.
    pub fn pass_through(&self) {
        let mut state = lock(&self.state);
        if state.through {
            return;
        }
        state.through = true;
        if state.dropped > 0 {
            super::say(&format!("the first {} bytes of the output are not repeated", state.dropped));
        }
        let kept: Vec<u8> = state.kept.drain(..).collect();
        to_terminal(&kept);
    }

    /// Reads what is left after the command's end.
    pub fn finish(self) {
        let until = Instant::now() + DRAIN;
        while !self.reader.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.pass_through();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn take(&mut self, bytes: &[u8]) {
        if self.through {
            to_terminal(bytes);
            return;
        }
        self.kept.extend(bytes);
        if self.kept.len() > KEPT {
            let over = self.kept.len() - KEPT;
            self.kept.drain(..over);
            self.dropped += over as u64;
        }
        for byte in bytes {
            if *byte == b'\n' {
                let line = plain(&self.open);
                self.open.clear();
                self.lines.push_back(line);
                if self.lines.len() > LINES {
                    self.lines.pop_front();
                }
            } else if self.open.len() < 4096 {
                self.open.push(*byte);
            } else if *byte == b'\r' {
                // A progress bar that never ends its line.
                self.open.clear();
            }
        }
    }
}

/// A line as a terminal would show it: what a carriage return goes back over is replaced.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = console::strip_ansi_codes(&text);
    let last = text.split('\r').rfind(|part| !part.is_empty()).unwrap_or_default();
    one_line(&last.replace('\t', "    "))
}

fn to_terminal(bytes: &[u8]) {
    // A terminal that has gone away is no reason to stop.
    let _ = if std::io::stdout().is_terminal() {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    } else {
        std::io::stderr().lock().write_all(bytes)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_a_terminal_shows_them() {
        let mut state = State::default();
        state.take(b"\x1b[32mgreen\x1b[0m\tx\r\n 10%|#  |\r 50%|## |");
        state.take(b"\r100%|###|\nhalf");
        assert_eq!(state.lines, ["green    x", "100%|###|"]);
        assert_eq!(plain(&state.open), "half");
    }

    #[test]
    fn a_talkative_command_does_not_fill_the_memory() {
        let mut state = State::default();
        for _ in 0..3 {
            state.take(&vec![b'x'; KEPT]);
        }
        assert_eq!((state.kept.len(), state.dropped), (KEPT, 2 * KEPT as u64));
        assert!(state.open.len() <= 4096 && state.lines.is_empty());
        (0..2 * LINES).for_each(|_| state.take(b"line\n"));
        assert_eq!(state.lines.len(), LINES);
    }
}
