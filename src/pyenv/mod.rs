//! The private Python environment with PyTorch, for `autofit demo` and for the tests.
//!
//! It is a virtual environment in `$XDG_CACHE_HOME/autofit/python/` (or `~/.cache/autofit/python/`), under a name that
//! holds the pinned version, made once and used again.  Two processes that want it at the same time make it once: a
//! file lock keeps them apart, and a marker written last says that it is whole.  `AUTOFIT_PYTHON` names an interpreter
//! to use instead.  The tests make another one beside it ([`Setup::beside`]), which sees its packages instead of
//! fetching them again.
//!
//! Nothing here prints: what happens is handed to a callback as [`Notice`]s.

mod make;
mod needs;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::size::Bytes;
use crate::process::tool::{self, Tool};

pub use make::ensure_with;

/// The version that the demo and the tests are written for.
pub const TORCH: &str = "2.11.0";
/// Bytes that fetching it transfers (the Linux x86-64 build with CUDA 13, libraries included).
pub const DOWNLOAD_BYTES: u64 = 3 << 30;
/// Bytes that it takes on disk once it is made.
pub const DISK_BYTES: u64 = 5 << 30;
/// Bytes that must be free to make it: the environment, and the archives while they are unpacked.
pub const FREE_NEEDED: u64 = 8 << 30;
/// An interpreter to use instead of the private environment.
pub const OVERRIDE: &str = "AUTOFIT_PYTHON";

/// An interpreter that imports torch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The interpreter, absolute.
    pub path: PathBuf,
    /// As `torch.__version__` has it, for example `2.11.0+cu130`.
    pub torch_version: String,
}

/// What to show while the environment is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A sentence that stays.
    Say(String),
    /// What is about to be fetched, before it is.
    Announce(String),
    /// Work goes on (at least every 0.2 s).
    Working {
        /// What is being done.
        what: &'static str,
        /// Since it began.
        elapsed: Duration,
        /// The tool's last line.
        last: String,
    },
}

/// Why there is no environment, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PyenvError {
    /// `AUTOFIT_PYTHON` is set, but does not import torch.
    #[error("{OVERRIDE} names {}, which cannot import torch and numpy:\n{tail}", .path.display())]
    Override {
        /// The interpreter.
        path: PathBuf,
        /// Its last words.
        tail: String,
    },
    /// No usable `python3`.
    #[error("{0}")]
    Python(String),
    /// `venv` or `ensurepip` is missing.
    #[error("{} cannot make virtual environments ({missing} is missing); on Debian and Ubuntu: {install}", .python.display())]
    Venv {
        /// The interpreter.
        python: PathBuf,
        /// The module.
        missing: String,
        /// What to type.
        install: String,
    },
    /// The disk is too full.
    #[error("{} has {} free, and the environment needs {}; free some space, or set XDG_CACHE_HOME to a larger disk", .place.display(), Bytes(*.free), Bytes(*.needed))]
    Space {
        /// Where.
        place: PathBuf,
        /// Bytes.
        free: u64,
        /// Bytes.
        needed: u64,
    },
    /// The folder cannot be used.
    #[error("cannot use {}: {error}; set XDG_CACHE_HOME to a folder that can be written, or {OVERRIDE} to an interpreter with torch and numpy", .place.display())]
    Place {
        /// Where.
        place: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A tool failed.
    #[error("{what} failed ({how}); its last lines:\n{tail}")]
    Tool {
        /// What was being done.
        what: String,
        /// Exit status or signal.
        how: String,
        /// Last lines.
        tail: String,
    },
    /// No home to keep it in.
    #[error(
        "neither XDG_CACHE_HOME nor HOME is set, so there is no place for the environment; set {OVERRIDE} to an interpreter with torch and numpy"
    )]
    NoHome,
}

/// What is made, and where.  [`Setup::standard`] is the one that is used; tests make smaller ones.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The interpreter that makes it: a name on `PATH`, or a path.
    pub python: PathBuf,
    /// The folder that environments lie in.
    pub root: PathBuf,
    /// What the environment's own folder is called there; the Python's version is added.
    pub name: String,
    /// An interpreter whose packages this environment sees and does not fetch again.
    pub base: Option<PathBuf>,
    /// Requirements, exactly pinned.
    pub packages: Vec<String>,
    /// The module that proves it whole, and whose version is kept.
    pub module: String,
    /// The oldest Python that the packages run on.
    pub oldest: (u32, u32),
    /// Bytes that must be free.
    pub free_needed: u64,
    /// What is said before anything is fetched.
    pub announcement: String,
}

impl Setup {
    /// PyTorch and NumPy in the user's cache.
    ///
    /// # Errors
    /// [`PyenvError::NoHome`].
    pub fn standard() -> Result<Self, PyenvError> {
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
            .ok_or(PyenvError::NoHome)?;
        let root = cache.join("autofit").join("python");
        Ok(Self {
            python: "python3".into(),
            announcement: format!(
                "PyTorch {TORCH} goes into a private environment under {}: about {} to download, about {} on disk, \
                 once.  Delete that folder to be rid of it.",
                root.display(),
                Bytes(DOWNLOAD_BYTES),
                Bytes(DISK_BYTES)
            ),
            root,
            name: format!("torch-{TORCH}-numpy"),
            base: None,
            packages: vec![format!("torch=={TORCH}"), "numpy".into()],
            module: "torch".into(),
            oldest: (3, 10),
            free_needed: FREE_NEEDED,
        })
    }

    /// An environment beside the standard one for more `packages`, of which `module` proves it whole: it sees what
    /// `base` imports, PyTorch above all.  `megabytes` is what it takes on disk.
    ///
    /// # Errors
    /// [`PyenvError::NoHome`].
    pub fn beside(
        base: &Path,
        name: &str,
        packages: Vec<String>,
        module: &str,
        megabytes: u64,
    ) -> Result<Self, PyenvError> {
        let standard = Self::standard()?;
        let disk = megabytes << 20;
        // Another base or other pins are another environment.
        let content = format!("{}\n{}", base.display(), packages.join("\n"));
        let hash: String = Sha256::digest(content).iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(Self {
            python: base.into(),
            announcement: format!(
                "{} go into an environment under {}, beside PyTorch: about {} on disk, once.",
                packages.join(", "),
                standard.root.display(),
                Bytes(disk)
            ),
            name: format!("{name}-{hash}"),
            base: Some(base.into()),
            packages,
            module: module.into(),
            // Archives are unpacked beside what they become.
            free_needed: 2 * disk,
            ..standard
        })
    }
}

/// The interpreter to use: that of `AUTOFIT_PYTHON`, else the private environment, which is made if it is not there.
///
/// # Errors
/// [`PyenvError`] says what is missing and what to type.
pub fn ensure(notice: &mut dyn FnMut(Notice)) -> Result<Python, PyenvError> {
    match env::var_os(OVERRIDE) {
        Some(path) if !path.is_empty() => own(Path::new(&path)),
        _ => ensure_with(&Setup::standard()?, notice),
    }
}

/// The interpreter to use if it is there already; nothing is fetched or made.
pub fn find() -> Option<Python> {
    match env::var_os(OVERRIDE) {
        Some(path) if !path.is_empty() => own(Path::new(&path)).ok(),
        _ => make::find(&Setup::standard().ok()?),
    }
}

fn own(path: &Path) -> Result<Python, PyenvError> {
    let refuse = |tail: String| PyenvError::Override { path: path.into(), tail };
    let check = "import sys, numpy, torch; print(sys.executable); print(torch.__version__)";
    let end = tool::run(Tool::new(path).args(["-c", check]), |_| ()).map_err(|e| refuse(e.to_string()))?;
    let mut lines = end.stdout.lines();
    match (end.status.success(), lines.next(), lines.next()) {
        (true, Some(executable), Some(version)) => {
            Ok(Python { path: executable.into(), torch_version: version.into() })
        }
        _ => Err(refuse(end.tail.join("\n"))),
    }
}

#[cfg(test)]
mod tests;
