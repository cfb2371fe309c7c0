//! What a search may change.

use serde::{Deserialize, Serialize};

/// What may happen to the effective batch size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchPolicy {
    /// It stays as it is.
    #[default]
    Keep,
    /// It may become smaller.
    Lower,
    /// It may become larger or smaller.
    Max,
}

impl BatchPolicy {
    /// The word for `--batch` and for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Lower => "lower",
            Self::Max => "max",
        }
    }
}
