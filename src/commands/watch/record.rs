//! Readings as JSON lines, in a file and on standard output (docs/watch.md describes them).

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::exit::{self, Exit};
use crate::model::VERSION;

/// One line.
#[derive(Serialize)]
struct Line<'a, T> {
    v: u32,
    t: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// Where lines go.
pub struct Records {
    file: Option<(PathBuf, File)>,
    stdout: bool,
    /// Why the file could not be written to its end.
    pub failed: Option<String>,
}

impl Records {
    /// Opened before anything is started.
    ///
    /// # Errors
    /// [`Exit`] with status 6 when the file cannot be made.
    pub fn open(path: Option<PathBuf>, stdout: bool) -> Result<Self, Exit> {
        let file = match path {
            Some(path) => match File::create(&path) {
                Ok(file) => Some((path, file)),
                Err(e) => {
                    let message =
                        format!("{} cannot be written: {e}; --record names another file", path.display());
                    return Err(Exit::new(exit::PLACE, message));
                }
            },
            None => None,
        };
        Ok(Self { file, stdout, failed: None })
    }

    /// Whether anybody wants them.
    pub fn wanted(&self) -> bool {
        self.stdout || self.file.is_some()
    }

    /// Writes one line, whole.
    pub fn write(&mut self, t: &str, record: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(&Line { v: VERSION, t, record }) else { return };
        line.push(b'\n');
        if self.stdout {
            super::super::terminal::print(&String::from_utf8_lossy(&line));
        }
        if let Some((path, file)) = &mut self.file
            && let Err(e) = file.write_all(&line)
        {
            self.failed = Some(format!("{} could not be written to the end: {e}", path.display()));
            self.file = None;
        }
    }
}
