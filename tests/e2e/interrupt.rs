//! Ctrl-C, SIGTERM and SIGKILL at any moment: nothing of the user's is harmed, nothing measured is lost.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use crate::support::command::Running;
use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(400);
const TUNE: &str = "--device cpu --max-trials 6 -- python tiny.py --epochs 200";

/// The program in a process group of its own, as a shell starts it.
fn start(project: &Project) -> Running {
    let in_a_group = |c: &mut Command| {
        c.process_group(0);
    };
    autofit(project.path()).with_python().line(TUNE).limit(LONG).also(in_a_group).start()
}

/// What Ctrl-C on a terminal does.
fn ctrl_c(running: &Running) {
    // SAFETY: the group is the running child's own.
    assert_eq!(unsafe { libc::kill(-running.pid(), libc::SIGINT) }, 0);
}

fn observations(project: &Project) -> usize {
    project.journal().iter().filter(|l| l.to_string().contains("\"observation\"")).count()
}

fn started(project: &Project) -> usize {
    project.journal().iter().filter(|l| l.to_string().contains("\"started\"")).count()
}

#[test]
fn ctrl_c_once_stops_after_the_trial_and_keeps_what_was_measured() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    let mut running = start(&project);
    running.wait_until("one trial is over and another runs", || started(&project) >= 2);
    ctrl_c(&running);
    let end = running.finish().expect(130).leaves_no_process();
    assert!(observations(&project) >= 1, "{:?}", project.journal());
    project.assert_unchanged(&before);

    // The best so far is there to be used, and is not called more than that.
    let result = project.result();
    assert_eq!(result["status"], "interrupted");
    assert_eq!(result["exit_status"], 130);
    assert!(result["winner"]["trial"].is_u64(), "{result:#}");
    assert_eq!(result["confirmed"], serde_json::Value::Null, "no claim without a launch");
    assert!(project.read("autofit.env").contains("# confirmed: NO, the search was stopped before"));
    end.prints("the best so far").prints("next:").prints("run -- python tiny.py --epochs 200");
}

#[test]
fn ctrl_c_twice_stops_now() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    let mut running = start(&project);
    running.wait_until("a trial runs", || started(&project) >= 1);
    std::thread::sleep(Duration::from_secs(2));
    ctrl_c(&running);
    std::thread::sleep(Duration::from_millis(300));
    ctrl_c(&running);
    running.finish().expect(130).leaves_no_process();
    project.assert_unchanged(&before);
}

#[test]
fn after_sigkill_nothing_runs_on_and_the_next_call_goes_on_from_the_journal() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    let mut running = start(&project);
    running.wait_until("one trial is over and another runs", || started(&project) >= 2);
    running.signal(libc::SIGKILL);
    running.finish().expect(137).leaves_no_process();
    project.assert_unchanged(&before);
    let kept = observations(&project);
    assert!(kept >= 1);

    let end = start(&project).finish().expect(0).leaves_no_process();
    let trials = project.result()["trials"].as_array().unwrap().len();
    assert!(trials >= kept, "{} of {kept} kept\n{}", trials, end.stderr);
    assert!(trials <= 7, "trials before the kill count: {trials}\n{}", end.stderr);
    project.assert_unchanged(&before);
}
