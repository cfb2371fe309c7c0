//! The cap on a tree's memory, and what is read while it runs.

use autofit::process::{ProcessEnd, machine_limit};

use crate::support::{python, wait};

const MIB: u64 = 1 << 20;

#[test]
fn the_kernel_enforces_the_cap_on_the_tree() {
    let case = python(
        "import os, time\n\
         child = os.fork()\n\
         x = bytearray(80 << 20)\n\
         time.sleep(5)",
    )
    .with(|l| l.memory_limit = Some(128 * MIB));
    let running = case.start().unwrap();
    assert_eq!(running.cap().scope, "process tree");
    let dir = running.cgroup().unwrap().to_owned();
    assert!(dir.exists());
    let ended = wait(&running);
    assert!(ended.oom_kills > 0, "{ended:?}");
    assert!(ended.peak_bytes.unwrap() <= 128 * MIB);
    assert!(ended.cleaned && !dir.exists());
}

#[test]
fn the_peak_is_anonymous_and_shared_memory_without_page_cache() {
    let case = python(
        "import mmap, time\n\
         open('file', 'wb').write(bytes(200 << 20))\n\
         open('file', 'rb').read(1)\n\
         x = bytearray(100 << 20)\n\
         y = mmap.mmap(-1, 50 << 20); y.write(bytes(50 << 20))\n\
         time.sleep(0.5)",
    )
    .with(|l| l.memory_limit = Some(700 * MIB));
    let (ended, _) = case.run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 });
    let peak = ended.peak_bytes.unwrap();
    // 100 anonymous + 50 shared + the interpreter; zeros that were only read are no memory yet.
    assert!((150 * MIB..190 * MIB).contains(&peak), "{} MiB", peak / MIB);
    assert_eq!((ended.oom_kills, ended.cap.bytes), (0, Some(700 * MIB)));
    assert!(ended.cap.mechanism.starts_with("cgroup"));
}

#[test]
fn no_cap_is_said_to_be_none() {
    let (ended, _) = python("x = bytearray(60 << 20); import time; time.sleep(0.3)").run();
    assert_eq!((ended.cap.bytes, ended.cap.mechanism.as_str()), (None, "none"));
    assert!(ended.peak_bytes.unwrap() > 60 * MIB);
    assert!(machine_limit() > 60 * MIB);
}

#[test]
fn groups_of_killed_launchers_are_removed_and_those_of_living_ones_kept() {
    let living = python("import time; time.sleep(30)");
    let running = living.start().unwrap();
    let place = running.cgroup().unwrap().parent().unwrap().to_owned();
    // No process has this number: it is above the kernel's largest.
    let left = place.join("autofit-99999999-0");
    std::fs::create_dir(&left).unwrap();
    python("pass").run();
    assert!(!left.exists(), "the group of a process that is gone");
    assert!(running.cgroup().unwrap().exists(), "the group of a trial that runs");
}
