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

/// Its defaults need about half as much again (1.3 to 1.4 GiB on the processor).
const LIMIT: u64 = 900 << 20;

/// Launches of the search, so that the whole takes about three minutes on two cores with nothing else to do.
const MAX_TRIALS: u32 = 10;

/// Time for the search where the machine is busy; launches bound it elsewhere.
const BUDGET: Duration = Duration::from_secs(600);

/// Steps of the tuned run: enough to see the loss fall.
const STEPS: &str = "20";

/// Steps between two lines of the script: nobody should have to wonder whether it still runs.
const LOG_EVERY: &str = "2";

/// Runs the demo; the program's exit status.
///
/// # Errors
/// [`Exit`] with status 6 when the environment cannot be made or the folder cannot be written.
pub fn run(yes: bool, keep: Option<PathBuf>) -> anyhow::Result<i32> {
    let python = environment::ensure(yes)?;
    let folder = keep.unwrap_or_else(|| PathBuf::from("autofit-demo"));
    let script = folder.join("gpt.py");
    write(&folder, &script)?;
    let command: Vec<OsString> = [
        python.path.as_os_str(),
        script.as_os_str(),
        "--steps".as_ref(),
        STEPS.as_ref(),
        "--log-every".as_ref(),
        LOG_EVERY.as_ref(),
        "--eval-every".as_ref(),
        STEPS.as_ref(),
        "--out-dir".as_ref(),
        folder.join("out").as_os_str(),
        // Also where there is a GPU: the limit is one of host memory.
        "--device".as_ref(),
        "cpu".as_ref(),
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
        terminal::say("demo: nothing was found; if this machine was busy with something else, try again\n");
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

/// Makes the folder with the script in it; a `gpt.py` that is not ours is left alone.
fn write(folder: &Path, script: &Path) -> Result<(), Exit> {
    let refuse = |what: &dyn std::fmt::Display| {
        Exit::new(exit::PLACE, format!("{}: {what}; name another folder with --keep DIR", script.display()))
    };
    match std::fs::read(script) {
        Ok(text) if text == SCRIPT.as_bytes() => Ok(()),
        Ok(_) => Err(refuse(&"is there already, and is not the demo's")),
        Err(_) => std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(script, SCRIPT))
            .map_err(|e| refuse(&e)),
    }
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
        max_trials: Some(MAX_TRIALS),
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
    let autofit = shell_words::quote(&program()).into_owned();
    let mib = LIMIT >> 20;
    let head = if status == 0 { "it trained to its end" } else { "the tuned run failed" };
    format!(
        "\ndemo: {head} (exit status {status}).  These commands work as they stand, from here:\n\
         \x20 {autofit} run --env {env} -- {command}\n\
         \x20 {autofit} run --env {env} --memory-cap {mib}MiB -- {command}\n\
         \x20 {autofit} inspect -- {command}\n\
         and for a script of your own: {autofit} -- python YOUR_SCRIPT.py\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, script) = (dir.path().join("new"), dir.path().join("new/gpt.py"));
        write(&folder, &script).unwrap();
        write(&folder, &script).unwrap();
        std::fs::write(&script, "mine").unwrap();
        let refusal = write(&folder, &script).unwrap_err();
        assert_eq!(refusal.status, exit::PLACE);
        assert!(refusal.message.contains("--keep DIR"), "{refusal}");
        assert_eq!(std::fs::read_to_string(&script).unwrap(), "mine");
    }

    #[test]
    fn commands_at_the_end_are_quoted_for_a_shell() {
        let text = farewell(Path::new("my demo/autofit.env"), &["/a b/python".into(), "gpt.py".into()], 0);
        assert!(text.contains("run --env 'my demo/autofit.env' -- '/a b/python' gpt.py\n"), "{text}");
    }
}
