//! Is the command there?  Asked before anything is launched, so that a typo costs nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What training is mostly started with, in the order of likelihood.
const USUAL: [&str; 4] = ["python", "python3", "torchrun", "bash"];

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
    /// `autofit -- ""`.
    #[error("the command is empty; type it after `--`, for example: autofit -- python train.py")]
    Empty,
    /// `python` alone would wait for someone to type, or do nothing.
    #[error("`{0}` is given no script; for example: autofit -- {0} train.py")]
    NothingToRun(String),
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
    if name.is_empty() {
        return Err(LookupError::Empty);
    }
    let program = find(name, cwd, path)?;
    let is_python = Path::new(name).file_name().is_some_and(|f| f.to_string_lossy().starts_with("python"));
    match script_of(&command[1..]) {
        Script::File(script) if is_python && !cwd.join(script).exists() => {
            Err(LookupError::NoScript { script: script.into(), cwd: cwd.into() })
        }
        Script::None if is_python => Err(LookupError::NothingToRun(name.to_owned())),
        _ => Ok(program),
    }
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
    } else if let Some(meant) = USUAL.iter().find(|usual| nearly(usual, name) && exists(usual)) {
        format!("; did you mean `{meant}`?")
    } else {
        "; is it installed, and on PATH?".to_owned()
    };
    Err(LookupError::NotFound { name: name.into(), hint })
}

/// One slip away: a letter too many, too few, wrong or in the wrong place.
fn nearly(usual: &str, name: &str) -> bool {
    strsim::damerau_levenshtein(usual, name) == 1
}

fn find_quietly(name: &str, cwd: &Path, path: &str) -> bool {
    std::env::split_paths(path).any(|dir| executable(&cwd.join(dir).join(name)) == Some(true))
}

/// `None`: no such file; otherwise whether it can be executed.
fn executable(file: &Path) -> Option<bool> {
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(meta.permissions().mode() & 0o111 != 0)
}

/// What a Python is told to run.
enum Script<'a> {
    /// A file.
    File(&'a str),
    /// A module, a text or standard input.
    Otherwise,
    /// Nothing at all.
    None,
}

/// The script among a Python's arguments: the first that is no option.
fn script_of(args: &[String]) -> Script<'_> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-W" | "-X" | "--check-hash-based-pycs" => {
                args.next();
            }
            "-" => return Script::Otherwise,
            a if a.starts_with("--") => {}
            // Also with other letters before it (`-um pkg`), or its text right behind it (`-mpkg`).
            a if a.starts_with('-') && a.contains(['m', 'c']) => return Script::Otherwise,
            a if a.starts_with('-') => {}
            a => return Script::File(a),
        }
    }
    Script::None
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
        assert!(ask("python3 -um pkg.train").is_ok());
        assert!(ask("python3 -u").unwrap_err().contains("autofit -- python3 train.py"));
        assert!(ask("pyton3 train.py").unwrap_err().ends_with("did you mean `python3`?"));
        assert_eq!(check(&[String::new()], dir.path(), &path), Err(LookupError::Empty));
        assert!(ask("train.py").unwrap_err().contains("did you mean `python3 train.py`"));
        assert!(ask("./train.py").unwrap_err().contains("is not executable"));
    }
}
