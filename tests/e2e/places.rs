//! Places that cannot be used: read-only, full, taken by another search.  Status 6, what to do, and nothing is lost.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::command::{Run, Running};
use crate::support::{Project, alone, autofit, plain};

/// A refusal before anything is launched must be quick.
const AT_ONCE: Duration = Duration::from_secs(20);

/// autofit where this shell line has changed what is mounted; nobody else sees that.  Needs root.
fn where_mounted(mounts: &str, dir: &Path) -> Run {
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can mount what this test needs: run these tests as root"
    );
    let script = format!("{mounts} && cd . && exec \"$@\"");
    plain("unshare", dir).line("--mount sh -ec").arg(script).arg("sh").arg(env!("CARGO_BIN_EXE_autofit"))
}

/// A folder of the project as a file system in memory of that size, and the mount command for it.
fn small(project: &Project, name: &str, size: &str) -> (PathBuf, String) {
    let place = project.path().join(name);
    fs::create_dir(&place).unwrap();
    let mount = format!("mount -t tmpfs -o size={size} small {}", place.display());
    (place, mount)
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_anything_runs() {
    let project = Project::with_tiny();
    // Nobody, not even root, makes files in /proc.
    autofit(project.path())
        .line("--out /proc -- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says("/proc")
        .leaves_no_process();
}

#[test]
fn a_read_only_folder_is_refused_before_anything_runs() {
    let project = Project::with_tiny();
    let before = project.snapshot();
    let here = project.path().display();
    let mounts = format!("mount --bind {here} {here} && mount -o remount,bind,ro {here} && cd {here}");
    for line in ["-- python3 tiny.py", "--out below -- python3 tiny.py"] {
        where_mounted(&mounts, project.path())
            .line(line)
            .limit(AT_ONCE)
            .finish()
            .expect(6)
            .says("read-only filesystem")
            .says("name another folder with --out DIR")
            .does_not_say("trial 1")
            .leaves_no_process();
    }
    assert!(!project.path().join(".autofit").exists());
    project.assert_unchanged(&before);
}

#[test]
fn no_space_for_the_result_is_refused_before_anything_runs() {
    let project = Project::with_tiny();
    let (full, mount) = small(&project, "full", "64k");
    for fill in ["true", "head -c 1M /dev/zero > full/fill || true"] {
        where_mounted(&format!("{mount} && {{ {fill}; }} 2> /dev/null"), project.path())
            .line("--out full -- python3 tiny.py")
            .limit(AT_ONCE)
            .finish()
            .expect(6)
            .says(&format!("no space left for {}", full.display()))
            .says("or name another folder with --out DIR")
            .does_not_say("trial 1")
            .leaves_no_process();
    }
}

#[test]
fn no_space_for_what_trials_write_is_refused_before_anything_runs() {
    let project = Project::with_tiny();
    let (full, mount) = small(&project, "full", "1M");
    where_mounted(&mount, project.path())
        .env("AUTOFIT_SCRATCH", &full)
        .line("-- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says(&format!("no space left in {}", full.display()))
        .says("name another place with AUTOFIT_SCRATCH=DIR")
        .does_not_say("trial 1")
        .leaves_no_process();
    autofit(project.path())
        .env("AUTOFIT_SCRATCH", "/proc/nowhere")
        .line("-- python3 tiny.py")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says("there is no place for trials: /proc/nowhere: ")
        .says("name one with AUTOFIT_SCRATCH=DIR");
}

#[test]
fn a_trial_that_fails_because_its_place_is_full_is_not_held_against_the_script() {
    let _turn = alone();
    let project = Project::new().file("big.py", "open('big', 'wb').write(bytes(64 << 20))\n");
    let before = project.snapshot();
    let (full, mount) = small(&project, "full", "24M");
    where_mounted(&mount, project.path())
        .env("AUTOFIT_SCRATCH", &full)
        .line("--device cpu -- python3 big.py")
        .finish()
        .expect(6)
        .says("failed because no space was left in")
        .says("name another place with AUTOFIT_SCRATCH=DIR")
        .says("type the same command again")
        .leaves_no_process();
    fs::remove_dir(&full).unwrap();
    project.assert_unchanged(&before);
}

fn lines_with(journal: &str, word: &str) -> usize {
    journal.lines().filter(|l| l.contains(word)).count()
}

/// The journal of the only search below `out`; empty as long as there is none.
fn journal_below(out: &Path) -> String {
    let folders = fs::read_dir(out.join(".autofit")).into_iter().flatten().flatten();
    folders.filter_map(|d| fs::read_to_string(d.path().join("journal.jsonl")).ok()).collect()
}

#[test]
fn space_that_runs_out_in_the_middle_loses_nothing_that_was_measured() {
    let _turn = alone();
    let project = Project::with_tiny();
    let (out, mount) = small(&project, "out", "12M");
    // What lies in memory is gone with the last process: kept first.
    let kept = project.path().join("kept");
    let script = format!(
        "{mount} && {{ status=0; \"$@\" || status=$?; cp -r out kept; rm kept/fill; exit $status; }}; :"
    );
    let mut running = plain("unshare", project.path())
        .with_python()
        .line("--mount sh -ec")
        .arg(script)
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_autofit"))
        .line("--device cpu --max-trials 6 --out out -- python tiny.py --epochs 200")
        .start();
    // As the processes in there see it.
    let seen = PathBuf::from(format!("/proc/{}/root", running.pid())).join(out.strip_prefix("/").unwrap());
    running.wait_until("one trial is over and another runs", || {
        lines_with(&journal_below(&seen), "\"started\"") >= 2
    });
    fill(&seen.join("fill"));
    running
        .finish()
        .expect(6)
        .says("no space left for")
        .says("what was measured is kept")
        .says("type the same command again")
        .leaves_no_process();
    let journal = journal_below(&kept);
    let measured = lines_with(&journal, "\"observation\"");
    assert!(measured >= 1, "{journal}");
    assert!(journal.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "{journal}");

    // With room again it goes on from there; no launch is allowed beyond those that were made.
    let end = autofit(project.path())
        .with_python()
        .line("--device cpu --max-trials 1 --out kept -- python tiny.py --epochs 200")
        .limit(AT_ONCE)
        .finish();
    assert!(end.stderr.contains(&format!("{measured} trial")), "{}\n{}", end.stderr, end.stdout);
    end.does_not_say("baseline: started").leaves_no_process();
}

/// Writes until nothing more goes in.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(file).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_second_search_in_the_same_folder_is_refused_and_says_by_whom() {
    let _turn = alone();
    let project = Project::with_tiny();
    let search = |epochs: &str| {
        let own_group = |c: &mut std::process::Command| {
            c.process_group(0);
        };
        autofit(project.path())
            .with_python()
            .line("--device cpu -- python tiny.py --epochs")
            .arg(epochs)
            .also(own_group)
    };
    let mut first: Running = search("200").start();
    first.wait_until("a trial runs", || lines_with(&journal_below(project.path()), "\"started\"") >= 1);
    let holder = format!("as process {}", first.pid());
    search("200")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says("this search is already running")
        .says(&holder)
        .leaves_no_process();
    search("201")
        .limit(AT_ONCE)
        .finish()
        .expect(6)
        .says(&format!("another search is running in {}", project.path().display()))
        .says(&holder)
        .says("--out DIR")
        .does_not_say("trial 1")
        .leaves_no_process();
    first.signal(libc::SIGTERM);
    first.finish().expect(143).leaves_no_process();
}
