//! Commands with a time limit, and what is left of them.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A variable that marks every process of a command, descendants included.  Trials do not get autofit's own variables,
/// so its name is not of that kind.
const TAG: &str = "TEST_OF_AUTOFIT_TAG";

/// A command to be run by a test.
pub struct Run {
    command: Command,
    tag: String,
    limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    tag: String,
}

/// A running command.
pub struct Running {
    child: Child,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
    tag: String,
    limit: Duration,
}

/// The program under test, as a person would type it: the environment's `python` is first on `PATH`.
pub fn autofit(dir: &Path) -> Run {
    plain(env!("CARGO_BIN_EXE_autofit"), dir)
}

/// Any other program, in the same surroundings.
pub fn plain(program: impl AsRef<OsStr>, dir: &Path) -> Run {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let tag = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AUTOFIT_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env(TAG, &tag).env_remove("PYTHONPATH").env("PYTHONDONTWRITEBYTECODE", "1");
    Run { command, tag, limit: Duration::from_secs(300) }
}

impl Run {
    /// Puts the folder of this interpreter first on `PATH`, as activating its environment does.
    pub fn with_python(mut self) -> Self {
        let bin = super::python().path.parent().unwrap().to_path_buf();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let parts = std::iter::once(bin).chain(std::env::split_paths(&path));
        self.command.env("PATH", std::env::join_paths(parts).unwrap());
        self
    }

    /// Arguments, split at blanks.
    pub fn line(mut self, line: &str) -> Self {
        self.command.args(line.split_whitespace());
        self
    }

    /// One argument as it is.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// A variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// How long it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Changes the command in a way that has no method of its own.
    pub fn also(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Running { child, out, err, tag: self.tag, limit: self.limit }
    }

    /// Runs it to its end.
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What [`tagged`] knows its processes by.
    pub fn tag(&self) -> String {
        self.tag.clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0, "signal {signal} was not sent");
    }

    /// Waits until `seen` says yes, for at most the command's limit.
    pub fn wait_until(&mut self, what: &str, mut seen: impl FnMut() -> bool) {
        let began = Instant::now();
        while !seen() {
            assert!(began.elapsed() < self.limit, "did not come to pass: {what}");
            if self.child.try_wait().unwrap().is_some() {
                assert!(seen(), "ended before: {what}");
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `seen` says yes or it has ended by itself, for at most `patience`; looks every few milliseconds.
    /// Says whether it still runs.
    pub fn watch(&mut self, patience: Duration, mut seen: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until && !seen() {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(2).min(until.saturating_duration_since(Instant::now())));
        }
        true
    }

    /// Waits for its end; past its limit it is killed and the test fails with its output.
    pub fn finish(mut self) -> Finished {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > self.limit {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!(
                    "took longer than {:?}\n--- stdout\n{}\n--- stderr\n{}",
                    self.limit,
                    self.out.join().unwrap(),
                    self.err.join().unwrap()
                );
            }
            thread::sleep(Duration::from_millis(20));
        };
        Finished { status, stdout: self.out.join().unwrap(), stderr: self.err.join().unwrap(), tag: self.tag }
    }
}

impl Finished {
    /// Exit status; 128 + n for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails with the whole output unless the exit status is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            code,
            "exit status\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails with the whole output unless standard error has this text (runs of white space count as one blank).
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let squeezed = self.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            squeezed.contains(text),
            "standard error does not say `{text}`:\n{}\n{}",
            self.stderr,
            self.stdout
        );
        self
    }

    /// Fails with the whole output unless standard output has this text (runs of white space count as one blank).
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        let squeezed = self.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            squeezed.contains(text),
            "standard output does not say `{text}`:\n{}\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails if standard error has this text.
    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "standard error says `{text}`:\n{}", self.stderr);
        self
    }

    /// Fails if a process of it lives (a moment is given to those that are being reaped).
    #[track_caller]
    pub fn leaves_no_process(self) -> Self {
        let tag = self.tag.clone();
        self.leaves_none_of(|| tagged(&tag))
    }

    /// Fails if a helper of autofit lives: they have no environment that would tell whose they are, so this is for
    /// tests that have the [turn](super::alone).
    #[track_caller]
    pub fn leaves_no_helper(self) -> Self {
        self.leaves_none_of(helpers)
    }

    #[track_caller]
    fn leaves_none_of(self, living: impl Fn() -> Vec<(i32, String)>) -> Self {
        let began = Instant::now();
        loop {
            let left = living();
            if left.is_empty() {
                return self;
            }
            assert!(began.elapsed() < Duration::from_secs(3), "left running: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Every process that inherited `tag`, zombies aside: number and command line.
pub fn tagged(tag: &str) -> Vec<(i32, String)> {
    let needle = format!("{TAG}={tag}");
    processes(|pid| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == needle.as_bytes()))
    })
}

/// Every process that is the program under test in its role as helper.
pub fn helpers() -> Vec<(i32, String)> {
    let program = Path::new(env!("CARGO_BIN_EXE_autofit"));
    processes(|pid| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
            && fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(b"__helper"))
    })
}

fn processes(wanted: impl Fn(i32) -> bool) -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| wanted(*pid))
        .map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
