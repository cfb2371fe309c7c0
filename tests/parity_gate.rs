//! The ways in which a setting can change training behind the user's back, each made to happen: the agent's own code is
//! altered where it prevents one.  A launch as it is and a launch with the setting are judged as a search judges them;
//! without the comparison each of these would be called a fit.
//!
//! `AUTOFIT_TEST_PYTHON` names an interpreter with PyTorch and transformers; without it the
//! tests' own environment with the frameworks is used.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use autofit::agent::{AgentFiles, EventReader};
use autofit::model::observation::{Cap, Disturbance, ProcessEnd};
use autofit::model::parity::{AfterSteps, Quantity};
use autofit::model::{Configuration, Device, Knob, Purpose, TrialSpec, Verdict};
use autofit::trial::collect::Records;
use autofit::trial::prepare::prepare;
use autofit::trial::schedule::PARITY_STEPS;
use autofit::verdict::bands::{Rounding, Terms};
use autofit::verdict::parity::{Parity, Trace, check};
use autofit::verdict::{TrialFacts, judge, timing};

const NONCE: &str = "parity-gate";
const STEPS: usize = PARITY_STEPS as usize;

/// A line of the agent, and what stands there instead.
struct Alteration {
    file: &'static str,
    line: &'static str,
    instead: &'static str,
}

fn python() -> PathBuf {
    let ours = || support::frameworks(&support::python().path);
    std::env::var_os("AUTOFIT_TEST_PYTHON").map_or_else(ours, PathBuf::from)
}

/// One launch, and what the gate looks at.
struct Launched {
    facts: TrialFacts,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    taken_norms: Vec<f64>,
    after: Option<AfterSteps>,
}

impl Launched {
    fn trace(&self) -> Trace<'_> {
        Trace {
            losses: &self.losses,
            grad_norms: &self.grad_norms,
            taken_norms: &self.taken_norms,
            after: self.after.as_ref(),
        }
    }
}

fn launch(script: &str, args: &[&str], settings: &Configuration, alter: &[Alteration]) -> Launched {
    let _turn = support::alone();
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentFiles::unpack(&folder.path().join("agent")).unwrap();
    for Alteration { file, line, instead } in alter {
        let path = agent.dir().join("autofit_agent").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(line).count(), 1, "{file} has changed: update the alteration");
        fs::write(&path, text.replace(line, instead)).unwrap();
    }
    let path = folder.path().join("script.py");
    fs::write(&path, script).unwrap();
    let python = python();
    let mut command = vec![python.display().to_string(), path.display().to_string()];
    command.extend(args.iter().map(|a| (*a).to_owned()));
    let spec = TrialSpec::new(settings.clone(), Purpose::Climb);
    let mut plan = prepare(&spec, &command, None, Device::Cpu, &Cap::default(), NONCE.to_owned()).plan;
    let trial = folder.path().join("trial");
    fs::create_dir(&trial).unwrap();
    plan.trial_dir = Some(trial.display().to_string());
    let file = trial.join("plan.json");
    fs::write(&file, serde_json::to_vec(&plan).unwrap()).unwrap();
    let mut run = support::plain(&python, folder.path()).env("OMP_NUM_THREADS", "1");
    for word in &command[1..] {
        run = run.arg(word);
    }
    for (name, value) in agent.env(&file, None) {
        run = run.env(&name, value);
    }
    let done = run.finish();
    assert!(done.status.success(), "{}\n{}", done.stdout, done.stderr);
    facts(&trial, settings)
}

fn facts(trial: &Path, settings: &Configuration) -> Launched {
    let mut records = Records::default();
    for (rank, event) in EventReader::new(trial).read() {
        records.extend(rank, [event]);
    }
    let steps = records.steps();
    let steps: Vec<&[_]> = steps.values().map(Vec::as_slice).filter(|s| !s.is_empty()).collect();
    let facts = TrialFacts {
        end: ProcessEnd::Exited { code: 0 },
        hello: records.hello(NONCE),
        knobs: records.all_knobs(),
        settings: settings.clone(),
        timing: timing::measure(&steps, 0.0),
        oom_events: records.ooms(),
        oom_kills: Some(0),
        failure: None,
        oom_text: None,
        faults: records.faults(),
        end_reason: records.end_reason(),
        steps: records.step_count(),
        min_steps: 1,
        thrash: None,
        parity: None,
        disturbance: Disturbance::default(),
        places: vec![],
    };
    Launched {
        facts,
        losses: records.losses(STEPS),
        grad_norms: records.grad_norms(STEPS),
        taken_norms: records.taken_norms(STEPS),
        after: records.after_steps(),
    }
}

/// The verdict with the comparison, the one without, and what differed.
fn judged(
    baseline: &Launched,
    trial: &Launched,
    terms: &Terms,
) -> (Verdict, Verdict, Option<Quantity>, String) {
    let parity = check(baseline.trace(), trial.trace(), terms, None).parity;
    let what = match &parity {
        Parity::Diverged(d) => Some(d.what),
        Parity::Agrees => None,
        other => panic!("{other:?}"),
    };
    let (verdict, why) = judge(&TrialFacts { parity: Some(parity), ..trial.facts.clone() });
    let (ungated, why_ungated) = judge(&trial.facts);
    (verdict, ungated, what, format!("{why} | without the comparison: {why_ungated}"))
}

/// The setting is caught when the agent is altered, and only by the comparison; unaltered it agrees.
fn caught(script: &str, settings: &Configuration, alter: &[Alteration], expected: &[Quantity]) -> Launched {
    let baseline = launch(script, &[], &Configuration::baseline(), &[]);
    let terms = Terms::new(settings, None);
    let trial = launch(script, &[], settings, alter);
    let (verdict, ungated, what, why) = judged(&baseline, &trial, &terms);
    assert_eq!((verdict, ungated), (Verdict::Diverged, Verdict::Fit), "{why}");
    assert!(expected.contains(&what.unwrap()), "{why}");
    assert!(why.contains("step"), "{why}");
    baseline
}

fn agrees(baseline: &Launched, script: &str, settings: &Configuration) {
    let (verdict, _, _, why) =
        judged(baseline, &launch(script, &[], settings, &[]), &Terms::new(settings, None));
    assert_eq!(verdict, Verdict::Fit, "{why}");
}

fn with(knob: Knob, value: impl Into<autofit::model::Value>) -> Configuration {
    Configuration::baseline().with(knob, value)
}

/// A script's head, its model and its loop.
fn script(model: &str, body: &str) -> String {
    format!(
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\ntorch.manual_seed(1)\n{model}\n\
         model = Net()\noptimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)\n\
         for step in range(12):\n    x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))\n    optimizer.zero_grad()\n{body}"
    )
}

const BLOCKS: &str = "
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(8, 8), NORM, nn.Dropout(DROP)
    def forward(self, x):
        return x + self.drop(F.relu(self.norm(self.a(x))))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 4)
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)
";

const LOOP: &str = "    F.cross_entropy(model(x), y).backward()\n    optimizer.step()\n";

fn blocks(norm: &str, drop: &str) -> String {
    BLOCKS.replace("NORM", norm).replace("DROP", drop)
}

#[test]
fn clipping_silently_off() {
    let clipped = "    F.cross_entropy(model(x), y).backward()\n    \
                   nn.utils.clip_grad_norm_(model.parameters(), 0.01)\n    optimizer.step()\n";
    let text = script(&blocks("nn.Identity()", "0.0"), clipped);
    let alter = Alteration {
        file: "norms.py",
        line: "return original(parameters, *args, **kwargs)",
        instead: "return self._torch.zeros(())",
    };
    let settings = with(Knob::Checkpoint, "all");
    let baseline = caught(&text, &settings, &[alter], &[Quantity::TakenNorm]);
    agrees(&baseline, &text, &settings);
}

#[test]
fn a_sum_reduced_loss_under_a_mean_weighted_split() {
    let model = "
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)
    def forward(self, x, y):
        return F.cross_entropy(self.a(x), y, reduction='sum')
";
    let body = "    model(x, y).backward()\n    nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()\n";
    let text = script(model, body);
    let alter =
        Alteration { file: "splitting.py", line: "if word == \"sum\":", instead: "if word == \"never\":" };
    let settings = with(Knob::Accumulation, 4);
    let baseline = caught(&text, &settings, &[alter], &[Quantity::Loss]);
    agrees(&baseline, &text, &settings);
}

#[test]
fn batch_norm_under_a_split() {
    let text = script(&blocks("nn.BatchNorm1d(8)", "0.0"), LOOP);
    // It is refused twice: by its class, and because a call has updated its statistics.
    let alter = [
        Alteration {
            file: "knobs/accumulation.py",
            line: "if describe.has_batch_norm(module, torch):",
            instead: "if False:",
        },
        Alteration { file: "checking.py", line: "watch.look_at_buffers()", instead: "pass" },
    ];
    let settings = with(Knob::Accumulation, 4);
    caught(&text, &settings, &alter, &[Quantity::Loss, Quantity::GradNorm]);
    let refused = launch(&text, &[], &settings, &[]);
    assert_eq!(judge(&refused.facts).0, Verdict::NotApplied);
}

#[test]
fn batch_norms_statistics_updated_twice_under_checkpointing() {
    let text = script(&blocks("nn.BatchNorm1d(8)", "0.0"), LOOP);
    let alter =
        Alteration { file: "knobs/checkpoint.py", line: " or isinstance(m, self.statistics)", instead: "" };
    let settings = with(Knob::Checkpoint, "all");
    // Losses, gradients and parameters are those of the baseline to the last bit.
    let baseline = caught(&text, &settings, &[alter], &[Quantity::Buffers, Quantity::Output]);
    agrees(&baseline, &text, &settings);
}

#[test]
fn dropout_without_its_random_state() {
    let text = script(&blocks("nn.Identity()", "0.5"), LOOP);
    let alter = Alteration {
        file: "checkpoints.py",
        line: "preserve_rng_state=True",
        instead: "preserve_rng_state=False",
    };
    let settings = with(Knob::Checkpoint, "all");
    let baseline = caught(&text, &settings, &[alter], &[Quantity::GradNorm, Quantity::Loss]);
    agrees(&baseline, &text, &settings);
}

#[test]
fn fp16_gradients_scaled_after_the_chunk() {
    // Gradients pass through half precision, as activations' do under autocast; unscaled they are too small for it.
    let model = "
class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)
    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)
    def forward(self, x, y):
        return 1e-7 * F.cross_entropy(Half.apply(self.a(x)) * 1e-3, y)
scaler = torch.amp.GradScaler('cpu', init_scale=2.0**30)
";
    let body = "    scaler.scale(model(x, y)).backward()\n    scaler.step(optimizer)\n    scaler.update()\n";
    let text = script(model, body);
    let alter = Alteration {
        file: "knobs/accumulation.py",
        line: "return self.session.detect.gradient_scale()",
        instead: "return 1.0",
    };
    let settings = with(Knob::Accumulation, 4);
    let baseline = caught(&text, &settings, &[alter], &[Quantity::GradNorm]);
    agrees(&baseline, &text, &settings);
}

/// A model whose forward takes `**kwargs`, so that Trainer believes that its loss divides by the samples of all
/// micro-batches; it does not.
const TRAINER: &str = "
import sys, torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
parts, told = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(3)
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3)
rows = [{'input_ids': torch.randint(0, 50, (6,)), 'labels': torch.tensor(i % 3)} for i in range(128)]
args = TrainingArguments('out', per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts,
                         max_steps=16, max_grad_norm=0.1, learning_rate=1e-3, lr_scheduler_type='constant',
                         use_cpu=True, report_to=[], save_strategy='no', seed=3, disable_tqdm=True)
trainer = Trainer(BertForSequenceClassification(config), args, train_dataset=rows)
if told == 'told':
    trainer.model_accepts_loss_kwargs = False
trainer.train()
";

#[test]
fn trainers_accumulation_on_a_model_whose_loss_ignores_the_count() {
    let run = |args: &[&str]| launch(TRAINER, args, &Configuration::baseline(), &[]);
    let baseline = run(&["1", "as-it-is"]);
    let terms = Terms::default();
    let (verdict, ungated, what, why) = judged(&baseline, &run(&["4", "as-it-is"]), &terms);
    assert_eq!((verdict, ungated), (Verdict::Diverged, Verdict::Fit), "{why}");
    assert!(matches!(what, Some(Quantity::Loss | Quantity::GradNorm)), "{why}");
    // Four times the gradient, behind clipping to the same norm and Adam.
    let four = run(&["4", "as-it-is"]);
    let ratio = four.grad_norms[0] / baseline.grad_norms[0];
    assert!((ratio - 4.0).abs() < 0.01, "{ratio}");
    assert!((four.taken_norms[0] / baseline.taken_norms[0] - 1.0).abs() < 1e-3, "{:?}", four.taken_norms);
    // Told of it, Trainer divides by itself.
    let (verdict, _, _, why) = judged(&baseline, &run(&["4", "told"]), &terms);
    assert_eq!(verdict, Verdict::Fit, "{why}");
}

#[test]
fn what_fp16_loses_is_no_rounding() {
    let terms = Terms { rounding: Rounding::Eleven, ..Terms::default() };
    let losses = [1.0; STEPS];
    let (right, wrong) = ([0.5; STEPS], [0.0; STEPS]);
    let of = |grad_norms| Trace { losses: &losses, grad_norms, ..Trace::default() };
    assert!(matches!(check(of(&right), of(&wrong), &terms, None).parity, Parity::Diverged(_)));
}
