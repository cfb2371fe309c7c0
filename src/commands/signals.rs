//! Ctrl-C once: stop after this trial and keep the best so far; twice: stop now.  SIGTERM and SIGHUP: stop now.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::report::result::Status;
use crate::trial::local::Stop;

/// What the signals asked for so far.
#[derive(Debug, Clone)]
pub struct Signals {
    stop: watch::Receiver<Stop>,
    status: watch::Receiver<Status>,
}

impl Signals {
    /// Starts to listen; `note` is told what each signal does.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen(note: impl Fn(&str) + Send + 'static) -> std::io::Result<Self> {
        let (to_stop, stop) = watch::channel(Stop::No);
        let (to_status, status) = watch::channel(Status::Interrupted);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                let now = tokio::select! {
                    _ = interrupt.recv() => *to_stop.borrow() != Stop::No,
                    _ = terminate.recv() => { to_status.send_replace(Status::Terminated); true }
                    _ = hangup.recv() => { to_status.send_replace(Status::Terminated); true }
                    // Nobody asks any more.
                    () = to_stop.closed() => return,
                };
                if now {
                    note("stopping now");
                    to_stop.send_replace(Stop::Now);
                } else {
                    note("stopping after this trial; Ctrl-C again stops now");
                    to_stop.send_replace(Stop::Soon);
                }
            }
        });
        Ok(Self { stop, status })
    }

    /// For the executor, which ends a running trial when it must.
    pub fn receiver(&self) -> watch::Receiver<Stop> {
        self.stop.clone()
    }

    /// Whether to launch nothing more.
    pub fn stopped(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    /// How the search then ends.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }
}
