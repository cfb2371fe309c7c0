//! The small process between launcher and script: `autofit __helper`.
//!
//! It has one thread, because user namespaces may not be made with more.  It reads a [`protocol::Spec`] from its
//! standard input, makes namespaces of users (unless it is the machine's root), mounts and processes, and forks the
//! first process of the new PID namespace ([`init`]), which starts the script, reaps everything and reports how the
//! script ended.  When that first process ends, the kernel kills whatever else lives in the namespace; it ends when
//! told to, when the launcher's end of the socket closes, or when this process dies.

mod init;
mod namespaces;
pub(crate) mod protocol;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::exit;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork};

use protocol::{Report, Stage, read_spec, report};

/// First argument that makes `main` call [`main`] here and nothing else.
pub const ARGUMENT: &str = "__helper";

/// Exit status of a helper that was called by hand or could not do its part.
const FAILED: i32 = 125;

/// Runs the helper and ends the process.  `main` calls this first of all, before any thread exists, when its first
/// argument is [`ARGUMENT`].
pub fn main() -> ! {
    let Some(socket) = take_socket() else { exit(FAILED) };
    let spec = match read_spec(&socket) {
        Ok(spec) => spec,
        Err(error) => refuse(&socket, Stage::Spec, &error.to_string()),
    };
    if !spec.namespaces {
        init::run(&socket, None, false, &spec);
    }
    let user_namespace = match namespaces::enter() {
        Ok(made) => made,
        Err(error) => refuse(&socket, Stage::Namespaces, &error.to_string()),
    };
    if let Some(view) = &spec.view
        && let Err(error) = crate::sandbox::build(view)
    {
        refuse(&socket, Stage::View, &error);
    }
    let Ok((alive_read, alive_write)) = nix::unistd::pipe() else {
        refuse(&socket, Stage::Fork, "no pipe");
    };
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(alive_write);
            init::run(&socket, Some(&alive_read), user_namespace, &spec)
        }
        Ok(ForkResult::Parent { child }) => {
            drop(alive_read);
            let _alive = alive_write;
            close_output();
            stand_by(&socket, child)
        }
        Err(error) => refuse(&socket, Stage::Fork, &error.to_string()),
    }
}

/// The socket is standard input; the script gets an empty one instead.
fn take_socket() -> Option<UnixStream> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let socket = UnixStream::from(socket);
    // Called by hand, standard input is a terminal or a file: there is nobody to talk to.
    socket.peer_addr().ok()?;
    let null = File::open("/dev/null").ok()?;
    dup2_stdin(&null).ok()?;
    Some(socket)
}

fn refuse(socket: &UnixStream, stage: Stage, error: &str) -> ! {
    report(socket, &Report::Refused { stage, error: error.to_owned() });
    exit(FAILED)
}

/// The script's pipes end when the script's processes have ended: no copy may stay open here.
fn close_output() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
}

/// Waits for the first process of the namespace, and kills it when the launcher dies.
fn stand_by(socket: &UnixStream, init: Pid) -> ! {
    let Ok(ended) = child_descriptor(init) else {
        // An old kernel: the first process watches the launcher by itself, and we follow it.
        let _ = waitpid(init, None);
        exit(0)
    };
    // The orders on the socket are not for this process: only its end is.
    wait_for([(&ended, libc::POLLIN), (socket, 0)]);
    let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
    while matches!(waitpid(init, None), Err(Errno::EINTR) | Ok(WaitStatus::StillAlive)) {}
    exit(0)
}

/// A descriptor that becomes readable when a process ends.
fn child_descriptor(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and returns a descriptor that nobody else owns.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until one of some descriptors is ready for its events, or closed; says which are.
fn wait_for<const N: usize>(fds: [(&dyn AsRawFd, i16); N]) -> [bool; N] {
    let mut polled = fds.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    loop {
        // SAFETY: the array lives through the call and its length is passed.
        let n = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
        if n >= 0 || Errno::last() != Errno::EINTR {
            return polled.map(|p| p.revents != 0);
        }
    }
}
