//! `autofit run -- COMMAND`: production with what was tuned.
//!
//! The command takes this process's place, so that terminal, signals and exit status are its own.  Only with a
//! memory limit on the CPU does this process stay, to take the limit away again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::RunRequest;
use crate::agent::AgentFiles;
use crate::emit::env::{self, EnvFile};
use crate::emit::fingerprint::Fingerprint;
use crate::emit::{installed, run as emit};
use crate::exit::{self, Exit};
use crate::model::plan::Device;
use crate::model::size::Bytes;
use crate::process::exec::{self, exec_replacing};
use crate::process::foreground::Limited;
use crate::process::machine_limit;
use crate::watch::{Gpus, nvml};

/// Runs the command; returns only when this process had to stay (the command's exit status), or when it could not
/// be executed.
///
/// # Errors
/// [`Exit`] with status 125 for what is ours, 126 and 127 when the command cannot be executed.
pub fn run(request: &RunRequest) -> anyhow::Result<i32> {
    let ours = |e: &dyn std::fmt::Display| Exit::new(exit::RUN_FAILED, e.to_string());
    let file = env::read(&request.env).map_err(|e| ours(&e))?;
    if file.document.needs_run()
        && let Some(flag) = emit::ignores_environment(&request.command)
    {
        return Err(ours(&format!(
            "{flag} makes Python ignore PYTHONPATH, so that the settings could not be applied; leave it out"
        ))
        .into());
    }
    warn_of_differences(&file, request);
    let agent = AgentFiles::persistent().map_err(|e| ours(&e))?;
    let pythonpath = agent.python_path(std::env::var_os("PYTHONPATH").as_deref());
    let launch =
        emit::launch(&file, &request.command, pythonpath, request.memory_cap).map_err(|e| ours(&e))?;
    let environment = environment(launch.env);
    match request.memory_cap {
        Some(bytes) if file.document.plan.device == Device::Cpu => limited(bytes, &launch.argv, &environment),
        _ => Err(could_not(&launch.argv, &exec_replacing(&launch.argv, &environment))),
    }
}

/// Ours over the user's; nothing of an outer autofit may leak in.
fn environment(ours: BTreeMap<OsString, OsString>) -> Vec<(OsString, OsString)> {
    let foreign = |name: &OsStr| name.to_string_lossy().starts_with("AUTOFIT_");
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().filter(|(n, _)| !foreign(n)).collect();
    all.extend(ours);
    all.into_iter().collect()
}

fn limited(bytes: u64, argv: &[OsString], env: &[(OsString, OsString)]) -> anyhow::Result<i32> {
    let limit = Limited::new(bytes);
    if let Some(note) = &limit.note {
        say(note);
    }
    let ended = limit.run(argv, env).map_err(|e| could_not(argv, &e))?;
    if ended.oom_kills > 0 {
        say(&format!("memory ran out under the limit of {}: the kernel killed the command", Bytes(bytes)));
    }
    Ok(ended.status)
}

/// Why a command was not executed, with the status that a shell would have.
pub(super) fn could_not(argv: &[OsString], error: &std::io::Error) -> anyhow::Error {
    let program = argv.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let status = exec::exit_status(error);
    let what = match status {
        exec::NOT_FOUND => "command not found".to_owned(),
        _ => format!("cannot be executed: {error}"),
    };
    Exit::new(status, format!("`{program}`: {what}")).into()
}

/// Says what is not as it was measured; the run goes on, since the agent checks what matters at the first step.
fn warn_of_differences(file: &EnvFile, request: &RunRequest) {
    let then = &file.document.fingerprint;
    let typed: Vec<String> = request.command.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let here = std::env::current_dir().unwrap_or_default();
    let device = file.document.plan.device;
    let mut now = Fingerprint::of_command(&typed, &here);
    if let Some(program) = program(request.command.first()) {
        now.packages = installed::versions(&program, then.packages.keys());
    }
    now.device = device_name(device);
    now.cap_bytes = request.memory_cap.or_else(|| match device {
        Device::Cpu => Some(machine_limit()).filter(|n| *n > 0),
        Device::Cuda => None,
    });
    for difference in then.differences(&now) {
        say(&format!("not as tuned: {difference}"));
    }
}

/// The program as the shell would find it; links are not followed.
fn program(name: Option<&OsString>) -> Option<PathBuf> {
    let name = Path::new(name?);
    if name.components().count() > 1 {
        return std::path::absolute(name).ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// As the fingerprint names it; empty when it cannot be told.
fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda => {
            let Ok(gpus) = Gpus::open() else { return String::new() };
            let (devices, order) = nvml::visibility();
            let visible = gpus.visible(devices.as_deref(), order.as_deref());
            let first = visible.first().and_then(|i| gpus.devices().get(*i));
            first.map(|g| g.name.clone()).unwrap_or_default()
        }
    }
}

fn say(text: &str) {
    eprintln!("autofit: {text}");
}
