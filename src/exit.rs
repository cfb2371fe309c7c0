//! Exit statuses, documented in README.md; scripts may rely on them.

/// Tuned: `autofit.env` was written.
pub const TUNED: i32 = 0;
/// Of `autofit doctor`: something is broken.
pub const BROKEN: i32 = 1;
/// Usage or recipe error.
pub const USAGE: i32 = 2;
/// Nothing fits within the bounds.
pub const NOTHING_FITS: i32 = 3;
/// The script fails for a reason that is not memory.
pub const SCRIPT_FAILS: i32 = 4;
/// The agent could not start in the script.
pub const AGENT_MISSING: i32 = 5;
/// The place cannot be used: read-only, no space, locked by another search, no torch.
pub const PLACE: i32 = 6;
/// Of `autofit run`: our own failure.
pub const RUN_FAILED: i32 = 125;
/// The command exists but cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// The command does not exist.
pub const NOT_FOUND: i32 = 127;
/// Ended by Ctrl-C.
pub const INTERRUPTED: i32 = 130;
/// Ended by SIGTERM.
pub const TERMINATED: i32 = 143;

/// An error that ends the program with a status of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// One of the constants above.
    pub status: i32,
    /// What happened and what to do, for people.
    pub message: String,
}

impl Exit {
    /// An error with its status.
    pub fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}
