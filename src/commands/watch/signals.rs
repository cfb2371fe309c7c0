//! Signals while a command is watched: the terminal's own reach the command without us, others are passed on.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the kernel writes into a signal that the terminal's driver sent to the whole process group.
const FROM_THE_KERNEL: i32 = 0x80;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// Which.
    pub signal: i32,
    /// The command got it as well: it was typed on the terminal, or we sent it to the whole group.
    pub everybody: bool,
}

/// Holds signals back and gives them out one by one.
pub struct Signals(SignalFd);

impl Signals {
    /// From now on.  To be called while this process has one thread: those that follow inherit what is held back
    /// (commands that are started do not).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hold() -> std::io::Result<Self> {
        let mut held = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGCHLD,
        ] {
            held.add(signal);
        }
        held.thread_block()?;
        Ok(Self(SignalFd::with_flags(&held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for one, for at most so long; the end of a child ends the wait, too, and is none.
    pub fn next(&self, patience: Duration) -> Option<Came> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout);
        let info = self.0.read_signal().ok().flatten()?;
        let signal = info.ssi_signo.cast_signed();
        let everybody = info.ssi_code == FROM_THE_KERNEL || info.ssi_pid == std::process::id();
        (signal != libc::SIGCHLD).then_some(Came { signal, everybody })
    }
}
