//! A command that runs beside this process while it is watched: its files, its exit status and its signals are its own.
//!
//! It stays in this process group, so that whatever the terminal sends reaches it; what is sent to us alone is for the
//! caller to pass on.  Nothing isolates it, nothing limits it, and nothing ends it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::SigSet;
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};

use super::tree;

/// Where what the command writes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Where ours goes.
    Ours,
    /// Standard output goes to our standard error: ours is for records.
    ToStderr,
    /// What is a terminal of ours becomes one that the caller reads; standard input is empty.
    Terminal {
        /// Standard output is ours to show.
        stdout: bool,
        /// Standard error is ours to show.
        stderr: bool,
        /// Lines and columns.
        size: (u16, u16),
    },
}

/// A running command.
#[derive(Debug)]
pub struct Beside {
    child: Child,
    ended: Option<i32>,
}

/// Starts the command with exactly this environment; the file is the other end of its terminal, where it has one.
///
/// # Errors
/// When it cannot be executed; [`super::exec::exit_status`] gives the status that a shell would.
pub fn start(
    argv: &[OsString],
    env: Vec<(OsString, OsString)>,
    streams: Streams,
) -> io::Result<(Beside, Option<File>)> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the command is empty"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env);
    let mut shown = None;
    match streams {
        Streams::Ours => {}
        Streams::ToStderr => {
            // SAFETY: standard error is open, or duplicating it is an error.
            command.stdout(unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }.try_clone_to_owned()?);
        }
        Streams::Terminal { stdout, stderr, size } => {
            let (ws_row, ws_col) = size;
            let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            let pty = openpty(Some(&size), None)?;
            // Neither end is anybody's but through the streams below: the last one that closes ends our reading.
            for end in [&pty.master, &pty.slave] {
                fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            // The real terminal adds the carriage returns: here they would come twice.
            let mut settings = tcgetattr(&pty.slave)?;
            settings.output_flags.remove(OutputFlags::ONLCR);
            tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
            let theirs = || pty.slave.try_clone().map(|end: OwnedFd| Stdio::from(end));
            command.stdin(Stdio::null());
            if stdout {
                command.stdout(theirs()?);
            }
            if stderr {
                command.stderr(theirs()?);
            }
            shown = Some(File::from(pty.master));
        }
    }
    // What the caller holds back to hear of it must reach the command.
    // SAFETY: between fork and exec there is this one system call.
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(io::Error::from)) };
    Ok((Beside { child: command.spawn()?, ended: None }, shown))
}

impl Beside {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; after its end nothing happens.
    pub fn signal(&self, signal: i32) {
        // Not reaped yet: the number is its own.
        if self.ended.is_none() {
            tree::signal(self.child.id().cast_signed(), signal);
        }
    }

    /// Its exit status as a shell gives it (128 + signal), once it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn ended(&mut self) -> io::Result<Option<i32>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?.map(status);
        }
        Ok(self.ended)
    }
}

fn status(end: ExitStatus) -> i32 {
    end.code().unwrap_or_else(|| 128 + end.signal().unwrap_or(0))
}

/// What Ctrl-C on the terminal does where the terminal itself does not: SIGINT to the whole process group.
pub fn interrupt_group() {
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { libc::kill(0, libc::SIGINT) };
}

/// A process that somebody else started.
#[derive(Debug, Clone, Copy)]
pub struct Other(tree::Identity);

impl Other {
    /// Finds it.
    pub fn find(pid: u32) -> Option<Self> {
        tree::Identity::of(pid.cast_signed()).filter(|i| i.lives()).map(Self)
    }

    /// Whether it still runs; a new process with its number is another one.
    pub fn lives(&self) -> bool {
        self.0.lives()
    }
}
