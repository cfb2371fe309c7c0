//! What is watched: a command of ours, or a process that runs already.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use super::WatchRequest;
use super::pane::Pane;
use super::screen::Screen;
use super::signals::Came;
use crate::agent::{AgentFiles, EventReader};
use crate::commands::run::could_not;
use crate::emit::run::ignores_environment;
use crate::exit::{self, Exit};
use crate::model::plan::Device;
use crate::model::{AgentMode, AgentPlan, Configuration, Schedule, VERSION};
use crate::process::beside::{self, Beside, Other, Streams};
use crate::watch::nvml::{self, Baseline, GpuReading};
use crate::watch::sampler::Pids;
use crate::watch::training::Watched;
use crate::watch::{Gpus, cgroup, host, meminfo};

/// What is to be watched.
#[derive(Debug, Clone)]
pub enum Target {
    /// Started by us.
    Command(Vec<OsString>),
    /// Runs already.
    Pid(u32),
}

/// How it ended.
pub(super) struct Over {
    /// The command's exit status.
    pub status: Option<i32>,
    /// What we end with.
    pub ours: i32,
}

/// What is watched.
pub(super) struct Subject {
    /// In words: the command line.
    pub what: String,
    /// Its first process.
    pub pid: u32,
    /// Host memory that it may use, bytes.
    pub cap: u64,
    /// Devices that it can see, before it began.
    pub baseline: Baseline,
    /// What the agent tells.
    pub training: Watched,
    kind: Kind,
    notes: Vec<String>,
}

enum Kind {
    Ours { command: Beside, pane: Option<Pane>, agent: Option<Agent> },
    Other(Other),
}

/// The agent's side of a command: its records, in a folder that is deleted at the end.
struct Agent {
    reader: EventReader,
    _folder: tempfile::TempDir,
}

impl Subject {
    /// Starts the command, or finds the process.
    pub fn begin(request: &WatchRequest, view: bool, gpus: Option<&Gpus>) -> anyhow::Result<Self> {
        match &request.target {
            Target::Command(argv) => Self::command(argv, request.json, view, gpus),
            Target::Pid(pid) => Self::other(*pid, gpus),
        }
    }

    fn command(argv: &[OsString], json: bool, view: bool, gpus: Option<&Gpus>) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        let mut env: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("AUTOFIT_")).collect();
        let agent = match agent(argv, &mut env) {
            Ok(agent) => Some(agent),
            Err(why) => {
                notes.push(format!("{why}: no figures of its training"));
                None
            }
        };
        let baseline = gpus.map(|gpus| {
            let (devices, order) = nvml::visibility();
            Baseline::now(gpus, &gpus.visible(devices.as_deref(), order.as_deref()))
        });
        let streams = match (json, view) {
            (true, _) => Streams::ToStderr,
            (false, true) => {
                use std::io::IsTerminal as _;
                let (stdout, stderr) = (std::io::stdout().is_terminal(), true);
                Streams::Terminal { stdout, stderr, size: Screen::size() }
            }
            (false, false) => Streams::Ours,
        };
        let (command, shown) = beside::start(argv, env, streams).map_err(|e| could_not(argv, &e))?;
        Ok(Self {
            what: shown_words(argv),
            pid: command.pid(),
            cap: cap(std::process::id()),
            baseline: baseline.unwrap_or_default(),
            training: Watched::default(),
            kind: Kind::Ours { command, pane: shown.map(Pane::new), agent },
            notes,
        })
    }

    fn other(pid: u32, gpus: Option<&Gpus>) -> anyhow::Result<Self> {
        let Some(other) = Other::find(pid) else {
            return Err(Exit::new(exit::USAGE, format!("there is no process {pid}")).into());
        };
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let name = match words.trim() {
            "" => std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned(),
            words => words.to_owned(),
        };
        // What it has in use by now is its own: nothing is taken off.
        let visible = gpus.map(|gpus| {
            let (devices, order) = nvml::visibility_of(pid);
            gpus.visible(devices.as_deref(), order.as_deref())
        });
        let devices = visible.unwrap_or_default().into_iter().map(|at| (at, GpuReading::default())).collect();
        Ok(Self {
            what: format!("process {pid} ({name})"),
            pid,
            cap: cap(pid),
            baseline: Baseline { devices },
            training: Watched::default(),
            kind: Kind::Other(other),
            notes: Vec::new(),
        })
    }

    /// Its processes, now and later.
    pub fn pids(&self) -> Pids {
        let root = self.pid;
        Arc::new(move || host::descendants(root))
    }

    /// Whether we started it.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours { .. })
    }

    /// What the keys of the view do.
    pub fn keys(&self) -> &'static str {
        match self.kind {
            Kind::Ours { .. } => "Ctrl-C: interrupts the script   q: leaves this view, the script goes on",
            Kind::Other(_) => "q: ends watching, the process goes on",
        }
    }

    /// Its end, if it has come.
    pub fn ended(&mut self) -> std::io::Result<Option<Over>> {
        Ok(match &mut self.kind {
            Kind::Ours { command, .. } => {
                command.ended()?.map(|status| Over { status: Some(status), ours: status })
            }
            Kind::Other(other) => (!other.lives()).then_some(Over { status: None, ours: exit::TUNED }),
        })
    }

    /// Passes a signal on; a status where watching is to end for it.
    pub fn signal(&self, came: Came) -> Option<i32> {
        match &self.kind {
            Kind::Ours { command, .. } => {
                if !came.everybody {
                    command.signal(came.signal);
                }
                None
            }
            Kind::Other(_) => Some(128 + came.signal),
        }
    }

    /// Takes what the agent has told since.
    pub fn hear(&mut self) {
        if let Kind::Ours { agent: Some(agent), .. } = &mut self.kind {
            for (rank, event) in agent.reader.read() {
                self.training.hear(rank, &event.record);
            }
        }
    }

    /// Its latest lines, where they are ours to show.
    pub fn lines(&self) -> Option<Vec<String>> {
        match &self.kind {
            Kind::Ours { pane: Some(pane), .. } => Some(pane.lines()),
            _ => None,
        }
    }

    /// The terminal shows its output itself from now on.
    pub fn show_output(&self) {
        if let Kind::Ours { pane: Some(pane), .. } = &self.kind {
            pane.pass_through();
        }
    }

    /// Reads what is left of its output.
    pub fn finish(&mut self) {
        if let Kind::Ours { pane, .. } = &mut self.kind
            && let Some(pane) = pane.take()
        {
            pane.finish();
        }
    }

    /// What was not watched.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        if let Kind::Ours { agent: Some(_), .. } = self.kind
            && self.training.now().is_none()
        {
            notes.push(match self.training.heard() {
                true => "the agent saw no training: no optimizer and no backward pass".to_owned(),
                false => "the agent did not start in this command: no figures of its training".to_owned(),
            });
        }
        notes.extend(self.training.faults().iter().map(|f| format!("the agent failed in a hook ({f})")));
        notes
    }
}

/// The agent that observes, and the variables that start it.
fn agent(argv: &[OsString], env: &mut Vec<(OsString, OsString)>) -> Result<Agent, String> {
    if let Some(flag) = ignores_environment(argv) {
        return Err(format!("{flag} keeps the agent out"));
    }
    // Files that stay: what the command starts may outlive it.
    let files = AgentFiles::persistent().map_err(|e| e.to_string())?;
    let folder = tempfile::Builder::new().prefix("autofit-watch-").tempdir();
    let folder = folder.map_err(|e| format!("the agent's records have no place ({e})"))?;
    let plan = folder.path().join("plan.json");
    let text = serde_json::to_vec(&plan_of(argv, folder.path())).map_err(|e| e.to_string())?;
    std::fs::write(&plan, text).map_err(|e| format!("{}: {e}", plan.display()))?;
    let inherited = env.iter().find(|(n, _)| n == "PYTHONPATH").map(|(_, v)| v.clone());
    let ours = files.watch_env(&plan, inherited.as_deref());
    env.retain(|(name, _)| !ours.iter().any(|(n, _)| OsStr::new(n) == name));
    env.extend(ours.into_iter().map(|(name, value)| (name.into(), value)));
    Ok(Agent { reader: EventReader::new(folder.path()), _folder: folder })
}

/// No setting, no seed, no end.
fn plan_of(argv: &[OsString], folder: &Path) -> AgentPlan {
    AgentPlan {
        version: VERSION,
        nonce: String::new(),
        mode: AgentMode::Watch,
        trial_dir: Some(folder.display().to_string()),
        argv: argv.iter().map(|a| a.to_string_lossy().into_owned()).collect(),
        // Steps are timed by the host's clock: events on the device would be one more thing for it to do.
        device: Device::Cpu,
        settings: Configuration::baseline(),
        ways: Default::default(),
        options: Default::default(),
        script_accumulation: 0,
        script_ranks: 0,
        // Nothing is measured to an end, so the first steps are enough.
        windows: Vec::new(),
        schedule: Schedule {
            warmup_steps: 1,
            min_steps: 1,
            max_steps: 1,
            max_seconds: 0.0,
            relative_error: 1.0,
        },
        coverage: None,
        inspect: false,
        cap_bytes: None,
        parity_steps: 0,
        serves: false,
        quiet: false,
        profile: false,
        several_machines: false,
        seed: None,
        training_loader: None,
        required: Vec::new(),
    }
}

/// The lowest limit of its cgroups, or the machine's memory.
fn cap(pid: u32) -> u64 {
    let ram = meminfo::bytes(&meminfo::read(), "MemTotal").unwrap_or(0);
    cgroup::memory_limit_of(pid).filter(|limit| *limit < ram).unwrap_or(ram)
}

fn shown_words(argv: &[OsString]) -> String {
    let words: Vec<String> = argv.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    shell_words::join(crate::report::redact::command(&words))
}
