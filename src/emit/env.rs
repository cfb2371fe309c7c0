//! `autofit.env`: the winner as environment variables.
//!
//! One file serves `sh`, `docker run --env-file` and systemd's `EnvironmentFile`: values use only letters, digits and
//! `_./:,=+-`, and nothing is quoted.  Only what autofit set is in it, never the user's own environment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::config::{ConfigError, RunDocument};
use crate::agent::{CONFIG_VARIABLE, MODE_VARIABLE};
use crate::model::knob::env_safe;
use crate::report::redact;
use crate::report::style::one_line;

/// The name of the file.
pub const FILE_NAME: &str = "autofit.env";

/// Every file of ours begins with this.
const HEAD: &str = "# autofit.env, written by autofit ";

/// Readable by everybody: there is no secret in it.
const MODE: u32 = 0o644;

/// Sentences for the head of the file.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The script's command; secrets replaced.
    pub command: Vec<String>,
    /// When it was tuned, as a date people read.
    pub tuned: String,
    /// What was changed: `amp=bf16, num_workers=2`.
    pub settings: String,
    /// The confirmed figures in one line.
    pub confirmed: String,
    /// The cap in one line.
    pub cap: String,
    /// What it needs at most, where that was enforced, in one line.
    pub proved: Option<String>,
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// The file is not ours.
    #[error(
        "{0} exists and was not written by autofit; move it away, or choose another place with --out DIR"
    )]
    Foreign(PathBuf),
    /// Its folder cannot be written to, or is full.
    #[error("{path} cannot be written ({kind}); {}name another folder with --out DIR", free_some(*kind))]
    NotWritable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The system's words.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// There is no such file.
    #[error("there is no {0}; tune first (autofit -- COMMAND), or name the file with --env FILE")]
    Missing(PathBuf),
    /// A line that we did not write.
    #[error("{path}:{line}: {what}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what is expected.
        what: String,
    },
    /// The document in it cannot be read.
    #[error("{path}:{line}: {error}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// From 1; 0 when there is no such line.
        line: usize,
        /// What is wrong.
        error: ConfigError,
    },
    /// The file has no document.
    #[error("{0} has no AUTOFIT_CONFIG line; tune again (autofit -- COMMAND)")]
    NoConfig(PathBuf),
    /// The document cannot be written.
    #[error("AUTOFIT_CONFIG cannot be written: {0}")]
    Document(#[from] serde_json::Error),
    /// A value that would not survive every reader.
    #[error("{name} would have the value `{value}`, which not every reader of .env files takes unharmed")]
    Unsafe {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
}

fn free_some(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space or ",
        _ => "",
    }
}

/// The file's text.
///
/// # Errors
/// [`EnvError::Unsafe`] when a value has other characters than letters, digits and `_./:,=+-`.
pub fn render(document: &RunDocument, head: &Head) -> Result<String, EnvError> {
    let mut text = format!("{HEAD}{}\n", env!("CARGO_PKG_VERSION"));
    let mut comment = |label: &str, words: &str| {
        if !words.is_empty() {
            // A line break would end the comment; a backslash at its end would join the next line to it.
            let words = one_line(words);
            let guard = if words.ends_with('\\') { " ." } else { "" };
            let _ = writeln!(text, "# {label}: {words}{guard}");
        }
    };
    comment("command", &shell_words::join(redact::command(&head.command)));
    comment("tuned", &head.tuned);
    comment("settings", &head.settings);
    comment("confirmed", &head.confirmed);
    comment("cap", &head.cap);
    if let Some(proved) = &head.proved {
        comment("proved", proved);
    }
    if document.needs_run() {
        comment("needs", "autofit run");
        comment("use", "autofit run -- COMMAND");
    } else {
        comment("use", &format!("autofit run -- COMMAND, or: set -a; . ./{FILE_NAME}; set +a"));
    }
    let config = without_secrets(document).to_base64url()?;
    let ours = [(MODE_VARIABLE, "run"), (CONFIG_VARIABLE, config.as_str())];
    let env = document.env.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    for (name, value) in env.chain(ours) {
        if !env_safe(value) || !is_name(name) {
            return Err(EnvError::Unsafe { name: name.to_owned(), value: value.to_owned() });
        }
        let _ = writeln!(text, "{name}={value}");
    }
    Ok(text)
}

/// The command in the agent's plan is only what it was tuned as: production puts the typed one in its place.
fn without_secrets(document: &RunDocument) -> RunDocument {
    let mut document = document.clone();
    document.plan.argv = redact::command(&document.plan.argv);
    document
}

/// Whether `autofit.env` can be written at `path`; to be asked before the first trial.
///
/// Nothing is made to find out: a kill would leave it behind in the user's folder.
///
/// # Errors
/// [`EnvError::Foreign`] when something that is not ours is there, [`EnvError::NotWritable`] when its directory cannot
/// be written to.
pub fn check_target(path: &Path) -> Result<(), EnvError> {
    let io = |error| EnvError::Io { path: path.to_owned(), error };
    match fs::read(path) {
        Ok(bytes) if !bytes.is_empty() && !bytes.starts_with(HEAD.as_bytes()) => {
            return Err(EnvError::Foreign(path.to_owned()));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
    }
    let may = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, directory(&target(path)), may, AtFlags::AT_EACCESS)
        .map_err(|e| not_writable(path, &e.into()))
}

fn not_writable(path: &Path, error: &io::Error) -> EnvError {
    EnvError::NotWritable { path: path.to_owned(), kind: error.kind() }
}

/// Writes the file at once or not at all, mode 0644.  A file that autofit did not write is left alone.
///
/// It is prepared in `workshop`, a folder of ours where a kill may leave something: beside the target
/// only where that is another file system.
///
/// # Errors
/// As [`check_target`]; [`EnvError::NotWritable`] also when the disk is full.
pub fn write(path: &Path, text: &str, workshop: &Path) -> Result<(), EnvError> {
    check_target(path)?;
    let target = target(path);
    let written = match write_by_way_of(workshop, &target, text) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            write_by_way_of(directory(&target), &target, text)
        }
        other => other,
    };
    written.map_err(|error| not_writable(path, &error))
}

fn write_by_way_of(place: &Path, target: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".autofit.env.").suffix(".tmp").tempfile_in(place)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|e| e.error)?;
    Ok(())
}

/// A link stays a link: what it points to is replaced.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvFile {
    /// Every variable, `AUTOFIT_MODE` and `AUTOFIT_CONFIG` included.
    pub variables: BTreeMap<String, String>,
    /// The document.
    pub document: RunDocument,
}

/// Reads a file that tuning wrote.
///
/// # Errors
/// [`EnvError`] names file and line.
pub fn read(path: &Path) -> Result<EnvFile, EnvError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => EnvError::Missing(path.to_owned()),
        _ => EnvError::Io { path: path.to_owned(), error },
    })?;
    let mut variables = BTreeMap::new();
    let mut document = None;
    for (at, name, value) in parse(path, &text)? {
        if name == CONFIG_VARIABLE {
            let config = RunDocument::from_base64url(&value);
            document =
                Some(config.map_err(|error| EnvError::Config { path: path.to_owned(), line: at, error })?);
        }
        variables.insert(name, value);
    }
    let document = document.ok_or_else(|| EnvError::NoConfig(path.to_owned()))?;
    Ok(EnvFile { variables, document })
}

/// Tolerates what editors do (line ends of Windows, blanks around, `export `), and nothing that readers of `.env`
/// files disagree about.
fn parse(path: &Path, text: &str) -> Result<Vec<(usize, String, String)>, EnvError> {
    let mut out = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = |what: String| EnvError::Line { path: path.to_owned(), line: i + 1, what };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) =
            line.split_once('=').ok_or_else(|| wrong(format!("`{line}` is not NAME=value")))?;
        if !is_name(name) {
            return Err(wrong(format!("`{name}` is not the name of a variable")));
        }
        if let Some(bad) = value.chars().find(|c| !env_safe(&c.to_string())) {
            return Err(wrong(format!(
                "the value of {name} has `{}`; autofit writes only letters, digits and _./:,=+-",
                bad.escape_default()
            )));
        }
        out.push((i + 1, name.to_owned(), value.to_owned()));
    }
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
