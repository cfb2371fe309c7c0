//! A script with DistributedDataParallel that does not fit: sharded by the search, confirmed, run in production, and its
//! checkpoint taken by the script as it is.

use std::time::Duration;

use crate::support::{Finished, Project, alone, autofit, plain};

/// On a machine with other work each launch can take minutes.
const LONG: Duration = Duration::from_secs(1500);

/// 38 M parameters, 144 MiB, and little else: two processes with a copy each need 2.4 GiB, with a part each 2.1 GiB when
/// they save, and 1.8 GiB before.
const GPT: &str =
    "gpt_ddp.py --characters 1000 --batch-size 2 --block-size 16 --n-layer 12 --log-every 1 --device cpu";
const CAP: &str = "2300MiB";

/// So that the test takes as few launches as it can, and that whether copies with fewer buckets would fit, which are
/// near the limit, plays no part.  Lower precision would change what production is compared with.
const RECIPE: &str = "
about: only parts of the model fit
knobs:
  amp: {off: true}
  gradient_as_bucket_view: {off: true}
  omp_threads: {off: true}
  optimizer: {off: true}
ladder: [checkpoint, strategy]
";

/// Parameters and moments of two checkpoints, and how far they are apart.
const COMPARE: &str = r#"
import sys, torch
one, other = (torch.load(path) for path in sys.argv[1:])
assert one["epoch"] == other["epoch"] and one["model"].keys() == other["model"].keys()
pairs = [(one["model"][name], other["model"][name]) for name in one["model"]]
states = [(a, other["optimizer"]["state"][i]) for i, a in one["optimizer"]["state"].items()]
pairs += [(a[name], b[name]) for a, b in states for name in ("exp_avg", "exp_avg_sq")]
assert len(states) == len(one["model"]) - 1, "the head's weight is the embedding's"
assert all(type(a) is type(b) is torch.Tensor and a.shape == b.shape for a, b in pairs)
print(max(float((a - b).abs().max()) for a, b in pairs))
"#;

/// Steps are 3e-4 long at most, and where a gradient is next to nothing its sign is a matter of rounding.
const APART: f64 = 3e-4;

fn torchrun(project: &Project, options: &str) -> Finished {
    plain("torchrun", project.path())
        .with_python()
        .line(&format!("--standalone --nproc-per-node 2 {GPT} {options}"))
        .limit(LONG)
        .finish()
        .expect(0)
}

#[test]
#[ignore = "takes minutes; CI runs it"]
fn copies_that_do_not_fit_are_sharded_and_what_they_save_is_the_plain_scripts() {
    let _turn = alone();
    let project =
        Project::with_examples(&["gpt_ddp.py"]).file("parts.yaml", RECIPE).file("compare.py", COMPARE);
    let before = project.snapshot();
    // In production it runs as it is typed: without `--standalone` on the port that every torchrun takes.
    let command = format!("torchrun --standalone --nproc-per-node 2 {GPT}");
    let tuned = autofit(project.path())
        .with_python()
        .line(&format!(
            "--device cpu --recipe parts.yaml --memory-cap {CAP} --max-trials 5 -- {command} --epochs 3"
        ))
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    project.assert_unchanged(&before);
    let result = project.result();
    let trials = result["trials"].as_array().unwrap();
    assert_eq!(trials[0]["verdict"], "oom", "as it is, it does not fit: {:#}", trials[0]);
    let winner = &result["winner"];
    assert_eq!(winner["settings"]["strategy"], "fsdp", "{}\n{winner:#}", tuned.stdout);
    let confirmed = &result["confirmed"]["coverage"];
    assert!(confirmed["eval_seen"] == true && confirmed["save_seen"] == true, "{result:#}");

    let run = autofit(project.path())
        .with_python()
        .line(&format!("run --memory-cap {CAP} -- {command} --epochs 1 --out-dir tuned"))
        .limit(LONG)
        .finish()
        .expect(0)
        .leaves_no_process();
    assert_eq!(run.stdout.matches("epoch 1: val loss").count(), 1, "{}", run.stdout);
    let alone = torchrun(&project, "--epochs 1 --out-dir copies");
    assert_eq!(losses(&run.stdout), losses(&alone.stdout), "{}\n{}", run.stdout, alone.stdout);
    let apart = plain("python", project.path())
        .with_python()
        .line("compare.py tuned/ckpt.pt copies/ckpt.pt")
        .finish()
        .expect(0);
    assert!(apart.stdout.trim().parse::<f64>().unwrap() < APART, "{}", apart.stdout);

    let resumed = torchrun(&project, "--epochs 2 --out-dir tuned --resume");
    assert!(resumed.stdout.contains("goes on after epoch 1"), "{}", resumed.stdout);
    let first = |end: &Finished, line: &str| end.stdout.lines().any(|l| l.starts_with(line));
    assert!(first(&resumed, "epoch 2: val loss") && !first(&resumed, "epoch 1:"), "{}", resumed.stdout);
}

/// What is printed of losses, to three digits: the fourth may be tipped by rounding.
fn losses(text: &str) -> Vec<String> {
    let of = |l: &str| {
        let (what, rest) = l.split_once("loss ")?;
        let loss: f64 = rest.split(',').next()?.trim().parse().ok()?;
        Some(format!("{what}{loss:.2}"))
    };
    text.lines().filter_map(of).collect()
}
