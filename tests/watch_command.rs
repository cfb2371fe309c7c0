//! `autofit watch`, end to end: a real training script, a stand-in for NVML, a terminal, signals, other people's
//! processes.
#![allow(clippy::unwrap_used)]

#[path = "nvml-standin/mod.rs"]
mod standin;
mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;
use standin::Standin;
use support::command::Finished;
use support::terminal::OnTerminal;
use support::{Project, autofit};

const MIB: u64 = 1 << 20;
const ONE: &str = "gpu 0 GPU-aaaa 81559 NVIDIA H100\n";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// Its numbers in a record, by JSON pointer.
#[track_caller]
fn number(record: &Value, at: &str) -> u64 {
    record.pointer(at).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {at} in {record:#}"))
}

fn ends(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_training_script_runs_as_it_is_and_what_it_does_is_recorded() {
    let project = Project::with_tiny();
    let done = autofit(project.path())
        .with_python()
        .line("watch --record watch.jsonl --every 500ms -- python tiny.py --epochs 12")
        .env("OMP_NUM_THREADS", "1")
        .finish()
        .expect(0)
        .says("which ended well")
        .says("1536 steps");
    assert_eq!(done.stdout.lines().filter(|l| l.starts_with("epoch ")).count(), 12, "its output is its own");
    assert!(project.path().join("tiny.pt").exists(), "it really writes");
    assert!(!project.path().join(".autofit").exists(), "and nothing else does");

    let records = lines(&project.read("watch.jsonl"));
    let kinds: Vec<_> = records.iter().map(|r| r["t"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("begin", "end"));
    assert!(kinds[1..kinds.len() - 1].iter().all(|k| *k == "reading") && kinds.len() > 3, "{kinds:?}");
    assert_eq!(records[0]["what"], "python tiny.py --epochs 12");
    let end = records.last().unwrap();
    assert_eq!((end["status"].as_i64(), number(end, "/training/steps")), (Some(0), 12 * 128));
    assert!(end["training"]["samples_per_second"].as_f64().unwrap() > 100.0, "{end:#}");
    let wait = end["training"]["loader_wait"].as_f64().unwrap();
    assert!(wait > 0.0 && wait < 1.0, "{end:#}");
    let (peak, cap) = (number(end, "/host/peak"), number(end, "/host/cap"));
    assert!(peak > 100 * MIB && peak < cap, "{end:#}");
    let highest = records.iter().filter_map(|r| r.pointer("/host/bytes")?.as_u64()).max().unwrap();
    assert!(highest <= peak, "no reading is above the peak");
}

#[test]
fn with_json_standard_output_has_records_only() {
    let project = Project::new();
    let done = autofit(project.path())
        .line("watch --json -- sh -c")
        .arg("echo mine; echo other >&2; exit 7")
        .finish();
    let records = lines(&done.stdout);
    assert_eq!(records.last().unwrap()["status"], 7);
    assert!(done.stderr.contains("mine") && done.stderr.contains("other"), "{}", done.stderr);
    let _ = done.expect(7);
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let dir = Project::new().file("data.txt", "no program");
    for (words, status) in [("exit 0", 0), ("exit 41", 41), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        let _ = autofit(dir.path()).line("watch -- sh -c").arg(words).finish().expect(status);
    }
    let _ =
        autofit(dir.path()).line("watch -- no-such-program").finish().expect(127).says("command not found");
    let _ = autofit(dir.path()).line("watch -- ./data.txt").finish().expect(126).says("cannot be executed");
    let _ = autofit(dir.path()).line("watch").finish().expect(2).says("nothing to watch");
    let _ = autofit(dir.path()).line("watch --pid 1 -- true").finish().expect(2).says("two things");
    let _ =
        autofit(dir.path()).line("watch --record no/such/dir/x -- true").finish().expect(6).says("--record");
}

#[test]
fn python_that_keeps_the_agent_out_is_watched_from_outside() {
    let project = Project::new();
    let run = || autofit(project.path()).with_python();
    let _ = run().line("watch -- python -I -c pass").finish().expect(0).says("-I keeps the agent out");
    let _ = run().line("watch -- python -c pass").finish().expect(0).says("the agent saw no training");
    let _ = run().line("watch -- true").finish().expect(0).says("the agent did not start");
}

#[test]
fn signals_reach_the_command() {
    for (name, signal) in [("INT", libc::SIGINT), ("TERM", libc::SIGTERM), ("USR1", libc::SIGUSR1)] {
        let project = Project::new();
        let script = format!(
            "trap 'echo got {name}; exit 5' {name}; echo ready > ready; while :; do sleep 0.05; done"
        );
        let mut running = autofit(project.path()).line("watch -- sh -c").arg(script).start();
        running.wait_until("the command has set its trap", || project.path().join("ready").exists());
        running.signal(signal);
        let done = running.finish().expect(5).leaves_no_process();
        assert_eq!(done.stdout, format!("got {name}\n"));
    }
}

#[test]
fn a_process_that_runs_already_is_watched_until_its_end() {
    let child = Command::new("sleep").arg("1.5").spawn().unwrap();
    let done = autofit(Path::new("/"))
        .line("watch --json --every 300ms --pid")
        .arg(child.id().to_string())
        .finish()
        .expect(0);
    let records = lines(&done.stdout);
    assert_eq!(records[0]["what"], format!("process {} (sleep 1.5)", child.id()));
    assert!(records.len() > 4 && number(records.last().unwrap(), "/host/peak") > 0, "{records:#?}");
    assert_eq!(records.last().unwrap()["status"], Value::Null, "its status is its parent's to know");
    let mut child = child;
    assert!(child.wait().unwrap().success());

    // Reaped by now: the number is nobody's, or somebody else's.
    let _ = autofit(Path::new("/"))
        .line("watch --pid 4300000")
        .finish()
        .expect(2)
        .says("there is no process 4300000");
}

/// Watches a process until so many records are there, then sends a signal and waits for the end.
fn watched_until(records: usize, dir: &Path, pid: u32, library: &Path, signal: i32) -> Finished {
    let file = dir.join("watch.jsonl");
    let mut running = autofit(dir)
        .line("watch --record watch.jsonl --every 100ms --pid")
        .arg(pid.to_string())
        .env("AUTOFIT_NVML_LIB", library)
        .start();
    let there = || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() >= records);
    running.wait_until("there are records", there);
    running.signal(signal);
    running.finish()
}

#[test]
fn watching_ends_with_ctrl_c_and_the_process_goes_on() {
    let dir = Project::new();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let none = Path::new("/no/such/library");
    let _ = watched_until(3, dir.path(), child.id(), none, libc::SIGINT).expect(130).says("watched process");
    assert!(child.try_wait().unwrap().is_none(), "it still runs");
    ends(child);
}

#[test]
fn a_process_of_another_user_is_watched_as_far_as_that_goes() {
    // Somebody who is neither root nor we, where we are root; else root's first process.
    let nobody = 65534;
    let root = nix::unistd::geteuid().is_root();
    let ours = Command::new("sleep").arg("20").spawn().unwrap();
    let watched = if root { ours.id() } else { 1 };
    // The program must be reached by somebody who may not enter our folders.
    let place = tempfile::Builder::new().permissions(mode(0o755)).tempdir().unwrap();
    let program = place.path().join("autofit");
    std::fs::copy(env!("CARGO_BIN_EXE_autofit"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["watch", "--json", "--every", "200ms", "--pid", &watched.to_string()]).current_dir("/");
    command.env("HOME", "/nonexistent");
    if root {
        command.uid(nobody).gid(nobody);
    }
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut from = BufReader::new(running.stdout.take().unwrap());
    let mut out = String::new();
    for _ in 0..3 {
        assert!(from.read_line(&mut out).unwrap() > 0, "ended too early: {out}");
    }
    // SAFETY: the child has not been waited for.
    assert_eq!(unsafe { libc::kill(running.id().cast_signed(), libc::SIGTERM) }, 0);
    from.read_to_string(&mut out).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(143));
    ends(ours);
    let records = lines(&out);
    assert!(records.len() > 2, "{out}");
    assert!(number(records.last().unwrap(), "/host/peak") > 0, "memory is told all the same: {out}");
}

fn mode(bits: u32) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(bits)
}

/// The last record of a watched process beside a driver that says this; `PID` stands for the process.
fn beside(script: &str) -> Value {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let standin = Standin::new(&script.replace("PID", &child.id().to_string()));
    let done = watched_until(10, standin.folder(), child.id(), &standin.library(), libc::SIGTERM).expect(143);
    ends(child);
    assert!(done.stdout.is_empty());
    lines(&std::fs::read_to_string(standin.folder().join("watch.jsonl")).unwrap()).pop().unwrap()
}

#[test]
fn devices_as_the_driver_tells_them() {
    // Ours and somebody else's, apart: the peak is ours, what anybody uses is told beside it.
    let end = beside(&format!(
        "{ONE}util 0 40\nuse 0 0 9000\nproc 0 0 1 4000\nproc 0 0 PID 5000\nproc 0 4 PID 7000\nproc 0 6 PID 2000\n"
    ));
    assert_eq!(number(&end, "/devices/0/peak"), 7000 * MIB, "{end:#}");
    assert_eq!(
        (number(&end, "/devices/0/bytes"), number(&end, "/devices/0/cap")),
        (2000 * MIB, 81_559 * MIB)
    );
    assert_eq!((number(&end, "/devices/0/used"), &end["mean_utilization"][0]), (9000 * MIB, &40.0.into()));

    // Two GPUs, one of them used.
    let end = beside(&format!("{ONE}gpu 1 GPU-bbbb 1000 NVIDIA H100\nproc 1 0 PID 300\n"));
    assert_eq!(end["devices"].as_array().unwrap().len(), 2);
    assert_eq!(number(&end, "/devices/1/peak"), 300 * MIB);

    // A divided GPU is its parts.
    let end = beside("gpu 0 GPU-a 81559 H100\nmig 0 1 MIG-1 9728 H100 MIG 1g.10gb\nproc 0.1 0 PID 100\n");
    assert_eq!((number(&end, "/devices/0/mig"), number(&end, "/devices/0/peak")), (1, 100 * MIB));

    // No figures for processes: a process that runs already has no share that could be told.
    let end = beside(&format!("{ONE}use 0 0 500\nproc 0 0 PID na\n"));
    assert_eq!((&end["devices"][0]["peak"], number(&end, "/devices/0/used")), (&Value::Null, 500 * MIB));

    // Nothing can be read: the host is watched all the same.
    let end = beside(&format!("{ONE}fail 0 memory no_permission\nfail 0 processes no_permission\n"));
    assert_eq!(end["devices"][0]["peak"], Value::Null);
    assert!(
        number(&end, "/host/peak") > 0 && end["notes"][0].as_str().unwrap().contains("permission"),
        "{end:#}"
    );

    // No driver at all.
    let end = beside("init driver_not_loaded\n");
    assert_eq!(end["devices"], Value::Array(vec![]));
}

#[test]
fn of_a_command_the_use_over_the_start_counts_where_processes_are_not_told() {
    // Reading 0 is the listing, 1 the baseline.
    let standin = Standin::new(&format!("{ONE}use 0 0 500\nuse 0 4 4500\nfail 0 processes not_supported\n"));
    let done = autofit(standin.folder())
        .line("watch --json -- sleep 0.8")
        .env("AUTOFIT_NVML_LIB", standin.library())
        .finish()
        .expect(0);
    let end = lines(&done.stdout).pop().unwrap();
    assert_eq!(number(&end, "/devices/0/peak"), 4000 * MIB, "{end:#}");
    assert!(end["notes"].to_string().contains("their use is the device's use over the baseline"), "{end:#}");
}

/// The program on a terminal.
fn on_terminal(dir: &Path, words: &[&str]) -> OnTerminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autofit"));
    command.args(words).current_dir(dir).env("AUTOFIT_NVML_LIB", "/no/such/library");
    OnTerminal::start(command)
}

/// What a terminal shows after its second screen is gone.
fn afterwards(screen: &str) -> &str {
    screen.rsplit_once("\x1b[?1049l").unwrap_or_else(|| panic!("the second screen was not left")).1
}

const LOOP: &str = "echo line-one; trap 'echo interrupted; exit 9' INT; while :; do sleep 0.05; done";

#[test]
fn ctrl_c_at_the_view_is_the_commands_and_the_terminal_is_as_it_was() {
    let dir = Project::new();
    let mut running = on_terminal(dir.path(), &["watch", "--", "sh", "-c", LOOP]);
    running.wait_for("\x1b[?1049h");
    running.wait_for("line-one");
    running.wait_for("host");
    running.types(b"\x03");
    let left = running.leave();
    assert_eq!((left.code, left.restored), (9, true), "{}", left.tail());
    // The command's output stands on the terminal as if nothing had been in between.
    let after = afterwards(&left.screen);
    assert!(after.contains("line-one\r\n") && after.contains("interrupted\r\n"), "{after}");
    assert!(after.contains("which ended with status 9"), "{after}");
}

#[test]
fn q_leaves_the_view_and_the_command_goes_on() {
    let dir = Project::new();
    let script = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo second";
    let mut running = on_terminal(dir.path(), &["watch", "--", "sh", "-c", script]);
    running.wait_for("first");
    running.types(b"q");
    running.wait_for("\x1b[?1049l");
    std::fs::write(dir.path().join("go"), "").unwrap();
    let left = running.leave();
    assert_eq!((left.code, left.restored), (0, true), "{}", left.tail());
    let after = afterwards(&left.screen);
    assert!(after.contains("first") && after.contains("second"), "{after}");
}

#[test]
fn plain_lines_on_a_terminal_leave_it_to_the_command() {
    let dir = Project::new();
    let script = "test -t 0 && test -t 1 && echo both; trap 'exit 9' INT; while :; do sleep 0.05; done";
    let mut running =
        on_terminal(dir.path(), &["watch", "--plain", "--every", "100ms", "--", "sh", "-c", script]);
    running.wait_for("both");
    running.wait_for("autofit: 0.");
    running.types(b"\x03");
    let left = running.leave();
    assert_eq!((left.code, left.restored), (9, true), "{}", left.tail());
    assert!(!left.screen.contains("\x1b[?1049h"), "{}", left.tail());
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "panics_with_the_screen_open", "--nocapture"]);
    let left = OnTerminal::start(command).leave();
    assert!(left.restored && left.code != 0, "{}", left.tail());
    assert!(afterwards(&left.screen).contains("a fault of ours"), "the message can be read: {}", left.tail());
}

#[test]
#[ignore = "run by the test above on a terminal of its own"]
fn panics_with_the_screen_open() {
    let _screen = autofit::commands::watch::screen::Screen::open().unwrap();
    panic!("a fault of ours");
}
