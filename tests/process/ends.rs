//! How trials end, and that nothing outlives them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use autofit::process::{Containment, ProcessEnd, StartError, end_orphans, exec};

use crate::support::{Case, command, eventually, living, python, sh, wait};

#[test]
fn exit_statuses_and_signals_are_passed_exactly() {
    for code in [0, 1, 3, 126, 127, 137, 255] {
        let (ended, _) = sh(&format!("exit {code}")).run();
        assert_eq!(ended.end, ProcessEnd::Exited { code });
        assert!(ended.cleaned);
    }
    for signal in [9, 15, 6, 11, 2] {
        let (ended, _) = python(&format!("import os; os.kill(os.getpid(), {signal})")).run();
        // Python turns SIGINT into KeyboardInterrupt and then dies of SIGINT all the same.
        assert_eq!(ended.end, ProcessEnd::Signaled { signal });
    }
}

#[test]
fn both_streams_and_the_environment_arrive() {
    let case = sh("echo out; echo err >&2; echo $SECRET; pwd").with(|l| {
        l.env.push(("SECRET".into(), "s=1 ü".into()));
    });
    let (_, mut tail) = case.run();
    tail.sort();
    let mut expected = ["err", "out", "s=1 ü"].map(str::to_owned).to_vec();
    expected.push(case.dir.path().display().to_string());
    expected.sort();
    assert_eq!(tail, expected);
    assert!(std::fs::read_to_string(&case.launch.log).unwrap().contains("err\n"));
}

#[test]
fn a_script_has_the_signals_and_session_of_a_fresh_program() {
    let (_, tail) = python(
        "import signal, os\n\
         print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getsid(0) == os.getpid())\n\
         print(hex(int(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], 16) & 0x7ffffffe))",
    )
    .run();
    // Python itself ignores SIGPIPE (13) and SIGXFSZ (25).  SIGHUP is left out: below `nohup` it is ignored rightly.
    assert_eq!(tail, ["set() True", "0x1001000"]);
}

#[test]
fn what_cannot_be_executed_is_told_apart() {
    let missing = command(&["no-such-command-anywhere"]).start().unwrap_err();
    assert!(matches!(&missing, StartError::NotFound { .. }), "{missing:?}");
    assert_eq!(missing.exit_status(), 127);
    let plain = command(&["/etc/passwd"]).start().unwrap_err();
    assert!(matches!(&plain, StartError::NotExecutable { .. }), "{plain:?}");
    assert_eq!(plain.exit_status(), 126);
    let nowhere = sh("true").with(|l| l.cwd = "/no/such/place".into()).start().unwrap_err();
    assert!(matches!(nowhere, StartError::WorkingDirectory { .. }), "{nowhere:?}");
}

#[test]
fn a_script_without_interpreter_line_runs_as_shells_run_it() {
    use std::os::unix::fs::PermissionsExt;
    let case = command(&["./script", "a b"]);
    std::fs::write(case.path("script"), "echo \"got $1\"\n").unwrap();
    std::fs::set_permissions(case.path("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(case.run().1, ["got a b"]);
}

/// Where tests are run once more in a place that refuses things, that place says what is left.
pub fn expected_containment() -> Containment {
    match std::env::var("AUTOFIT_TEST_CONTAINMENT").as_deref() {
        Ok("cgroup") => Containment::Cgroup,
        Ok("group") => Containment::ProcessGroup,
        _ => Containment::PidNamespace,
    }
}

/// A number to sleep for, which names the processes of one test: those of others sleep at the same time.
fn marker(number: u32) -> String {
    format!("{number}{}", std::process::id())
}

/// A daemon that has left session, group and parent, and ignores TERM.
const DAEMON: &str = "
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        null = os.open('/dev/null', os.O_RDWR)
        for fd in (0, 1, 2): os.dup2(null, fd)
        os.execvp('sleep', ['sleep', sys.argv[1]])
    os._exit(0)
time.sleep(0.3)
";

fn daemon(marker: &str) -> Case {
    command(&["python3", "-c", DAEMON, marker])
}

#[test]
fn a_daemon_that_ignores_term_is_gone() {
    let marker = marker(98);
    let (ended, _) = daemon(&marker).run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 });
    assert_eq!(ended.containment, expected_containment());
    assert!(ended.cleaned && !ended.pipes_held);
    assert!(living(&marker).is_empty());
}

#[test]
fn ending_gives_grace_and_then_kills() {
    let polite = sh("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
        .with(|l| l.grace = Duration::from_secs(20));
    let running = polite.start().unwrap();
    eventually("it is up", || running.tail(1) == ["up"]);
    running.end(ProcessEnd::TimedOut);
    let ended = wait(&running);
    assert_eq!(ended.end, ProcessEnd::TimedOut);
    assert!(running.tail(9).contains(&"bye".to_owned()), "{:?}", running.tail(9));

    let stubborn = sh("trap '' TERM; echo up; while :; do sleep 0.05; done");
    let running = stubborn.start().unwrap();
    eventually("it is up", || running.tail(1) == ["up"]);
    let began = Instant::now();
    running.end(ProcessEnd::Hung);
    running.end(ProcessEnd::Interrupted);
    let ended = wait(&running);
    assert_eq!(ended.end, ProcessEnd::Hung, "the first reason counts");
    assert!(began.elapsed() >= Duration::from_millis(300), "there was no grace");
}

#[test]
fn pipes_held_by_a_grandchild_are_a_result_and_no_hang() {
    let marker = marker(87);
    let case = python(&format!("import subprocess; subprocess.Popen(['sleep', '{marker}']); print('done')"));
    let (ended, tail) = case.run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 });
    assert!(ended.pipes_held);
    assert!(ended.seconds < 20.0);
    assert_eq!(tail, ["done"]);
    assert!(living(&marker).is_empty());
}

#[test]
fn a_flood_of_output_is_bounded_and_its_end_is_kept() {
    let (ended, tail) = {
        let case = sh("yes 0123456789012345678901234567890123456789 | head -c 150000000; echo; echo the end");
        let result = case.run();
        assert!(std::fs::metadata(&case.launch.log).unwrap().len() <= (64 << 20) + 100);
        result
    };
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 });
    assert_eq!(tail.last().unwrap(), "the end");
}

#[test]
fn its_processes_can_be_seen_from_outside() {
    let marker = marker(76);
    let running = sh(&format!("sleep {marker} & sleep {marker}")).start().unwrap();
    eventually("both sleep", || {
        let mut ours = living(&marker);
        ours.retain(|pid| running.pids().contains(pid));
        // The shell's own command line holds the word, too.
        ours.len() == 3
    });
    assert_eq!(running.pids().len(), 3);
    drop(running);
    eventually("dropping ends it", || living(&marker).is_empty());
}

/// Started by [`a_killed_launcher_leaves_no_process`] in a process of its own.
#[test]
#[ignore = "part of another test"]
fn launcher_to_be_killed() {
    let Ok(marker) = std::env::var("AUTOFIT_TEST_MARKER") else { panic!("not to be started by hand") };
    let case = daemon(&marker)
        .with(|l| l.argv[2] = format!("{DAEMON}\nos.execvp('sleep', ['sleep', sys.argv[1]])").into());
    let running = case.start().unwrap();
    println!("trial {}", case.launch.trial_dir.display());
    wait(&running);
}

#[test]
fn a_killed_launcher_leaves_no_process() {
    let marker = marker(65);
    let mut launcher = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "ends::launcher_to_be_killed", "--nocapture"])
        .env("AUTOFIT_TEST_MARKER", &marker)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sleeping = || {
        let all = living(&marker);
        all.iter()
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "sleep\n"
            })
            .count()
    };
    eventually("script and daemon run", || sleeping() == 2);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    eventually("both are gone", || living(&marker).is_empty());
}

#[test]
fn orphans_of_a_dead_launcher_are_ended_and_others_left_alone() {
    let marker = marker(54);
    let case = sh(&format!("sleep {marker} & wait"));
    // As in the real thing, where the plan's place is in the environment.
    let names = ("AUTOFIT_DIR".into(), case.launch.trial_dir.clone().into());
    let case = case.with(|l| l.env.push(names));
    let running = case.start().unwrap();
    assert_eq!(end_orphans(case.dir.path()), 0, "our own trials are no orphans");
    let record = case.launch.trial_dir.join("launched.json");
    // The launcher died, and its helper did not notice: as if the record named a process that is gone.
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    text["launcher"]["started"] = 1.into();
    std::fs::write(&record, text.to_string()).unwrap();
    assert!(end_orphans(case.dir.path()) > 0);
    eventually("it is gone", || living(&marker).is_empty());
    assert!(!record.exists());
    drop(running);
}

#[test]
fn replacing_a_process_reports_shell_statuses() {
    let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    let error = autofit::process::exec_replacing(&["no-such-command".into()], &env);
    assert_eq!(exec::exit_status(&error), 127);
    let error = autofit::process::exec_replacing(&["/etc/passwd".into()], &env);
    assert_eq!(exec::exit_status(&error), 126);
}
