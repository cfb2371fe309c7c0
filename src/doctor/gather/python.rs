//! The interpreter, asked once.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;

use super::super::facts::{Answer, Python};
use super::on_path;
use crate::process::tool::{self, Tool};

/// Importing PyTorch takes seconds, from a cold disk half a minute.
const PATIENCE: u32 = 90;

/// Asked in the interpreter; its last line is the answer.
const PROBE: &str = include_str!("probe.py");

/// Stands before the answer: what a package writes while it is imported is none.
const MARK: &str = "autofit-doctor ";

/// Asks the interpreter of this command (words up to the interpreter itself), or the one that `python` names.
pub fn ask(command: &[OsString]) -> Python {
    let words: Vec<OsString> = match command {
        [] => match ["python", "python3"].into_iter().find(|name| on_path(&[name]).is_some()) {
            Some(name) => vec![name.into()],
            None => {
                let failed = Some("neither `python` nor `python3` is on PATH".to_owned());
                return Python { command: "python".into(), failed, answer: None };
            }
        },
        words => words.to_vec(),
    };
    let shown = words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let (answer, failed) = match probe(&words) {
        Ok(answer) => (Some(answer), None),
        Err(why) => (None, Some(why)),
    };
    Python { command: shown, failed, answer }
}

fn probe(words: &[OsString]) -> Result<Answer, String> {
    let Some((program, rest)) = words.split_first() else { return Err("no interpreter is named".into()) };
    let tool = Tool::new(program)
        .args(rest)
        .args(["-c", PROBE])
        .env("AUTOFIT_PROBE_SECONDS", PATIENCE.to_string())
        .without("AUTOFIT_MODE");
    let end = tool::run(tool, |_| ()).map_err(|e| e.to_string())?;
    if let Some(line) = end.stdout.lines().rev().find_map(|l| l.strip_prefix(MARK)) {
        return serde_json::from_str(line).map_err(|e| format!("its answer cannot be read: {e}"));
    }
    let last = end.tail.last().map(|l| format!(": {}", l.trim())).unwrap_or_default();
    Err(match (end.status.signal(), end.status.code()) {
        (Some(libc::SIGALRM), _) => format!("no answer within {PATIENCE} s"),
        (Some(signal), _) => format!("it was killed by signal {signal}{last}"),
        (None, code) => format!("it ended with status {}{last}", code.unwrap_or(-1)),
    })
}
