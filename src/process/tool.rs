//! Helper programs that are not trials (python, pip, uv): run to their end, heard line by line.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often [`run`] calls back while the tool is silent, so that a terminal is never silent for two seconds.
const TICK: Duration = Duration::from_millis(200);
/// Lines kept for an error message.
const TAIL_LINES: usize = 12;
/// How long output is awaited after the tool ended, should a grandchild hold its pipes.
const DRAIN: Duration = Duration::from_secs(2);

/// A helper program and its arguments.
#[derive(Debug)]
pub struct Tool(Command);

impl Tool {
    /// A program on `PATH`, or a path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self(Command::new(program))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(args);
        self
    }

    /// A variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Not this variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.env_remove(name);
        self
    }
}

/// What a tool says while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Heard<'a> {
    /// A line of its standard output or standard error (carriage returns end a line too).
    Line(&'a str),
    /// Nothing for a while; time since the start.
    Silence(Duration),
}

/// How a tool ended.
#[derive(Debug)]
pub struct ToolEnd {
    /// Its exit status, or its signal.
    pub status: ExitStatus,
    /// Everything on standard output.
    pub stdout: String,
    /// The last lines of both streams, in the order of arrival.
    pub tail: Vec<String>,
}

/// Runs a tool to its end with no standard input.  It stays in this process group, so that Ctrl-C reaches it too.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn run(mut tool: Tool, mut heard: impl FnMut(Heard<'_>)) -> io::Result<ToolEnd> {
    tool.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = tool.0.spawn()?;
    let (tell, lines) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        read_lines(out, true, tell.clone());
    }
    if let Some(err) = child.stderr.take() {
        read_lines(err, false, tell.clone());
    }
    drop(tell);

    let (mut stdout, mut tail) = (String::new(), Vec::new());
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(TICK) {
            Ok((from_stdout, line)) => {
                if from_stdout {
                    stdout.push_str(&line);
                    stdout.push('\n');
                }
                if !line.trim().is_empty() {
                    heard(Heard::Line(line.trim_end()));
                    if tail.len() == TAIL_LINES {
                        tail.remove(0);
                    }
                    tail.push(line);
                }
            }
            Err(RecvTimeoutError::Timeout) => heard(Heard::Silence(began.elapsed())),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        match ended {
            Some((_, at)) if at.elapsed() > DRAIN => break,
            Some(_) => {}
            None => ended = child.try_wait()?.map(|status| (status, Instant::now())),
        }
    }
    // Both pipes may be closed by a tool that goes on: this waits for it.
    let status = match ended {
        Some((status, _)) => status,
        None => child.wait()?,
    };
    Ok(ToolEnd { status, stdout, tail })
}

fn read_lines(mut from: impl Read + Send + 'static, stdout: bool, tell: mpsc::Sender<(bool, String)>) {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        let mut line = Vec::new();
        while let Ok(n) = from.read(&mut chunk) {
            if n == 0 {
                break;
            }
            for byte in &chunk[..n] {
                if matches!(byte, b'\n' | b'\r') {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    if tell.send((stdout, text)).is_err() {
                        return;
                    }
                } else {
                    line.push(*byte);
                }
            }
        }
        if !line.is_empty() {
            let _ = tell.send((stdout, String::from_utf8_lossy(&line).into_owned()));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_while_the_tool_runs_and_the_status_is_its_own() {
        let (mut lines, mut silences) = (Vec::new(), 0);
        let end = run(
            Tool::new("sh")
                .args(["-c", r"echo one; printf 'two\rthree\n' >&2; sleep 0.7; printf last; exit 3"]),
            |h| match h {
                Heard::Line(l) => lines.push(l.to_owned()),
                Heard::Silence(_) => silences += 1,
            },
        )
        .unwrap();
        assert_eq!(end.status.code(), Some(3));
        lines[..3].sort();
        assert_eq!(lines, ["one", "three", "two", "last"]);
        assert_eq!(end.stdout, "one\nlast\n");
        assert!(silences >= 2, "a silent tool is announced: {silences}");
    }

    #[test]
    fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
        let began = Instant::now();
        let end = run(Tool::new("sh").args(["-c", "sleep 8 & echo done"]), |_| ()).unwrap();
        assert!(end.status.success());
        assert!(began.elapsed() < Duration::from_secs(6));
    }
}
