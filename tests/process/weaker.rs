//! This very program, run again by a user without privileges, and where the kernel refuses namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// In a new user namespace, whose limits it then sets to "no more namespaces".
const REFUSING: [&str; 7] = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "for kind in user mnt pid; do echo 0 > /proc/sys/user/max_${kind}_namespaces || exit 99; done; exec \"$@\"",
    "sh",
];

/// Runs some of the tests below a command that changes who we are.  Needs root, as the tests of a package build have.
fn again(before: &[&str], containment: &str, tests: &[&str], work: Option<&Path>) {
    assert!(nix::unistd::geteuid().is_root(), "only root can become somebody else: run these tests as root");
    let out = tempfile::tempdir().unwrap();
    fs::set_permissions(out.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build directory may be closed to others.
    let (test, helper) = (out.path().join("test"), out.path().join("autofit"));
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_autofit"), &helper).unwrap();
    let result = Command::new(before[0])
        .args(&before[1..])
        .arg(&test)
        .args(tests)
        .env("AUTOFIT_TEST_HELPER", &helper)
        .env("AUTOFIT_TEST_CONTAINMENT", containment)
        .env("AUTOFIT_TEST_WORK", work.unwrap_or(Path::new("")))
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&result.stdout);
    assert!(result.status.success(), "{text}\n{}", String::from_utf8_lossy(&result.stderr));
    assert!(!text.contains("running 0 tests"), "{text}");
}

#[test]
fn without_privileges() {
    again(&NOBODY, "namespace", &["traces::", "ends::", "anywhere::"], None);
}

#[test]
fn where_namespaces_are_refused_but_a_cgroup_is_not() {
    again(&REFUSING, "cgroup", &["ends::", "anywhere::"], None);
}

#[test]
fn where_everything_is_refused() {
    let both = [&NOBODY[..], &REFUSING[..]].concat();
    again(&both, "group", &["ends::", "anywhere::"], None);
}

/// A project of somebody without privileges below directories of root, with files of a group that is not his first.
#[test]
fn below_directories_and_beside_files_of_others() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let project = place.path().join("deep/project");
    fs::create_dir_all(project.join("shared")).unwrap();
    fs::write(project.join("shared/log"), "old").unwrap();
    fs::write(project.join("shared.txt"), "old").unwrap();
    let own = |path: &Path, uid, gid, mode| {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    own(&project, 65534, 65534, 0o755);
    // Group 100, which the next user is a member of.
    own(&project.join("shared"), 0, 100, 0o2775);
    own(&project.join("shared/log"), 0, 100, 0o664);
    own(&project.join("shared.txt"), 0, 100, 0o664);
    let member = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=100"];
    again(
        &member,
        "namespace",
        &["--ignored", "--exact", "weaker::in_somebodys_project"],
        Some(place.path()),
    );
}

/// Part of [`below_directories_and_beside_files_of_others`].
#[test]
#[ignore = "part of another test"]
fn in_somebodys_project() {
    use autofit::sandbox::Isolation;
    let place =
        std::path::PathBuf::from(std::env::var_os("AUTOFIT_TEST_WORK").expect("not to be started by hand"));
    let script = "
import os
os.makedirs('out/deep'); open('out/deep/x', 'w').write('x')
open('shared/log', 'a').write(' and new')
open('shared/other', 'w').write('new')
open('shared.txt', 'w').write('new')
os.remove('shared.txt')
print(open('shared/log').read())
try: open('../refused', 'w')
except OSError as e: print(e.errno)
";
    let case = crate::support::python(script).with(|l| {
        l.isolation = Isolation::Overlay;
        l.cwd = place.join("deep/project");
    });
    // All of it works outside, too: that is what makes it a trial's right.
    fs::write(place.join("deep/project/shared/probe"), "").unwrap();
    fs::remove_file(place.join("deep/project/shared/probe")).unwrap();
    let before = crate::traces::fingerprint(&place);
    let (ended, tail) = case.run();
    assert_eq!(tail, ["old and new", "13"], "{ended:?}");
    assert_eq!(crate::traces::fingerprint(&place), before);
}

/// HOME with another file system mounted inside: as root and without privileges.
#[test]
fn with_file_systems_mounted_inside() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let project = place.path().join("project");
    fs::create_dir_all(project.join("data")).unwrap();
    fs::write(project.join("model.pt"), "weights").unwrap();
    for path in [&project, &project.join("model.pt"), &project.join("data")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let mount = format!(
        "mount -t tmpfs -o uid=65534,gid=65534 t {data} && echo in > {data}/input && \
         chown 65534:65534 {data}/input && exec \"$@\"",
        data = project.join("data").display()
    );
    let inside = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let test = ["--ignored", "--exact", "weaker::in_a_project_with_a_mount"];
    again(&inside, "namespace", &test, Some(place.path()));
    let unprivileged = [&inside[..], &NOBODY[..]].concat();
    again(&unprivileged, "namespace", &test, Some(place.path()));
}

/// Part of [`with_file_systems_mounted_inside`].
#[test]
#[ignore = "part of another test"]
fn in_a_project_with_a_mount() {
    use autofit::sandbox::Isolation;
    let place =
        std::path::PathBuf::from(std::env::var_os("AUTOFIT_TEST_WORK").expect("not to be started by hand"));
    let script = "
import os
print(open('data/input').read().strip())
open('data/input', 'w').write('new'); os.remove('data/input'); open('data/more', 'w').write('x')
open('model.pt', 'w').write('new'); open('new.pt', 'w').write('new')
os.makedirs('runs/1'); open('runs/1/x', 'w').write('x')
";
    let case = crate::support::python(script).with(|l| {
        l.isolation = Isolation::Overlay;
        l.cwd = place.join("project");
    });
    let before = crate::traces::fingerprint(&place);
    let (ended, tail) = case.run();
    assert_eq!(ended.end, autofit::process::ProcessEnd::Exited { code: 0 }, "{tail:#?}");
    assert_eq!(tail, ["in"]);
    assert_eq!(crate::traces::fingerprint(&place), before);
}
