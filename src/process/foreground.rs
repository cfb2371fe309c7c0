//! Production under a memory limit: the command in the foreground, in a cgroup of its own.
//!
//! Without a limit `autofit run` becomes the command ([`super::exec_replacing`]) and nothing stands between.  With
//! one, this process stays to remove the cgroup afterwards: terminal and process group are shared with the command,
//! so Ctrl-C reaches it from the terminal; other signals are passed on.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::exec;
use super::limits::{Group, group_cap, rlimit_cap};
use crate::model::observation::Cap;

/// How a command in the foreground ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreground {
    /// Its exit status, as a shell gives it (128 + signal).
    pub status: i32,
    /// Processes that the kernel killed because the limit was reached.
    pub oom_kills: u64,
}

/// A limit, ready to be used.
#[derive(Debug)]
pub struct Limited {
    group: Option<Group>,
    bytes: u64,
    /// How the limit is enforced.
    pub cap: Cap,
    /// Why it is weaker than it could be.
    pub note: Option<String>,
}

impl Limited {
    /// Prepares a limit for a process tree; where no cgroup may be made it holds for each process alone.
    pub fn new(bytes: u64) -> Self {
        match Group::create(Some(bytes)) {
            Ok(group) => Self { cap: group_cap(&group, Some(bytes)), group: Some(group), bytes, note: None },
            Err(error) => Self {
                group: None,
                bytes,
                cap: rlimit_cap(Some(bytes)),
                note: Some(format!(
                    "no memory cgroup here ({error}): the limit holds for each process alone"
                )),
            },
        }
    }

    /// Runs the command to its end.  To be called while this process has one thread.
    ///
    /// # Errors
    /// When the command cannot be executed; [`super::exec::exit_status`] gives the status that a shell would.
    pub fn run(self, argv: &[OsString], env: &[(OsString, OsString)]) -> io::Result<Foreground> {
        let Some(group) = self.group else {
            setrlimit(Resource::RLIMIT_DATA, self.bytes, self.bytes)?;
            return Err(exec::exec_replacing(argv, env));
        };
        let procs = CString::new(group.dir().join("cgroup.procs").as_os_str().as_bytes())?;
        let (mut failed, failing) = io::pipe()?;
        // Held back until it is decided who gets them.
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
        // SAFETY: the child only makes system calls and executes; this process has one thread.
        let forked = unsafe { fork() };
        if let Ok(ForkResult::Child) = forked {
            drop(failed);
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
            become_command(&procs, argv, env, failing)
        }
        let handled = match forked {
            Ok(ForkResult::Parent { child }) => pass_on_signals(child).map(|()| child),
            Ok(ForkResult::Child) | Err(_) => forked.map(|_| Pid::from_raw(0)).map_err(io::Error::from),
        };
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        drop(failing);
        let child = handled?;
        let mut errno = [0; 4];
        let started = io::Read::read_exact(&mut failed, &mut errno).is_err();
        let status = wait(child)?;
        CHILD.store(0, Ordering::SeqCst);
        if !started {
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)));
        }
        let oom_kills = group.oom_kills();
        // Daemons that it started on purpose go on under the limit; the cgroup then stays with them.
        if group.pids().is_empty() {
            group.remove();
        }
        Ok(Foreground { status, oom_kills })
    }
}

/// Enters the cgroup and executes; an error goes through the pipe, which a success closes.
fn become_command(
    procs: &CString,
    argv: &[OsString],
    env: &[(OsString, OsString)],
    mut failing: io::PipeWriter,
) -> ! {
    let error = match enter(procs) {
        Ok(()) => exec::exec_replacing(argv, env),
        Err(error) => error,
    };
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    let _ = io::Write::write_all(&mut failing, &errno.to_ne_bytes());
    // SAFETY: ends the child at once; destructors belong to the parent.
    unsafe { libc::_exit(exec::exit_status(&error)) }
}

/// `0` is the writer itself, in both versions of the interface.
fn enter(procs: &CString) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(std::ffi::OsStr::from_bytes(procs.as_bytes()))?;
    io::Write::write_all(&mut &file, b"0")
}

/// The command, for the signal handler; 0 when there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: libc::c_int) {
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill may be called in a signal handler.
        unsafe { libc::kill(child, signal) };
    }
}

/// What the terminal sends to the whole process group is ignored here, what is sent to us alone is passed on.
fn pass_on_signals(child: Pid) -> io::Result<()> {
    CHILD.store(child.as_raw(), Ordering::SeqCst);
    let flags = SaFlags::SA_RESTART;
    let ignore = SigAction::new(SigHandler::SigIgn, flags, SigSet::empty());
    let pass = SigAction::new(SigHandler::Handler(pass_on), flags, SigSet::empty());
    // SAFETY: the handler only calls kill.
    unsafe {
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            sigaction(signal, &ignore)?;
        }
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
            sigaction(signal, &pass)?;
        }
    }
    Ok(())
}

fn wait(child: Pid) -> io::Result<i32> {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
