//! The ways in which people start their training: the agent finds the process that trains.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(300);

/// One launch that looks; the root module must be found.
fn inspect(project: &Project, command: &str) {
    let _turn = alone();
    let before = project.snapshot();
    let end = autofit(project.path())
        .with_python()
        .line(&format!("inspect --device cpu --json -- {command}"))
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    let found: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    let roots = found["roots"].as_array().unwrap();
    assert_eq!(roots.len(), 1, "{found:#}");
    assert_eq!(roots[0]["class"], "Net", "{found:#}");
    assert_eq!(found["loaders"].as_array().unwrap().iter().filter(|l| l["training"] == true).count(), 1);
    project.assert_unchanged(&before);
}

#[test]
fn a_script() {
    inspect(&Project::with_tiny(), "python tiny.py --epochs 3");
}

#[test]
fn a_shell_script_that_changes_folder() {
    let project = Project::with_tiny()
        .file("jobs/train.sh", "#!/bin/bash\nset -e\ncd \"$(dirname \"$0\")/..\"\npython tiny.py \"$@\"\n");
    inspect(&project, "bash jobs/train.sh --epochs 3");
}

#[test]
fn a_module_of_a_package() {
    let project = Project::new()
        .file("pkg/__init__.py", "")
        .file("pkg/train.py", include_str!("../support/scripts/tiny.py"));
    inspect(&project, "python -m pkg.train --epochs 3");
}

#[test]
fn torchrun_with_one_process() {
    inspect(&Project::with_tiny(), "torchrun --standalone --nproc-per-node 1 tiny.py --epochs 3");
}
