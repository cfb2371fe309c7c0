//! `autofit profile`, end to end with real PyTorch.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{Project, alone, autofit};

#[test]
fn a_configuration_is_profiled_and_nothing_else_is_written() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    let done = autofit(project.path())
        .with_python()
        .line("profile --device cpu --json --set checkpoint=all -- python tiny.py --epochs 200")
        .env("OMP_NUM_THREADS", "1")
        .finish()
        .expect(0)
        .leaves_no_process();
    let profile: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(profile["settings"]["checkpoint"], "all");
    let memory = &profile["memory"];
    let parts = memory["categories"].as_object().unwrap();
    let sum: u64 = parts.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((Some(sum), parts.len()), (memory["peak"].as_u64(), 9), "{memory:#}");
    let counted = memory["counted"].as_f64().unwrap();
    assert!((sum as f64 - counted).abs() <= 0.05 * counted, "{memory:#}");
    let lines = memory["blocks"].as_array().unwrap().iter().filter_map(|b| b["place"].as_str());
    assert!(lines.into_iter().any(|line| line.starts_with("tiny.py:")), "{memory:#}");
    // Four blocks of 64 to 128 and back, and a head to 2; floats.
    let parameters = 4 * (4 * (64 * 128 + 128 + 128 * 64 + 64) + 64 * 2 + 2);
    assert_eq!(parts["parameters"], parameters);
    assert!(
        profile["by_time"].as_array().unwrap().iter().any(|o| o["operator"] == "aten::addmm"),
        "{profile:#}"
    );
    assert_eq!(
        profile["files"],
        serde_json::json!(["autofit-profile/trace.json.gz", "autofit-profile/blocks.json"])
    );
    let trace = project.path().join("autofit-profile/trace.json.gz");
    assert!(trace.metadata().unwrap().len() > 1000);
    std::fs::remove_dir_all(project.path().join("autofit-profile")).unwrap();
    project.assert_unchanged(&before);
}

#[test]
fn a_script_without_a_steady_step_is_said_to_have_none() {
    let _turn = alone();
    let project = Project::new().file("fails.py", "import torch\nraise SystemExit('no data here')\n");
    let _ = autofit(project.path())
        .with_python()
        .line("profile --device cpu -- python fails.py")
        .finish()
        .expect(4)
        .says("no data here");
    assert!(!project.path().join("autofit-profile").exists());
}

/// Crashes at its third step, as native code does; with `once` only in the first launch, which leaves a file behind.
const CRASHES: &str = r#"
import ctypes, os, sys, torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
crashes = sys.argv[1] == "always" or not os.path.exists("left/seen")
for step in range(10**6):
    if step == 3 and crashes:
        open("left/seen", "w").close()
        ctypes.string_at(0)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
"#;

#[test]
fn a_crash_is_tried_once_more_and_says_where_it_was() {
    let _turn = alone();
    let project = Project::new().file("crashes.py", CRASHES).file("left/kept", "");
    let done = autofit(project.path())
        .with_python()
        .line("profile --device cpu --json -q --share left -- python crashes.py once")
        .finish()
        .expect(0);
    let profile: Value = serde_json::from_str(&done.stdout).unwrap();
    let notes = profile["notes"].as_array().unwrap();
    let said = "the process crashed while it trained (SIGSEGV); the profile is of a second launch";
    assert!(notes.iter().any(|note| note == said), "{profile:#}");
    // What happens again is no bad luck.
    let _ = autofit(project.path())
        .with_python()
        .line("profile --device cpu -q --share left -- python crashes.py always")
        .finish()
        .expect(4)
        .says("nothing was profiled (failed): was killed by signal SIGSEGV")
        .says("| Fatal Python error: Segmentation fault")
        .says("crashes.py\", line 9");
}
