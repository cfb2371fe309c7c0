//! What trials may use: the limit that is said is the one that is in force.

use std::time::Duration;

use crate::support::{Project, alone, autofit};

const LONG: Duration = Duration::from_secs(400);

/// Holds 400 MiB beside what PyTorch needs.
const TRAIN: &str = r#"
import torch
from torch import nn

torch.set_num_threads(1)
held = torch.ones(100 << 20)
model = nn.Linear(32, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(40):
    optimizer.zero_grad()
    model(torch.randn(8, 32)).pow(2).mean().backward()
    optimizer.step()
"#;

#[test]
fn a_margin_is_kept_free_in_every_trial() {
    let _turn = alone();
    let project = Project::new().file("train.py", TRAIN);
    let tried = |margin: &str, status: i32| {
        let end = autofit(project.path())
            .with_python()
            .line(&format!(
                "try --device cpu --memory-cap 1000MiB --margin {margin} --json -- python train.py"
            ))
            .limit(LONG)
            .finish()
            .expect(status)
            .leaves_no_process();
        serde_json::from_str::<serde_json::Value>(&end.stdout).unwrap()
    };
    let (whole, less) = (tried("0%", 0), tried("0.6", 3));
    assert_eq!((&whole["cap"]["bytes"], &whole["cap"]["margin_bytes"]), (&(1000u64 << 20).into(), &0.into()));
    let figures = (&less["cap"]["bytes"], &less["cap"]["margin_bytes"]);
    assert_eq!(figures, (&(400u64 << 20).into(), &(600u64 << 20).into()));
    // Which of them depends on whose pages of libtorch are in memory already: see `trial::reclaim`.
    let verdict = less["trials"][0]["verdict"].as_str().unwrap();
    assert!(["oom", "thrash"].contains(&verdict), "{:#}", less["trials"]);
}
