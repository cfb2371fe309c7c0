//! `autofit demo`: the main job on an example, for real: a GPT is tuned into a limit that its defaults do not fit in,
//! and then trains there with what was found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DeviceChoice, Job, RunRequest, environment, run as production, terminal, tune};
use crate::exit::{self, Exit};
use crate::model::size::Bytes;

/// A training script that knows nothing of autofit.
const SCRIPT: &str = include_str!("../../examples/gpt.py");

/// Its defaults need about half as much again.
const LIMIT: u64 = 900 << 20;

/// Time for the search; what comes before and after it takes about half a minute.
const BUDGET: Duration = Duration::from_secs(150);

/// Steps of the tuned run: enough to see the loss fall.
const STEPS: &str = "20";

/// Runs the demo; the program's exit status.
///
/// # Errors
/// [`Exit`] with status 6 when the environment cannot be made or the folder cannot be written.
pub fn run(yes: bool, keep: Option<PathBuf>) -> anyhow::Result<i32> {
    let python = environment::ensure(yes)?;
    let folder = keep.unwrap_or_else(|| PathBuf::from("autofit-demo"));
    let script = folder.join("gpt.py");
    write(&folder, &script).map_err(|e| {
        Exit::new(exit::PLACE, format!("{}: {e}; name another folder with --keep DIR", folder.display()))
    })?;
    let command: Vec<OsString> = [
        python.path.as_os_str(),
        script.as_os_str(),
        "--steps".as_ref(),
        STEPS.as_ref(),
        "--eval-every".as_ref(),
        STEPS.as_ref(),
        "--out-dir".as_ref(),
        folder.join("out").as_os_str(),
    ]
    .map(OsString::from)
    .to_vec();
    terminal::say(&format!(
        "demo: {} is a GPT that knows nothing of autofit; its defaults do not fit in {}.\n\n",
        script.display(),
        Bytes(LIMIT)
    ));
    let status = super::block_on(tune::run(job(&folder, command.clone())))?;
    if status != exit::TUNED {
        return Ok(status);
    }
    terminal::say(&format!(
        "\ndemo: now it trains with what was found, under the same limit of {}:\n\n",
        Bytes(LIMIT)
    ));
    let env = folder.join("autofit.env");
    let request = RunRequest { env: env.clone(), memory_cap: Some(LIMIT), command: command.clone() };
    let status = production::run(&request)?;
    terminal::print(&farewell(&env, &command, status));
    Ok(status)
}

fn write(folder: &Path, script: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(script, SCRIPT)
}

fn job(folder: &Path, command: Vec<OsString>) -> Job {
    let cap = (LIMIT >> 20).to_string() + "MiB";
    let out = folder.display().to_string();
    let mut invocation =
        vec![program(), "--memory-cap".to_owned(), cap, "--out".to_owned(), out, "--".to_owned()];
    invocation.extend(command.iter().map(|w| w.to_string_lossy().into_owned()));
    Job {
        command,
        invocation,
        device: DeviceChoice::Cpu,
        memory_cap: Some(LIMIT),
        budget: Some(BUDGET),
        out: Some(folder.to_owned()),
        // A demo that only shows an old result shows nothing.
        fresh: true,
        ..Job::default()
    }
}

/// The program as it can be typed from here.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "autofit".to_owned())
}

fn farewell(env: &Path, command: &[OsString], status: i32) -> String {
    let words: Vec<String> = command.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let command = shell_words::join(words);
    let env = shell_words::quote(&env.to_string_lossy()).into_owned();
    let autofit = program();
    let mib = LIMIT >> 20;
    let head = if status == 0 { "it trained to its end" } else { "the tuned run failed" };
    format!(
        "\ndemo: {head} (exit status {status}).  These commands work as they stand, from here:\n\
         \x20 {autofit} run --env {env} -- {command}\n\
         \x20 {autofit} run --env {env} --memory-cap {mib}MiB -- {command}\n\
         \x20 {autofit} inspect -- {command}\n\
         \x20 {autofit} -- python train.py        # your own script\n"
    )
}
