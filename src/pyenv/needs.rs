//! What must be there before anything is fetched.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{PyenvError, Setup};
use crate::process::tool::{self, Tool};

/// The interpreter that makes the environment.
#[derive(Debug, Clone)]
pub struct Base {
    /// As it calls itself.
    pub path: PathBuf,
    /// Major and minor.
    pub version: (u32, u32),
}

/// Finds a Python that is new enough and has `venv` and `ensurepip`.
pub fn python(setup: &Setup) -> Result<Base, PyenvError> {
    let (major, minor) = setup.oldest;
    let script = "import sys\n\
                  print(sys.executable)\n\
                  print('%d.%d' % sys.version_info[:2])\n\
                  try:\n    import venv, ensurepip\n\
                  except ImportError as e:\n    print(e.name)\n";
    let end = tool::run(Tool::new(&setup.python).args(["-c", script]), |_| ()).map_err(|e| {
        PyenvError::Python(format!(
            "cannot run `{}` ({e}); on Debian and Ubuntu: {}",
            setup.python.display(),
            install("python3 python3-venv")
        ))
    })?;
    let mut lines = end.stdout.lines();
    let (Some(executable), Some(version)) = (lines.next(), lines.next().and_then(parse_version)) else {
        return Err(PyenvError::Python(format!(
            "`{}` does not work:\n{}",
            setup.python.display(),
            end.tail.join("\n")
        )));
    };
    if version < setup.oldest {
        return Err(PyenvError::Python(format!(
            "{executable} is Python {}.{}, and {} needs {major}.{minor} or newer; install a newer one, or set {} to an \
             interpreter with torch and numpy",
            version.0,
            version.1,
            setup.packages.join(", "),
            super::OVERRIDE
        )));
    }
    if let Some(missing) = lines.next() {
        return Err(PyenvError::Venv {
            python: executable.into(),
            missing: missing.into(),
            install: install("python3-venv"),
        });
    }
    Ok(Base { path: executable.into(), version })
}

/// Whether the file system of `place` has room.
pub fn space(place: &Path, needed: u64) -> Result<(), PyenvError> {
    let stat = statvfs(place).map_err(|e| PyenvError::Place { place: place.into(), error: e.into() })?;
    // The types differ between platforms.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    if free < needed {
        return Err(PyenvError::Space { place: place.into(), free, needed });
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn install(packages: &str) -> String {
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install {packages}")
}
