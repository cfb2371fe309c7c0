//! The script's own options are set where its command line is read, and read back.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(600);

/// Constants at the top that the command line overrides, and a loop that accumulates by itself.
const TRAIN: &str = r#"
import torch
from torch import nn

batch_size = 12
accumulation_steps = 2
exec(open("configurator.py").read())

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.randn(40 * batch_size * accumulation_steps, 32)
parts = iter(data.split(batch_size))
for _ in range(40):
    for _ in range(accumulation_steps):
        x = next(parts)
        loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
        (loss / accumulation_steps).backward()
    optimizer.step()
    optimizer.zero_grad()
"#;

const CONFIGURATOR: &str = r#"
import sys
from ast import literal_eval

for arg in sys.argv[1:]:
    key, value = arg[2:].split("=")
    globals()[key] = literal_eval(value)
"#;

#[test]
fn batch_and_accumulation_are_set_together() {
    let _turn = alone();
    let project = Project::new().file("train.py", TRAIN).file("configurator.py", CONFIGURATOR);
    let before = project.snapshot();
    let end = autofit(project.path())
        .with_python()
        .line("try --set accumulation=3 --device cpu --json -- python train.py --batch_size=24")
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    project.assert_unchanged(&before);
    let said: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    let knobs = said["knobs"].as_array().unwrap();
    let knob = knobs.iter().find(|k| k["name"] == "accumulation").unwrap();
    assert_eq!(knob["way"], "option");
    assert_eq!(knob["how"], "--accumulation_steps times the parts, and --batch_size divided by them");
    let trials = said["trials"].as_array().unwrap();
    let tried = trials.iter().find(|t| t["settings"]["accumulation"] == 3).unwrap();
    // A setting that is not read back, or losses that are not the whole batch's, would be said before a disturbance.
    assert!(["fit", "disturbed"].contains(&tried["verdict"].as_str().unwrap()), "{tried:#}");
}
