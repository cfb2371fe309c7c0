//! What launcher and helper say to each other over one socket: a [`Spec`] and then orders of one byte one way, reports
//! of one JSON object a line the other way.
//!
//! The spec travels here and not in arguments or environment, so that tokens
//! in the script's environment are seen by nobody else.  The end of the socket is itself a message: the launcher is
//! dead, end everything.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::sandbox::View;

/// What the helper is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Command and arguments; empty: set everything up, say [`Report::Ready`] and leave (a probe).
    pub argv: Vec<OsString>,
    /// The command's whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The command's working directory.
    pub cwd: OsString,
    /// Whether to make namespaces of mounts and processes.
    pub namespaces: bool,
    /// What the command sees instead of the real file system; needs the namespaces.
    pub view: Option<View>,
    /// Landlock: the command may write below these places only.
    pub writable_only: Option<Vec<OsString>>,
    /// `RLIMIT_DATA` for the command, bytes.
    pub data_limit: Option<u64>,
}

/// From the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Report {
    /// Everything is set up; the command comes next.
    Ready {
        /// Whether users are mapped (the machine's root needs no user namespace).
        user_namespace: bool,
    },
    /// Something could not be set up; nothing was started.
    Refused {
        /// What was being done.
        stage: Stage,
        /// The system's words.
        error: String,
    },
    /// The command runs.
    Started,
    /// The command could not be executed.
    NotStarted {
        /// The system's number.
        errno: i32,
    },
    /// The command ended; what it left behind still runs.
    Ended {
        /// As `waitpid` gives it.
        status: i32,
    },
}

/// Steps of the set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// The document could not be read.
    Spec,
    /// `unshare`, or the user mapping.
    Namespaces,
    /// A fresh `/proc`.
    Proc,
    /// The views over the file system.
    View,
    /// The working directory, as it is inside.
    WorkingDirectory,
    /// A process could not be made.
    Fork,
}

/// To the helper, after the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// SIGTERM to every process of the trial.
    Term,
    /// Kill what is left, then leave.
    Finish,
}

impl Order {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Term => b't',
            Self::Finish => b'f',
        }
    }

    pub(crate) fn read(byte: u8) -> Option<Self> {
        [Self::Term, Self::Finish].into_iter().find(|order| order.byte() == byte)
    }
}

/// Writes one report; a launcher that is gone is noticed by the reader of its socket.
pub(crate) fn report(mut socket: &UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

/// Writes the spec, its length first.
pub(crate) fn send_spec(mut socket: &UnixStream, spec: &Spec) -> io::Result<()> {
    let document = serde_json::to_vec(spec)?;
    socket.write_all(&(document.len() as u64).to_ne_bytes())?;
    socket.write_all(&document)
}

/// Reads the spec and nothing that follows it: that is for the process that reads the orders.
pub(crate) fn read_spec(mut socket: &UnixStream) -> io::Result<Spec> {
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let mut document = Vec::new();
    socket.take(u64::from_ne_bytes(length)).read_to_end(&mut document)?;
    Ok(serde_json::from_slice(&document)?)
}
