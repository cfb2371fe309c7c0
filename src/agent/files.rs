//! The agent's files and the variables that make Python load them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use include_dir::{Dir, include_dir};

use super::persistent::{self, AgentFile, NoPlace};
use super::{MODE_VARIABLE, PLAN_VARIABLE};

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/agent/python");

/// The agent, unpacked.
#[derive(Debug, Clone)]
pub struct AgentFiles {
    dir: PathBuf,
}

impl AgentFiles {
    /// Writes the agent into `dir`, which is made.  Files that are there already are written anew.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn unpack(dir: &Path) -> io::Result<Self> {
        write(&FILES, dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Makes sure that the agent is in a folder that stays, for production: below the user's cache, or below `/tmp`.
    /// Nobody else can write to it, and it is put right when its content was altered.
    ///
    /// # Errors
    /// [`NoPlace`] says of each place that was tried why it cannot be used.
    pub fn persistent() -> Result<Self, NoPlace> {
        let mut files = Vec::new();
        collect(&FILES, &mut files);
        let roots = persistent::roots(|name| std::env::var_os(name));
        Ok(Self { dir: persistent::install(&files, &roots)? })
    }

    /// The folder that comes first on `PYTHONPATH`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The variables of a trial; `inherited` is the user's own `PYTHONPATH`.
    pub fn env(&self, plan: &Path, inherited: Option<&OsStr>) -> Vec<(String, OsString)> {
        self.env_of("trial", plan, inherited)
    }

    /// The variables of a command that is only watched.
    pub fn watch_env(&self, plan: &Path, inherited: Option<&OsStr>) -> Vec<(String, OsString)> {
        self.env_of("watch", plan, inherited)
    }

    fn env_of(&self, mode: &str, plan: &Path, inherited: Option<&OsStr>) -> Vec<(String, OsString)> {
        vec![
            (MODE_VARIABLE.to_owned(), mode.into()),
            (PLAN_VARIABLE.to_owned(), plan.into()),
            ("PYTHONPATH".to_owned(), self.python_path(inherited)),
        ]
    }

    /// The agent's folder, then what the user has; an empty `PYTHONPATH` is not the working directory.
    pub fn python_path(&self, inherited: Option<&OsStr>) -> OsString {
        let mut path = self.dir.clone().into_os_string();
        if let Some(own) = inherited.filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(own);
        }
        path
    }
}

fn write(from: &Dir<'_>, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for dir in from.dirs().filter(|d| !is_cache(d.path())) {
        write(dir, &to.join(dir.path().file_name().unwrap_or_default()))?;
    }
    for file in from.files().filter(|f| f.path().extension().is_some_and(|e| e == "py")) {
        fs::write(to.join(file.path().file_name().unwrap_or_default()), file.contents())?;
    }
    Ok(())
}

fn collect<'a>(from: &'a Dir<'a>, out: &mut Vec<AgentFile<'a>>) {
    out.extend(
        from.files()
            .filter(|f| f.path().extension().is_some_and(|e| e == "py"))
            .map(|f| (f.path(), f.contents())),
    );
    from.dirs().filter(|d| !is_cache(d.path())).for_each(|d| collect(d, out));
}

/// Byte code that lay beside the sources when this binary was built.
fn is_cache(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "__pycache__")
}

/// A document as one value of letters, digits, `-` and `_`.
///
/// # Errors
/// When it cannot be serialised.
pub fn encode_config(document: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(document)?))
}

/// The bytes of such a value; padding is tolerated.
///
/// # Errors
/// When it is no base64url.
pub fn decode_config(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_python_needs_is_unpacked_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let agent = AgentFiles::unpack(&dir.path().join("agent")).unwrap();
        assert!(agent.dir().join("sitecustomize.py").is_file());
        assert!(agent.dir().join("autofit_agent/session.py").is_file());
        assert!(agent.dir().join("autofit_agent/knobs/__init__.py").is_file());
        assert!(!agent.dir().join("autofit_agent/__pycache__").exists());
    }

    #[test]
    fn production_gets_the_same_files() {
        let mut files = Vec::new();
        collect(&FILES, &mut files);
        let dir = tempfile::tempdir().unwrap();
        AgentFiles::unpack(dir.path()).unwrap();
        assert!(files.len() > 10);
        for (path, content) in files {
            assert_eq!(fs::read(dir.path().join(path)).unwrap(), content);
        }
    }

    #[test]
    fn the_users_own_path_comes_after_ours() {
        let agent = AgentFiles { dir: "/agent".into() };
        assert_eq!(agent.python_path(Some(OsStr::new("/mine:/other"))), "/agent:/mine:/other");
        assert_eq!(agent.python_path(Some(OsStr::new(""))), "/agent");
    }
}
