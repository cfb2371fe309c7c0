//! Starting a trial.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::setsid;

use super::attend::{self, Attended};
use super::helper::protocol::{Report, Spec, Stage, send_spec};
use super::limits::{self, Group};
use super::orphans::Record;
use super::output::Output;
use super::prepare::{Prepared, prepare};
use super::running::{Containment, Running};
use crate::sandbox::Isolation;

/// What to launch, where, and how it is contained.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Command and arguments.
    pub argv: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The whole environment of the command.
    pub env: Vec<(OsString, OsString)>,
    /// Where plan and events live; visible and writable inside, under the same path.
    pub trial_dir: PathBuf,
    /// Takes both streams in full, up to a bound (the beginning and the newest part are kept).
    pub log: PathBuf,
    /// How the user's files are protected.
    pub isolation: Isolation,
    /// Left out of the isolation on the user's word: really written.
    pub share: Vec<PathBuf>,
    /// Places of ours that must be writable inside, besides the trial directory.
    pub writable: Vec<PathBuf>,
    /// What the trial writes to caches goes here, and the next trial of the search finds it.
    pub cache_layer: Option<PathBuf>,
    /// More directories that are kept there (those of well-known caches are found): data that a script downloads.
    pub caches: Vec<PathBuf>,
    /// For the whole process tree, bytes.
    pub memory_limit: Option<u64>,
    /// Between TERM and KILL.
    pub grace: Duration,
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such command (a shell would exit with 127).
    #[error("`{}`: command not found", program.display())]
    NotFound {
        /// As typed.
        program: PathBuf,
    },
    /// It is there but cannot be executed (a shell would exit with 126).
    #[error("`{}`: cannot be executed: {error}", program.display())]
    NotExecutable {
        /// As typed.
        program: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("{}: cannot be entered: {error}", path.display())]
    WorkingDirectory {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
    /// The isolation that was asked for is not to be had here.
    #[error("trials cannot be isolated from your files here: {0}")]
    Isolation(String),
    /// A file of the launcher cannot be written.
    #[error("{}: {error}", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The helper did not do its part.
    #[error("the helper process could not {what}: {error}")]
    Helper {
        /// What it was doing.
        what: &'static str,
        /// The system's words.
        error: String,
    },
}

impl StartError {
    /// What a shell would exit with: 127, 126, or 125 for a failure of ours.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::NotFound { .. } => super::exec::NOT_FOUND,
            Self::NotExecutable { .. } => super::exec::CANNOT_EXECUTE,
            _ => 125,
        }
    }
}

static HELPER: OnceLock<PathBuf> = OnceLock::new();

/// Names the binary to start as helper, once.  Without it that is this program itself; test programs are not autofit
/// and must say where it is.
pub fn use_helper(path: &Path) {
    let _ = HELPER.set(path.to_owned());
}

/// Launches, and returns when the command runs.
///
/// # Errors
/// When it does not run; nothing is left behind then.
pub async fn start(launch: Launch) -> Result<Running, StartError> {
    // Everything below waits for milliseconds only, but it waits: off the runtime's thread.
    let joined = tokio::task::spawn_blocking(move || start_blocking(&launch)).await;
    joined.unwrap_or_else(|e| Err(StartError::Helper { what: "be started", error: e.to_string() }))
}

/// The same for callers without a runtime.
///
/// # Errors
/// As [`start`].
pub fn start_blocking(launch: &Launch) -> Result<Running, StartError> {
    let prepared = prepare(launch)?;
    attempt(launch, prepared).map_err(|failure| failure.into_error(launch))
}

/// Why one attempt came to nothing.
enum Failure {
    Refused { stage: Stage, error: String },
    NotStarted { errno: i32 },
    Place { path: PathBuf, error: io::Error },
    Helper { what: &'static str, error: String },
}

impl Failure {
    fn into_error(self, launch: &Launch) -> StartError {
        let program = || launch.argv.first().map(PathBuf::from).unwrap_or_default();
        match self {
            Self::NotStarted { errno: libc::ENOENT } => StartError::NotFound { program: program() },
            Self::NotStarted { errno } => {
                StartError::NotExecutable { program: program(), error: io::Error::from_raw_os_error(errno) }
            }
            Self::Place { path, error } => StartError::Place { path, error },
            Self::Helper { what, error } => StartError::Helper { what, error },
            Self::Refused { stage: Stage::WorkingDirectory, error } => {
                StartError::WorkingDirectory { path: launch.cwd.clone(), error }
            }
            Self::Refused { stage: Stage::View, error } => StartError::Isolation(error),
            Self::Refused { stage, error } => {
                let what = match stage {
                    Stage::Spec => "read what to do",
                    Stage::Fork => "make a process",
                    _ => "make namespaces",
                };
                StartError::Helper { what, error }
            }
        }
    }
}

fn attempt(launch: &Launch, prepared: Prepared) -> Result<Running, Failure> {
    let Prepared { argv, env, cwd, namespaces, kind, view, writable_only, scratch, mut notes } = prepared;
    let place = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure::Place { path, error }
    };
    let output = Output::create(&launch.log).map_err(place(&launch.log))?;
    let group = Group::create(launch.memory_limit)
        .map_err(|error| notes.push(format!("no memory cgroup for trials: {error}")))
        .ok();
    let cap = match &group {
        Some(group) => limits::group_cap(group, launch.memory_limit),
        None => limits::rlimit_cap(launch.memory_limit),
    };
    let spec = Spec {
        argv,
        env,
        cwd: cwd.into_os_string(),
        namespaces,
        view,
        writable_only: writable_only.map(|places| places.into_iter().map(PathBuf::into_os_string).collect()),
        data_limit: if group.is_some() { None } else { launch.memory_limit },
    };
    let (child, socket) = spawn_helper(Stdio::piped)
        .map_err(|e| Failure::Helper { what: "be started", error: e.to_string() })?;
    let pid = child.id().cast_signed();
    let containment = match (namespaces, &group) {
        (true, _) => Containment::PidNamespace,
        (false, Some(_)) => Containment::Cgroup,
        (false, None) => Containment::ProcessGroup,
    };
    let record = Record::of(pid, group.as_ref());
    let mut attended =
        Attended { child, output, group, pid, cap, containment, grace: launch.grace, scratch, kind };
    // The cgroup first: everything that is born later is born in it.
    let handed_over = (|| {
        if let Some(group) = &attended.group {
            group
                .join(pid)
                .map_err(|e| Failure::Helper { what: "enter its cgroup", error: e.to_string() })?;
        }
        record.write(&launch.trial_dir).map_err(place(&launch.trial_dir))?;
        send_spec(&socket, &spec)
            .map_err(|e| Failure::Helper { what: "read what to do", error: e.to_string() })
    })();
    if let Err(failure) = handed_over {
        // Without the other end of its socket the helper leaves.
        drop(socket);
        let _ = attended.child.wait();
        return Err(failure);
    }
    attend::begin(attended, socket, launch.trial_dir.clone(), &mut notes).map_err(|report| match report {
        Some(Report::Refused { stage, error }) => Failure::Refused { stage, error },
        Some(Report::NotStarted { errno }) => Failure::NotStarted { errno },
        _ => Failure::Helper { what: "start the command", error: "it ended before saying why".to_owned() },
    })
}

/// Starts the helper with one end of a socket as its standard input.
pub(super) fn spawn_helper(output: fn() -> Stdio) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // Not a path: a binary that was replaced while we run is still the one that we are.
    let program = HELPER.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
    let mut command = Command::new(program);
    command
        .arg(super::helper::ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(output())
        .stderr(output());
    // A session of its own from its first instruction on: Ctrl-C at the terminal is the launcher's to handle, and a
    // helper that it kills looks like a command that cannot be started, or a system that forbids namespaces.
    // SAFETY: between fork and exec there is this one system call.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
    Ok((command.spawn()?, ours))
}
