//! Where neither PID namespaces nor cgroups are to be had, a kill can leave processes: the next start ends them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::command::{Running, helpers, tagged};
use crate::support::{Project, alone, autofit};

/// No cgroup in sight, and no namespace beyond this one.
const REFUSING: &str = "mount -t tmpfs none /sys/fs/cgroup || exit 98; \
    for kind in user mnt pid; do echo 0 > /proc/sys/user/max_${kind}_namespaces || exit 99; done; exec \"$@\"";

/// Set where [`REFUSING`] is in force.
const VARIABLE: &str = "AUTOFIT_TEST_REFUSED";

/// Takes no step before its launcher is gone.
const SCRIPT: &str = "import time, torch\ntime.sleep(600)\n";

#[test]
fn the_next_start_ends_what_a_kill_left_and_says_so() {
    let _turn = alone();
    let result = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", REFUSING, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "orphans::where_everything_is_refused"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&result.stdout);
    assert!(result.status.success(), "{text}\n{}", String::from_utf8_lossy(&result.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Both starts must be in the same namespace: in another they would not be allowed to see each other's environment.
#[test]
#[ignore = "part of another test"]
fn where_everything_is_refused() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let project = Project::new().file("waits.py", SCRIPT);
    let before = project.snapshot();
    // Any other start of this user that looks into the same place would end them, too.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut first = start(&project, scratch.path());
    let tag = first.tag();
    let runs = || tagged(&tag).iter().any(|(_, line)| line.starts_with("python "));
    first.wait_until("the script runs", runs);
    // The helper would end the script when it sees its launcher die.
    first.signal(libc::SIGSTOP);
    for (helper, _) in helpers() {
        // SAFETY: a helper keeps its number until its launcher reaps it, and that stands still.
        unsafe { libc::kill(helper, libc::SIGKILL) };
    }
    first.signal(libc::SIGKILL);
    let first = first.finish().expect(137);
    assert!(runs(), "nothing was left, so this shows nothing\n{}", first.stderr);

    let mut second = start(&project, scratch.path());
    second.wait_until("the next trial runs", || started(&project) == 2 && !helpers().is_empty());
    first.leaves_no_process();
    second.signal(libc::SIGTERM);
    let second = second
        .finish()
        .expect(143)
        .says("ended 1 process of a search that was killed")
        // The first may have been stopped before it came to say so.
        .says("no PID namespace here")
        .leaves_no_process()
        .leaves_no_helper();
    // No overlay without a namespace: what is said must be what there is.
    let weaker = |kind| second.stdout.contains(&format!("isolation: {kind}: "));
    assert!(weaker("landlock") || weaker("copy"), "{}", second.stdout);
    project.assert_unchanged(&before);
}

fn start(project: &Project, scratch: &Path) -> Running {
    autofit(project.path())
        .with_python()
        .env("AUTOFIT_SCRATCH", scratch)
        .line("--device cpu -- python waits.py")
        .limit(Duration::from_secs(60))
        .start()
}

fn started(project: &Project) -> usize {
    project.journal().iter().filter(|l| l["t"] == "started").count()
}
