//! The process that starts the script, reaps what it leaves, and reports its end: the first of its PID namespace, or
//! a subreaper where there is none.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::exit;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, chdir, fork, getpid, setsid};

use super::super::{exec, tree};
use super::protocol::{Order, Report, Spec, Stage, report};
use super::{close_output, namespaces, refuse, wait_for};

/// How long processes may take to die of SIGKILL where no namespace does it at once.
const KILLING: Duration = Duration::from_secs(5);

/// Does all of it and ends the process.  `parent` is a pipe that closes when the process above dies; it is there
/// when this process is the first of a PID namespace.
pub(super) fn run(socket: &UnixStream, parent: Option<&OwnedFd>, user_namespace: bool, spec: &Spec) -> ! {
    if parent.is_some() {
        // The thread that forked us is the only one of its process, so "its death" is that of the process.
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if let Err(error) = namespaces::mount_proc() {
            refuse(socket, Stage::Proc, &error.to_string());
        }
    } else {
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    // After mounting: the old working directory still means the files below the views.
    if let Err(error) = chdir(spec.cwd.as_os_str()) {
        refuse(socket, Stage::WorkingDirectory, &error.to_string());
    }
    if let Some(places) = &spec.writable_only {
        let places: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
        if let Err(error) = crate::sandbox::landlock::restrict(&places) {
            refuse(socket, Stage::View, &format!("Landlock: {error}"));
        }
    }
    report(socket, &Report::Ready { user_namespace });
    if spec.argv.is_empty() {
        exit(0);
    }
    let Ok(signals) = watch_signals() else { refuse(socket, Stage::Fork, "no signalfd") };
    let script = match start(spec) {
        Ok(pid) => pid,
        Err(error) => {
            report(socket, &Report::NotStarted { errno: error.raw_os_error().unwrap_or(libc::EIO) });
            exit(0)
        }
    };
    report(socket, &Report::Started);
    close_output();
    supervise(socket, parent, &signals, script)
}

fn prctl(option: i32, value: i32) {
    // SAFETY: both options take one integer.
    unsafe { libc::prctl(option, libc::c_ulong::from(value.unsigned_abs()), 0, 0, 0) };
}

/// Signals are read, not handled: none may interrupt or end this process.
fn watch_signals() -> Result<SignalFd, Errno> {
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Forks and executes; an error of the execution comes back through a pipe that a success closes.
fn start(spec: &Spec) -> io::Result<Pid> {
    let (mut failed, mut failing) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(failed);
            let error = become_script(spec);
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            let _ = failing.write_all(&errno.to_ne_bytes());
            exit(exec::exit_status(&error))
        }
        ForkResult::Parent { child } => {
            drop(failing);
            let mut errno = [0; 4];
            match failed.read_exact(&mut errno) {
                Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
                Err(_) => Ok(child),
            }
        }
    }
}

fn become_script(spec: &Spec) -> io::Error {
    let _ = setsid();
    if let Some(bytes) = spec.data_limit
        && let Err(error) = setrlimit(Resource::RLIMIT_DATA, bytes, bytes)
    {
        return error.into();
    }
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    // SAFETY: restoring a default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    exec::exec(&spec.argv, &spec.env)
}

/// Until told to finish, or nobody is left to tell.
fn supervise(socket: &UnixStream, parent: Option<&OwnedFd>, signals: &SignalFd, script: Pid) -> ! {
    loop {
        let never: &dyn AsRawFd = &-1;
        let parent_fd = parent.map_or(never, |fd| fd as &dyn AsRawFd);
        let [child, order, orphaned] =
            wait_for([(signals, libc::POLLIN), (socket, libc::POLLIN), (parent_fd, 0)]);
        if orphaned {
            finish(parent.is_some());
        }
        if child {
            while let Ok(Some(_)) = signals.read_signal() {}
            reap(socket, script);
        }
        if order {
            match next_order(socket) {
                Some(Order::Term) => terminate(parent.is_some()),
                Some(Order::Finish) | None => finish(parent.is_some()),
            }
        }
    }
}

/// The next order; `None` when the launcher is gone.
fn next_order(mut socket: &UnixStream) -> Option<Order> {
    let mut byte = [0];
    match socket.read(&mut byte) {
        Ok(1) => Order::read(byte[0]),
        _ => None,
    }
}

fn reap(socket: &UnixStream, script: Pid) {
    loop {
        let mut status = 0;
        // SAFETY: the status is written to a variable of ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        if pid <= 0 {
            return;
        }
        if pid == script.as_raw() {
            report(socket, &Report::Ended { status });
        }
    }
}

fn terminate(namespace: bool) {
    if namespace {
        // Everybody in the namespace except this process.
        let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    } else {
        for pid in tree::descendants(getpid().as_raw()) {
            tree::signal(pid, libc::SIGTERM);
        }
    }
}

/// Ends everything.  In a namespace the kernel does it when its first process leaves.
fn finish(namespace: bool) -> ! {
    if !namespace {
        let until = Instant::now() + KILLING;
        loop {
            let left = tree::descendants(getpid().as_raw());
            for pid in &left {
                tree::kill(*pid);
            }
            // SAFETY: no status is asked for.
            while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } > 0 {}
            if left.is_empty() || Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    exit(0)
}
