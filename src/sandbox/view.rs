//! What a trial sees instead of the real file system, as a list of steps for the helper.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The steps, in the order in which they are taken.  Every source is opened before the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// Parents before children.
    pub steps: Vec<Step>,
}

/// One thing at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The path inside.
    #[serde(with = "bytes")]
    pub at: PathBuf,
    /// What is put there.
    pub what: What,
}

/// Kinds of steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// The real directory, seen through a layer that takes every change.
    Overlay {
        /// Holds `upper` and `work`.
        #[serde(with = "bytes")]
        layer: PathBuf,
    },
    /// A directory of ours with placeholders for what is mounted in it.
    Skeleton {
        /// The directory.
        #[serde(with = "bytes")]
        dir: PathBuf,
    },
    /// The real thing, as it is (it is read-only, or the user shares it, or it is ours).
    Real {
        /// Whether it may be written.
        writable: bool,
    },
    /// A directory of ours that is kept between trials.
    Kept {
        /// The directory.
        #[serde(with = "bytes")]
        dir: PathBuf,
    },
    /// Shared memory of its own, bytes; the real one's content is seen through it if there is any.
    SharedMemory {
        /// As large as the real one.
        size: u64,
        /// Whether there is content to see.
        over: bool,
    },
}

impl Step {
    /// Whether the place may not exist outside.
    pub fn may_be_new(&self) -> bool {
        matches!(self.what, What::Kept { .. })
    }

    /// Whether it does not matter if the place is no longer there.
    pub fn may_have_gone(&self) -> bool {
        matches!(self.what, What::Overlay { .. } | What::Real { writable: false })
    }
}

impl View {
    pub fn put(&mut self, at: &Path, what: What) {
        self.steps.push(Step { at: at.to_owned(), what });
    }

    /// Parents first; of two steps for one place the later one counts.
    pub fn finish(mut self) -> Self {
        self.steps.reverse();
        self.steps.sort_by(|a, b| a.at.cmp(&b.at));
        self.steps.dedup_by(|a, b| a.at == b.at);
        self
    }
}

/// Paths are bytes, not text.
mod bytes {
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().to_owned().serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(from).map(PathBuf::from)
    }
}
