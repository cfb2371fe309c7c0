//! What was alive when memory ran out, end to end with real PyTorch: told by the search, its report, and `diagnose`.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{Project, alone, autofit};

const MIB: u64 = 1 << 20;

#[test]
fn a_search_tells_what_filled_the_memory() {
    let _turn = alone();
    let project = Project::new().file("hungry.py", include_str!("support/scripts/hungry.py"));
    let done = autofit(project.path())
        .with_python()
        .line("--device cpu --max-trials 1 -- python hungry.py")
        .env("OMP_NUM_THREADS", "1")
        .finish()
        .expect(3)
        .leaves_no_process();
    assert!(done.stdout.contains("filled: when trial 1 ran out, tensors on cpu held "), "{}", done.stdout);
    assert!(done.stderr.contains("oom-1.pickle, for pytorch.org/memory_viz"), "{}", done.stderr);

    let said = autofit(project.path()).line("diagnose . --json").finish().expect(0);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&said["kind"], &said["trial"]), (&"host_oom".into(), &1.into()), "{said:#}");
    let filled = &said["filled"];
    let parts = filled["categories"].as_object().unwrap();
    assert_eq!(parts["parameters"], 24 * 4 * (512 * 512 + 512));
    // Some of the layers' results, and the sum of all is what is held.
    assert!(parts["activations"].as_u64().unwrap() >= 4 * 32 * MIB, "{filled:#}");
    assert_eq!(parts.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), filled["bytes"]);
    assert_eq!(filled["blocks"][0]["shape"], serde_json::json!([16384, 512]), "{filled:#}");

    let text = autofit(project.path()).line("diagnose .").finish().expect(0);
    assert!(text.stdout.starts_with("trial 1, baseline: host out of memory (host_oom)\n"), "{}", text.stdout);
    assert!(text.stdout.contains("\nWhat filled it, "), "{}", text.stdout);

    // The search's own files have it, too.
    let folder = std::fs::read_dir(project.path().join(".autofit")).unwrap();
    let id = folder
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .find(|n| !n.contains('.') && n != "lock");
    let file = |name: &str| project.read(&format!(".autofit/{}/{name}", id.as_ref().unwrap()));
    assert_eq!(file("oom-1.pickle"), "stands for a snapshot");
    assert!(file("report.md").contains("**filled**: when trial 1 ran out"));
    assert!(file("report.html").contains("when trial 1 ran out, tensors on cpu held"));
    let result: Value = serde_json::from_str(&file("result.json")).unwrap();
    assert_eq!(result["trials"][0]["oom"]["filled"], *filled);
}
