//! Is the command there?  Asked before anything is launched, so that a typo costs nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a command cannot be launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such program.
    #[error("there is no command `{name}`{hint}")]
    NotFound {
        /// As typed.
        name: String,
        /// `; did you mean ...?`, or empty.
        hint: String,
    },
    /// It exists, but cannot be executed.
    #[error("`{}` is not executable; run it through its interpreter, for example: python3 {}", .0.display(), .0.display())]
    NotExecutable(PathBuf),
    /// `python train.py` without `train.py`.
    #[error("there is no script `{}` in {}", .script.display(), .cwd.display())]
    NoScript {
        /// As typed.
        script: PathBuf,
        /// Where it was looked for.
        cwd: PathBuf,
    },
}

/// Finds the program of a command as `execvp` would, and the script if the program is a Python.
///
/// # Errors
/// Says what is missing and what was probably meant.
pub fn check(command: &[String], cwd: &Path, path: &str) -> Result<PathBuf, LookupError> {
    let name = command.first().map(String::as_str).unwrap_or_default();
    let program = find(name, cwd, path)?;
    let is_python = Path::new(name).file_name().is_some_and(|f| f.to_string_lossy().starts_with("python"));
    if is_python
        && let Some(script) = script_of(&command[1..])
        && !cwd.join(script).exists()
    {
        return Err(LookupError::NoScript { script: script.into(), cwd: cwd.into() });
    }
    Ok(program)
}

fn find(name: &str, cwd: &Path, path: &str) -> Result<PathBuf, LookupError> {
    if name.contains('/') {
        let file = cwd.join(name);
        return match executable(&file) {
            Some(true) => Ok(file),
            Some(false) => Err(LookupError::NotExecutable(name.into())),
            None => Err(LookupError::NotFound { name: name.into(), hint: String::new() }),
        };
    }
    let mut unusable = None;
    for dir in std::env::split_paths(path) {
        let file = cwd.join(dir).join(name);
        match executable(&file) {
            Some(true) => return Ok(file),
            Some(false) => unusable = unusable.or(Some(file)),
            None => {}
        }
    }
    if let Some(file) = unusable {
        return Err(LookupError::NotExecutable(file));
    }
    let exists = |other: &str| find_quietly(other, cwd, path);
    let hint = if name == "python" && exists("python3") {
        "; did you mean `python3`?".to_owned()
    } else if name.ends_with(".py") && cwd.join(name).is_file() {
        format!("; did you mean `python3 {name}`?")
    } else {
        "; is it installed, and on PATH?".to_owned()
    };
    Err(LookupError::NotFound { name: name.into(), hint })
}

fn find_quietly(name: &str, cwd: &Path, path: &str) -> bool {
    std::env::split_paths(path).any(|dir| executable(&cwd.join(dir).join(name)) == Some(true))
}

/// `None`: no such file; otherwise whether it can be executed.
fn executable(file: &Path) -> Option<bool> {
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(meta.permissions().mode() & 0o111 != 0)
}

/// The script among a Python's arguments: the first that is no option; none with `-m`, `-c` or `-`.
fn script_of(args: &[String]) -> Option<&str> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-m" | "-c" | "-" => return None,
            "-W" | "-X" | "--check-hash-based-pycs" => {
                args.next();
            }
            a if a.starts_with('-') => {}
            a => return Some(a),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_missing_python_suggests_python3_and_a_missing_script_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let file = bin.join("python3");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = bin.display().to_string();
        let ask = |line: &str| check(&words(line), dir.path(), &path).map_err(|e| e.to_string());
        assert_eq!(
            ask("python train.py"),
            Err("there is no command `python`; did you mean `python3`?".into())
        );
        assert!(ask("python3 train.py").unwrap_err().starts_with("there is no script `train.py` in "));
        std::fs::write(dir.path().join("train.py"), "").unwrap();
        assert_eq!(ask("python3 -u -X dev train.py"), Ok(file));
        assert!(ask("python3 -m pkg.train").is_ok());
        assert!(ask("train.py").unwrap_err().contains("did you mean `python3 train.py`"));
        assert!(ask("./train.py").unwrap_err().contains("is not executable"));
    }
}
