//! The private environment is made for real (with small packages), once, and is whole.

use crate::support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autofit::pyenv::{Notice, Python, Setup, ensure_with};

#[test]
fn two_callers_at_once_make_one_environment_and_the_third_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup {
        python: "python3".into(),
        root: dir.path().join("autofit/python"),
        name: "six".into(),
        base: None,
        packages: vec!["six==1.16.0".into()],
        module: "six".into(),
        oldest: (3, 8),
        free_needed: 1 << 20,
        announcement: "small".into(),
    };
    let announced = AtomicU32::new(0);
    let make = || {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let python = ensure_with(&setup, &mut |notice| {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if notice == Notice::Announce("small".into()) {
                announced.fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
        (python, longest)
    };
    let results: Vec<(Python, Duration)> = thread::scope(|s| {
        let callers = [s.spawn(make), s.spawn(make)];
        callers.map(|c| c.join().unwrap()).into()
    });
    assert_eq!(results[0].0, results[1].0);
    assert_eq!(results[0].0.torch_version, "1.16.0");
    assert_eq!(announced.load(Ordering::Relaxed), 1, "the second caller waited instead of making it again");
    for (_, longest) in &results {
        // Two seconds are the goal; the bound only tells a sign of life from silence, on however busy a machine.
        assert!(*longest < Duration::from_secs(20), "silent for {longest:?}");
    }
    let began = Instant::now();
    assert_eq!(make().0, results[0].0);
    assert_eq!(announced.load(Ordering::Relaxed), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "found, not made");
}

#[test]
fn the_environment_of_the_tests_imports_torch_and_numpy() {
    let python = support::python();
    let dir = tempfile::tempdir().unwrap();
    let end = support::plain(&python.path, dir.path())
        .arg("-c")
        .arg("import torch, numpy; print(torch.__version__)")
        .finish()
        .expect(0)
        .leaves_no_process();
    assert_eq!(end.stdout.trim(), python.torch_version);
}
