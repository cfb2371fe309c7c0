//! The sampler on real processes.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use autofit::watch::{Sampler, SamplerOptions, host};

const MIB: u64 = 1 << 20;

/// Exactly one process: what `python3` names may be a shell script.
fn interpreter() -> String {
    let out = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn python(code: &str) -> Child {
    Command::new(interpreter()).args(["-c", code]).stdin(Stdio::piped()).spawn().unwrap()
}

fn sample(child: &Child) -> Sampler {
    let root = child.id();
    Sampler::start(Arc::new(move || host::descendants(root)), SamplerOptions::default()).unwrap()
}

#[test]
fn memory_that_comes_and_goes_is_seen_at_its_highest() {
    let mut child =
        python("import time\nx = bytearray(300 << 20)\ntime.sleep(0.6)\ndel x\ntime.sleep(0.4)\n");
    let sampler = sample(&child);
    child.wait().unwrap();
    let s = sampler.stop();
    let peak = s.host.peak.unwrap();
    assert!(peak > 300 * MIB && peak < 400 * MIB, "{:?}", s.host);
    assert!(s.host.process_high_water >= peak, "{:?}", s.host);
    assert!(s.series.points.iter().any(|p| p.host == peak), "the peak is in the series");
    assert!(s.devices.is_empty() && s.device_peak().is_none());
}

#[test]
fn pages_shared_with_forked_workers_are_counted_once() {
    // A parent of 200 MiB and three forked children that only read it: 200 MiB and a little, not 800.
    let code = "import os, sys, time\nx = bytearray(200 << 20)\n\
                for i in range(3):\n    if os.fork() == 0:\n        time.sleep(30)\n        os._exit(0)\n\
                sys.stdin.read()\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.killpg(0, signal.SIGTERM)\n";
    let mut child = {
        use std::os::unix::process::CommandExt;
        Command::new(interpreter()).args(["-c", code]).stdin(Stdio::piped()).process_group(0).spawn().unwrap()
    };
    let sampler = sample(&child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while sampler.latest().processes < 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(child.stdin.take());
    child.wait().unwrap();
    let s = sampler.stop();
    assert!(s.host.exact && s.host.processes >= 4 && s.host.rss_peak > 700 * MIB, "{:?}", s.host);
    let peak = s.host.peak.unwrap();
    assert!(peak > 200 * MIB && peak < 320 * MIB, "{:?}", s.host);
}

#[test]
fn shared_memory_files_are_seen() {
    let file = format!("/dev/shm/autofit-watch-{}", std::process::id());
    let code = format!("import time\nopen('{file}', 'wb').write(bytes(64 << 20))\ntime.sleep(0.5)\n");
    let mut child = python(&code);
    let sampler = sample(&child);
    child.wait().unwrap();
    let s = sampler.stop();
    std::fs::remove_file(&file).unwrap();
    assert!(s.shm_peak.unwrap() >= 60 * MIB, "{:?}", s.shm_peak);
}

#[test]
fn the_trials_own_work_is_not_a_disturbance() {
    let mut child = python("import time\nwhile time.process_time() < 1: pass\n");
    let sampler = sample(&child);
    child.wait().unwrap();
    let s = sampler.stop();
    let (first, last) = (s.load.first().unwrap(), s.load.last().unwrap());
    let ours = last.ours - first.ours;
    // One second, less what it did before the first and after the last look.
    assert!(ours > 0.6 && ours < 1.4, "{ours}");
    assert!(s.disturbance.other_cpu <= (last.busy - first.busy - ours) / (last.at - first.at) + 1e-6);
}

#[test]
fn watching_is_cheap_and_figures_are_there_while_it_runs() {
    let mut child = python("import time\nx = bytearray(50 << 20)\ntime.sleep(1.5)\n");
    let sampler = sample(&child);
    let deadline = Instant::now() + Duration::from_secs(5);
    while sampler.latest().host.unwrap_or(0) < 50 * MIB && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(sampler.latest().host.unwrap() > 50 * MIB);
    child.wait().unwrap();
    let s = sampler.stop();
    // The bound is 2 % of a core; building without optimisation and a busy machine get room.
    assert!(s.cost.cpu_seconds < 0.06 * s.seconds, "{:?} in {} s", s.cost, s.seconds);
    assert!(s.cost.host_samples >= 3, "{:?}", s.cost);
}

#[test]
fn a_dropped_sampler_ends_its_thread() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let alive = Arc::new(());
    let weak = Arc::downgrade(&alive);
    let sampler = Sampler::start(
        Arc::new(move || {
            let _hold = &alive;
            vec![]
        }),
        SamplerOptions::default(),
    )
    .unwrap();
    assert!(threads() > 1 && weak.upgrade().is_some());
    drop(sampler);
    assert!(weak.upgrade().is_none(), "the thread still holds its closure");
}
