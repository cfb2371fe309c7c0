//! `autofit run`: what the command sees, and what comes back from it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use autofit::emit::config::{ConfirmedFigures, RunDocument};
use autofit::emit::env;
use autofit::emit::fingerprint::Fingerprint;
use autofit::model::arguments::{self, Edit};
use autofit::model::plan::{Device, Way};
use autofit::model::{AgentMode, AgentPlan, Configuration, Knob, Schedule, VERSION};

/// A place with an `autofit.env`, and how it was tuned.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn tuned(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let settings = Configuration::baseline().with(Knob::NumWorkers, 2);
        let document = RunDocument {
            plan: AgentPlan {
                version: VERSION,
                nonce: "0".into(),
                mode: AgentMode::Run,
                trial_dir: None,
                argv: vec![],
                device: Device::Cpu,
                settings,
                ways: BTreeMap::from([(Knob::NumWorkers, Way::Option)]),
                options: BTreeMap::new(),
                script_accumulation: 1,
                script_ranks: 1,
                windows: Vec::new(),
                schedule: Schedule::default(),
                coverage: None,
                inspect: false,
                cap_bytes: None,
                parity_steps: 0,
                serves: false,
                quiet: false,
                profile: false,
                several_machines: false,
                seed: None,
                required: vec![],
                training_loader: None,
            },
            edits: Edit::of_words(
                &args.iter().map(ToString::to_string).collect::<Vec<_>>(),
                &arguments::Place::default(),
            ),
            env: variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            fingerprint: Fingerprint::default(),
            confirmed: ConfirmedFigures::default(),
            slurm: Vec::new(),
            nodes: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let text = env::render(&document, &env::Head::default()).unwrap();
        env::write(&dir.path().join(env::FILE_NAME), &text, dir.path()).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autofit"));
        command
            .arg("run")
            .args(words)
            .current_dir(self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"));
        command.env("PYTHONPATH", "/mine").env("AUTOFIT_PLAN", "of an outer autofit").stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn the_command_sees_its_arguments_the_settings_and_the_agent() {
    let place = Place::tuned(&["--workers", "2"], &[("OMP_NUM_THREADS", "3")]);
    let script = r#"printf '%s\n' "$@" "$OMP_NUM_THREADS" "$AUTOFIT_MODE" "$AUTOFIT_PLAN" "$PYTHONPATH""#;
    let out = place.run(&["--", "sh", "-c", script, "train", "--lr", "1"]);
    let text = String::from_utf8(out.stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..7], ["--lr", "1", "--workers", "2", "3", "run", ""], "{}", stderr(&out));
    let (agent, own) = lines[7].split_once(':').unwrap();
    assert_eq!(own, "/mine");
    assert!(agent.starts_with(place.path().join("cache/autofit/agent").to_str().unwrap()), "{agent}");
    assert!(Path::new(agent).join("sitecustomize.py").is_file());
}

#[test]
fn the_status_is_the_commands_own() {
    let place = Place::tuned(&[], &[]);
    assert_eq!(place.run(&["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(place.run(&["--", "sh", "-c", "kill -TERM $$"]).status.signal(), Some(libc::SIGTERM));
    let capped = |script| place.run(&["--memory-cap", "200MiB", "--", "sh", "-c", script]).status.code();
    assert_eq!(capped("exit 7"), Some(7));
    assert_eq!(capped("kill -TERM $$"), Some(128 + libc::SIGTERM));
}

#[test]
fn what_cannot_be_executed_has_a_status_of_its_own() {
    let place = Place::tuned(&[], &[]);
    fs::write(place.path().join("data.txt"), "x").unwrap();
    for cap in [&[][..], &["--memory-cap", "200MiB"]] {
        let run = |command: &str| place.run(&[cap, &["--", command]].concat());
        let out = run("no-such-command");
        assert_eq!(out.status.code(), Some(127), "{}", stderr(&out));
        assert!(stderr(&out).contains("`no-such-command`: command not found"), "{}", stderr(&out));
        assert_eq!(run("./data.txt").status.code(), Some(126));
    }
    let out = place.run(&["--env", "other.env", "--", "true"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("there is no other.env; tune first"), "{}", stderr(&out));
}

#[test]
fn a_line_that_was_damaged_is_named() {
    let place = Place::tuned(&[], &[]);
    let path = place.path().join(env::FILE_NAME);
    let damaged = fs::read_to_string(&path).unwrap().replace("AUTOFIT_CONFIG=", "AUTOFIT_CONFIG=x");
    fs::write(&path, damaged).unwrap();
    let out = place.run(&["--", "true"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("autofit.env:") && stderr(&out).contains("tune again"), "{}", stderr(&out));
}

#[test]
fn a_python_that_would_not_see_the_agent_is_refused() {
    let place = Place::tuned(&["--workers", "2"], &[]);
    let out = place.run(&["--", "python3", "-I", "train.py"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("-I makes Python ignore PYTHONPATH"), "{}", stderr(&out));
}

/// `tail` has to keep what it is asked for: 300 MB.
const HUNGRY: &str = "head -c 300000000 /dev/zero | tail -c 300000000 | wc -c";

#[test]
fn the_memory_limit_is_real() {
    let place = Place::tuned(&[], &[]);
    let free = place.run(&["--", "sh", "-c", HUNGRY]);
    assert_eq!(String::from_utf8_lossy(&free.stdout).trim(), "300000000");
    let capped = place.run(&["--memory-cap", "100MiB", "--", "sh", "-c", HUNGRY]);
    assert_eq!(String::from_utf8_lossy(&capped.stdout).trim(), "0", "{}", stderr(&capped));
    let said = stderr(&capped);
    // Either the kernel killed it in its cgroup, or it was refused memory because there is no cgroup to be had.
    assert!(
        said.contains("memory ran out under the limit of 100 MiB") || said.contains("no memory cgroup here"),
        "{said}"
    );
}

#[test]
fn under_a_limit_signals_reach_the_command() {
    let place = Place::tuned(&[], &[]);
    let script = "trap 'exit 9' TERM; touch ready; while :; do sleep 0.05; done";
    let mut child = place.command(&["--memory-cap", "200MiB", "--", "sh", "-c", script]).spawn().unwrap();
    while !place.path().join("ready").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "ended before it was ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: the child is ours and has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(9));
}
