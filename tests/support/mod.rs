//! What the end-to-end tests share: the Python environment, project folders, commands with a time limit, and checks
//! that nothing was left behind.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used)]

pub mod cgroup;
pub mod command;
pub mod evidence;
pub mod project;
pub mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use autofit::pyenv::{self, Notice, PyenvError, Python, Setup};

pub use command::{Finished, autofit, plain};
pub use project::Project;

/// How often a line of progress is written while the environment is made.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What [`frameworks`] adds on disk.
const FRAMEWORKS_MEGABYTES: u64 = 280;

/// An interpreter with PyTorch; made on first use, which downloads about 3 GB once.
///
/// # Panics
/// With the reason when there is none: tests that need PyTorch are never skipped in silence.
pub fn python() -> &'static Python {
    static PYTHON: OnceLock<Python> = OnceLock::new();
    PYTHON.get_or_init(|| made("PyTorch", |notice| pyenv::ensure(notice)))
}

/// An interpreter that also has the packages of `frameworks.txt`; made on first use beside `base`, whose PyTorch it
/// sees.
///
/// # Panics
/// As [`python`].
pub fn frameworks(base: &Path) -> PathBuf {
    let packages = include_str!("frameworks.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let packages = packages.map(str::to_owned).collect();
    let setup = Setup::beside(base, "frameworks", packages, "transformers", FRAMEWORKS_MEGABYTES);
    made("the frameworks", |notice| pyenv::ensure_with(&setup?, notice)).path
}

/// Says what goes on while an environment is made.
fn made(what: &str, make: impl FnOnce(&mut dyn FnMut(Notice)) -> Result<Python, PyenvError>) -> Python {
    let mut last = Instant::now();
    // The raw stream: what tests print is kept back by the test runner, and this can take minutes.
    let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
    make(&mut |notice| match notice {
        Notice::Say(text) | Notice::Announce(text) => say(text),
        Notice::Working { what, elapsed, last: line } if last.elapsed() > PROGRESS_EVERY => {
            last = Instant::now();
            say(format!("{what}, {} s: {line}", elapsed.as_secs()));
        }
        Notice::Working { .. } => {}
    })
    .unwrap_or_else(|e| panic!("no Python with {what} for the tests: {e}"))
}

/// Tests that launch training take turns: two at a time would disturb each other's measurements.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
