//! The only room that spawns.
//!
//! # Theory of operation
//! [`start`] launches a trial; [`Running`] is watched, asked to end, and waited for.  Between this process and the
//! script stands a small helper ([`helper`]), this same binary executed again: it makes namespaces of users, mounts
//! and processes, and is the script's parent in them.
//!
//! - **No process outlives its trial.**  The script lives in a PID namespace: when its first process goes, the kernel
//!   kills the rest, daemons included.  That process goes when it is told to, and when this process dies in whatever
//!   way.  Where namespaces are refused, what can be found is killed, and [`Containment`] and the notes say so.
//! - **Ends are never merged.**  "Not found", "exited with", "killed by a signal that was not ours" and "ended by us
//!   because" are different values of [`ProcessEnd`], passed on exactly.
//! - **Nobody is waited for without a bound.**  TERM, grace, KILL; a grandchild that holds the script's pipes is a
//!   result ([`Ended::pipes_held`]), not a hang.
//! - **Memory is capped and measured for the tree**, in a cgroup of its own ([`limits`]).
//!
//! **Architecture invariant:** no other room spawns a process; this room prints nothing.

mod abilities;
mod attend;
pub mod beside;
pub mod exec;
pub mod foreground;
pub mod helper;
mod launch;
pub mod limits;
mod orphans;
mod output;
mod prepare;
mod running;
pub mod tool;
mod tree;

pub use abilities::{Abilities, abilities};
pub use exec::exec_replacing;
pub use launch::{Launch, StartError, start, start_blocking, use_helper};
pub use limits::machine_limit;
pub use orphans::end_orphans;
pub use running::{Containment, Ended, Running};

pub(crate) use tree::Identity;

#[doc(inline)]
pub use crate::model::observation::ProcessEnd;
