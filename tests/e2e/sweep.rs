//! `autofit try --sweep`: several configurations in one launch.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(600);

/// A batch of fewer than eight samples breaks it.
const TRAIN: &str = r#"
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)
blocks = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(4)]
model = nn.Sequential(*blocks, nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
data = TensorDataset(torch.randn(3200, 32))
while True:
    for (x,) in DataLoader(data, batch_size=32):
        assert len(x) >= 8, "too small a batch"
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).pow(2).mean().backward()
        optimizer.step()
"#;

#[test]
fn several_configurations_are_measured_in_one_launch_and_the_script_is_not_blamed_for_a_window() {
    let _turn = alone();
    let project = Project::new().file("train.py", TRAIN);
    let before = project.snapshot();
    let end = autofit(project.path())
        .with_python()
        .arg("try")
        .arg("--sweep")
        .arg("checkpoint=all;optimizer=fused;batch_size=4;batch_size=16;tf32=true")
        .line("--device cpu --json -- python train.py")
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    project.assert_unchanged(&before);
    let said: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    let trials = said["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 2, "{trials:#?}");
    let swept = &trials[1];
    assert_eq!(swept["purpose"], "sweep");
    assert!(["fit", "disturbed"].contains(&swept["verdict"].as_str().unwrap()), "{swept:#}");
    assert!(
        swept["why"].as_str().unwrap().contains("the launch ended in the window of batch_size=4"),
        "{swept:#}"
    );
    let windows = swept["windows"].as_array().unwrap();
    for measured in [0, 1, 3] {
        let window = &windows[measured];
        let ratio = window["ratio"]["ratio"].as_f64().unwrap();
        assert!(ratio > 0.05 && ratio < 20.0, "{window:#}");
        assert!(window["peak"].as_u64().unwrap() > 50 << 20, "{window:#}");
        assert!(window["why_not"].is_null(), "{window:#}");
    }
    assert_eq!(
        (windows[0]["samples_per_step"].as_f64(), windows[3]["samples_per_step"].as_f64()),
        (Some(32.0), Some(16.0))
    );
    assert!(windows[2]["ratio"].is_null() && windows[2]["too_large"].is_null(), "{:#}", windows[2]);
    assert!(windows[2]["why_not"].as_str().unwrap().contains("too small a batch"), "{:#}", windows[2]);
    assert!(
        windows[4]["why_not"].as_str().unwrap().contains("a switch of NVIDIA's libraries"),
        "{:#}",
        windows[4]
    );
}
