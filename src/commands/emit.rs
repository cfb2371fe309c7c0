//! `autofit emit --form sbatch -- COMMAND`: a job script that trains with what was tuned.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;

use super::terminal;
use super::workplace::current_dir;
use crate::emit::env;
use crate::emit::sbatch::JobScript;
use crate::exit::{self, Exit};

/// `autofit emit`.
#[derive(Debug, Clone)]
pub struct EmitRequest {
    /// The file that tuning wrote.
    pub env: PathBuf,
    /// Nodes; `None`: as many as trials had.
    pub nodes: Option<u32>,
    /// Options of `sbatch`.
    pub slurm: Vec<String>,
    /// The command.
    pub command: Vec<OsString>,
}

/// Prints the script; the program's exit status.
///
/// # Errors
/// [`Exit`] with status 6 where the file cannot be read, 2 for a command that cannot run like this.
pub fn run(request: &EmitRequest) -> anyhow::Result<i32> {
    let file = env::read(&request.env).map_err(|e| Exit::new(exit::PLACE, e.to_string()))?;
    let words: Result<Vec<String>, _> = request.command.iter().cloned().map(OsString::into_string).collect();
    let command =
        words.map_err(|w| Exit::new(exit::USAGE, format!("the word {} is not UTF-8", w.display())))?;
    let cwd = current_dir()?;
    let script = JobScript {
        document: &file.document,
        program: &std::env::current_exe().context("this program's own path")?,
        env: &cwd.join(&request.env),
        cwd: &cwd,
        command: &command,
        nodes: request.nodes.or(file.document.nodes).unwrap_or(1),
        options: &request.slurm,
    };
    terminal::print(&script.render().map_err(|e| Exit::new(exit::USAGE, e.to_string()))?);
    Ok(exit::TUNED)
}
