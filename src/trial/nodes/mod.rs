//! One trial on several machines.
//!
//! # Theory of operation
//! On each machine this same binary runs the trial's command, with the same isolation, limits and agent as alone, and
//! with torchrun's own words for where all of them meet ([`crate::model::torchrun`]).  Each has a [`Seat`]; the first
//! one leads: it chooses the port, hears the agents of all machines, judges, ends the trial on all of them, and makes
//! the observation.
//!
//! What they have to tell each other ([`word`]) they write into a folder that all of them see, each into a file of its
//! own that nobody else writes ([`post`]).  Agents write to their own machine's disk, as always, and their launcher
//! passes on what they wrote: a file system that is shared keeps what was written for seconds, and says that a file
//! which it has looked for in vain is not there for longer than that; a file that was there from the beginning, is
//! synced by who writes it and opened anew by who reads it shows what is new at once.
//!
//! [`team`] is what a launcher knows of the others while the trial runs.

pub mod post;
pub mod team;
pub mod word;

use std::path::PathBuf;

/// This machine's place among those that run a trial together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Which, from 0; the first one leads.
    pub me: u32,
    /// Of how many.
    pub of: u32,
    /// The folder that all of them see.
    pub dir: PathBuf,
}

impl Seat {
    /// Whether this is the one that judges.
    pub fn leads(&self) -> bool {
        self.me == 0
    }
}
