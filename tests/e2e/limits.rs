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

/// The same with an evaluation that holds 150 MiB more for a while, once an epoch.
const EVALUATES: &str = r#"
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(256, 32)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(6):
    model.train()
    for a, b in loader:
        optimizer.zero_grad()
        (model(a) - b).pow(2).mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        every = torch.ones(150 << 18)
        print("mean", float(model(x).mean() + every.mean()))
        del every
"#;

/// So that the test takes as few launches as it can.
const RECIPE: &str = "
about: the script as it is
ladder: [accumulation]
limits: {max_trials: 4, advice: false}
";

#[test]
fn a_winner_holds_with_no_more_than_it_is_said_to_need() {
    let _turn = alone();
    let project = Project::new().file("train.py", EVALUATES).file("least.yaml", RECIPE);
    let before = project.snapshot();
    let line = "--recipe least.yaml --device cpu --memory-cap 2GiB --prove-peak -- python train.py";
    let end = autofit(project.path())
        .with_python()
        .line(line)
        .limit(LONG)
        .finish()
        .expect(0)
        .prints("needs at most")
        .leaves_no_process();
    project.assert_unchanged(&before);
    let result = project.result();
    let bytes = |v: &serde_json::Value| v.as_u64().unwrap_or_else(|| panic!("{v}:\n{}", end.stdout));
    let (confirmed, proved) = (&result["confirmed"], &result["confirmed"]["proved"]);
    assert_eq!(confirmed["limit_bytes"], 2u64 << 30);
    assert_eq!(confirmed["coverage"]["eval_seen"], true, "{confirmed:#}");
    let limit = bytes(&proved["limit_bytes"]);
    assert!(limit > bytes(&confirmed["peak_bytes"]) && limit < 1 << 30, "{confirmed:#}");
    assert!(bytes(&proved["peak_bytes"]) <= limit, "{confirmed:#}");
    assert!(project.read("autofit.env").contains("# proved: needs at most"));
    // The same figure holds in production.
    autofit(project.path())
        .with_python()
        .line(&format!("run --memory-cap {limit} -- python train.py"))
        .limit(LONG)
        .finish()
        .expect(0);
}

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
