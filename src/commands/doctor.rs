//! `autofit doctor`: the machine, before anything runs.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::Serialize;

use super::terminal;
use crate::doctor::facts::Facts;
use crate::doctor::{Finding, Level, examine, gather, worst};
use crate::exit::{self, Exit};
use crate::model::VERSION;
use crate::report::doctor::render;
use crate::report::style::{Stream, Style};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    verdict: Level,
    findings: &'a [Finding],
    facts: &'a Facts,
}

/// Looks, prints; the program's exit status: 1 where something is broken.
///
/// # Errors
/// [`Exit`] with status 2 where the words after `--` name no interpreter.
pub fn run(command: &[OsString], json: bool) -> anyhow::Result<i32> {
    let facts = gather::gather(interpreter(command)?);
    let findings = examine(&facts);
    let verdict = worst(&findings);
    if json {
        let report = Report { version: VERSION, verdict, findings: &findings, facts: &facts };
        terminal::print(&(serde_json::to_string_pretty(&report)? + "\n"));
    } else {
        terminal::print(&render(&findings, Style::of(Stream::Stdout)));
    }
    Ok(if verdict == Level::Bad { exit::BROKEN } else { exit::TUNED })
}

/// The words of a command up to its interpreter: `python` of `python train.py`, `uv run python` of `uv run python x.py`.
fn interpreter(command: &[OsString]) -> Result<&[OsString], Exit> {
    let is_python = |word: &OsString| {
        let name = Path::new(word).file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
        name.starts_with("python") || name.starts_with("pypy")
    };
    match command.iter().position(is_python) {
        Some(at) => Ok(&command[..=at]),
        None if command.is_empty() => Ok(command),
        None => Err(Exit::new(
            exit::USAGE,
            format!(
                "`{}` names no Python; type the interpreter that training has, for example: autofit doctor -- .venv/bin/python",
                command.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_whole_command_is_asked() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(interpreter(&words("/opt/bin/python3.11 train.py --lr 1")).unwrap().len(), 1);
        assert_eq!(interpreter(&words("uv run python train.py")).unwrap().len(), 3);
        assert!(interpreter(&[]).unwrap().is_empty());
        let refused = interpreter(&words("torchrun train.py")).unwrap_err();
        assert!(refused.message.contains(".venv/bin/python"), "{refused}");
    }
}
