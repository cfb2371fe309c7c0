//! What the end-to-end tests share: the Python environment, project folders, commands with a time limit, and checks
//! that nothing was left behind.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used)]

pub mod cgroup;
pub mod command;
pub mod evidence;
pub mod project;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use autofit::pyenv::{self, Notice, Python};

pub use command::{Finished, autofit, plain};
pub use project::Project;

/// How often a line of progress is written while the environment is made.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// An interpreter with PyTorch; made on first use, which downloads about 3 GB once.
///
/// # Panics
/// With the reason when there is none: tests that need PyTorch are never skipped in silence.
pub fn python() -> &'static Python {
    static PYTHON: OnceLock<Python> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let mut last = Instant::now();
        // The raw stream: what tests print is kept back by the test runner, and this can take minutes.
        let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
        pyenv::ensure(&mut |notice| match notice {
            Notice::Say(text) | Notice::Announce(text) => say(text),
            Notice::Working { what, elapsed, last: line } if last.elapsed() > PROGRESS_EVERY => {
                last = Instant::now();
                say(format!("{what}, {} s: {line}", elapsed.as_secs()));
            }
            Notice::Working { .. } => {}
        })
        .unwrap_or_else(|e| panic!("no Python with PyTorch for the tests: {e}"))
    })
}

/// Tests that launch training take turns: two at a time would disturb each other's measurements.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
