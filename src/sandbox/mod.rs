//! Keeping the user's files as they are while a trial runs.
//!
//! The strongest way is a mount namespace in which every place that can be written is an overlay ([`cover`] works out
//! which, [`mount`] puts them in place): the script reads the real files, writes where it always writes, and nothing
//! of it reaches the disk that it thinks it wrote to.  Where that is refused, see [`Isolation`].
//!
//! **Architecture invariant:** nothing here is a matter of what the script imports or how it writes.  Effects on other
//! machines (uploads, databases) are not covered by any of this; [`offline`] only asks known trackers to stay offline.

mod adopt;
mod copy;
mod cover;
pub mod landlock;
mod mount;
mod mountinfo;
pub mod offline;
mod places;
mod plan;
pub mod scratch;
mod view;

pub(crate) use copy::{copy, rewrite};
pub(crate) use cover::{Wanted, cover};
pub(crate) use mount::build;
pub(crate) use places::{caches, named};
pub use plan::{Kind, Refusal, SandboxPlan, choose, plan};
pub(crate) use view::{View, What};

/// How files are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The strongest that works here; never `None`.
    #[default]
    Auto,
    /// Overlay views in a mount namespace.
    Overlay,
    /// Landlock: writing is denied outside of our places.
    Landlock,
    /// A copy of the working directory.
    Copy,
    /// The script writes where it wants.
    None,
}
