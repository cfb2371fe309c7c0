//! Keeping the user's files as they are while a trial runs.

/// How files are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The strongest that works here; never `None`.
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
