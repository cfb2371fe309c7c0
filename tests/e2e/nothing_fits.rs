//! Where nothing fits: how far each rung was from it, and what would fit if it were allowed.  Never taken in silence.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(400);

/// BatchNorm and no repeated blocks: neither a split batch nor recomputation is for it, only a smaller batch.
const SCRIPT: &str = r#"
import argparse
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=128)
args = parser.parse_args()
torch.manual_seed(0)
x = torch.randn(256, 1, 64, 64)
y = (x.mean((1, 2, 3)) > 0).long()
layers = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3, padding=1)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64 * 64, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(8):
    for images, labels in DataLoader(TensorDataset(x, y), args.batch_size, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
"#;

/// So that the test takes as few launches as it can.
const RECIPE: &str = "
about: nothing but the batch can make it fit
knobs:
  malloc: {off: true}
  amp: {off: true}
  omp_threads: {off: true}
  num_workers: {off: true}
  channels_last: {off: true}
  inplace: {off: true}
  optimizer: {off: true}
ladder: [accumulation]
";

/// Seen: 128 samples need some 650 MiB and 64 some 520; 16 take some 430, and 410 with nothing to spare.
const CAP: &str = "460MiB";

#[test]
fn what_fits_only_beyond_the_bound_is_measured_and_offered_and_taken_only_when_accepted() {
    let _turn = alone();
    let project = Project::new().file("bn.py", SCRIPT).file("batch.yaml", RECIPE);
    let before = project.snapshot();
    let line = format!("--recipe batch.yaml --device cpu --memory-cap {CAP} --max-trials 7 --");
    let end = autofit(project.path())
        .with_python()
        .line(&line)
        .line("python bn.py")
        .limit(LONG)
        .finish()
        .expect(3)
        .prints("nothing fits with numerics up to precision, but batch_size=")
        .prints("short: baseline")
        .prints("more than 460 MiB needed; memory ran out before the first step was done")
        .prints("it is of class dynamics, so it is only taken when asked for (option: --batch lower)")
        .prints("skipped: accumulation: BatchNorm takes its statistics from the whole batch")
        .prints("--batch lower -- python bn.py")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists(), "never a silent step:\n{}", end.stdout);
    project.assert_unchanged(&before);
    let result = project.result();
    assert_eq!(result["status"], "nothing_fits");
    assert_eq!(result["winner"], serde_json::Value::Null);
    let advice = &result["advice"][0];
    assert_eq!(advice["option"], "--batch lower");
    let trials = result["trials"].as_array().unwrap();
    let offered = trials.iter().find(|t| t["trial"] == advice["trial"]).unwrap();
    assert_eq!(offered["purpose"], "advice", "{offered:#}");
    assert!(["fit", "disturbed"].contains(&offered["verdict"].as_str().unwrap()), "measured: {offered:#}");
    let oom = &trials[0]["oom"];
    assert!(oom["at_least_bytes"].as_u64().unwrap() >= 460 << 20, "{oom:#}");

    // The answer is given: it goes on from what was measured.
    let end = autofit(project.path())
        .with_python()
        .line("--yes")
        .line(&line)
        .line("python bn.py")
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    let accepted = project.result();
    assert_eq!(accepted["trials"][0], trials[0], "launched again:\n{}", end.stderr);
    assert!(accepted["winner"]["settings"]["batch_size"].as_u64().unwrap() < 128, "{:#}", accepted["winner"]);
    assert!(project.read("autofit.env").contains("settings: batch_size="));
}

#[test]
fn a_limit_below_what_torch_itself_needs_ends_with_nothing_fits() {
    let _turn = alone();
    let project = Project::with_tiny();
    let before = project.snapshot();
    autofit(project.path())
        .with_python()
        .line("--device cpu --memory-cap 64MiB --max-trials 6 -- python tiny.py")
        .limit(LONG)
        .finish()
        .expect(3)
        .prints("nothing fits: memory ran out before the script's model was first called")
        .prints("short: baseline")
        .prints("more than 64.0 MiB needed; memory ran out before the first step was done")
        .prints("skipped: checkpoint: memory ran out before the script came to where it is turned")
        .prints("advice: nothing that may be turned for this script is left; a higher --memory-cap is")
        .leaves_no_process();
    assert!(!project.path().join("autofit.env").exists());
    project.assert_unchanged(&before);
}
