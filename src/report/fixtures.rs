//! Searches as tests need them: a trial in one line, a summary in a few.

use std::collections::BTreeMap;

use super::TuneResult;
use super::assemble::SummaryInput;
use super::machine::Machine;
use super::redact::Redactor;
use super::result::{Advice, Files, Isolation, Prediction, Skipped, Status};
use crate::model::blocks::{BlockRow, Filled};
use crate::model::event::Phase;
use crate::model::observation::{Cap, Coverage, Disturbance, Peaks, ProcessEnd, Ratio, Timing, Window};
use crate::model::plan::Device;
use crate::model::trace::MemoryTrace;
use crate::model::{
    Configuration, Failure, FailureFields, FailureKind, Knob, Observation, Purpose, VERSION, Verdict,
};

const MIB: u64 = 1 << 20;

/// 1.50 GiB by cgroup v1.
pub fn cap() -> Cap {
    Cap {
        bytes: Some(1536 * MIB),
        margin_bytes: 0,
        mechanism: "cgroup v1".into(),
        scope: "process tree".into(),
        metric: "anonymous + shared memory".into(),
    }
}

/// `"amp=bf16,accumulation=4"`.
pub fn settings(text: &str) -> Configuration {
    text.split(',').filter(|p| !p.is_empty()).fold(Configuration::baseline(), |c, part| {
        let (knob, value) = part.split_once('=').unwrap();
        let knob: Knob = knob.parse().unwrap();
        c.with(knob, knob.parse_value(value).unwrap())
    })
}

/// A trial that was launched and of which nothing else is known.
fn trial(n: u32, purpose: Purpose, set: &str, verdict: Verdict, why: &str) -> Observation {
    Observation {
        version: VERSION,
        trial: n,
        purpose,
        settings: settings(set),
        verdict,
        why: why.into(),
        end: ProcessEnd::Exited { code: 0 },
        failure: None,
        oom_phase: None,
        knobs: vec![],
        timing: None,
        peaks: Peaks::default(),
        memory: None,
        filled: None,
        cap: cap(),
        losses: vec![],
        grad_norms: vec![],
        taken_norms: vec![],
        after: None,
        parity: None,
        torch: true,
        coverage: None,
        disturbance: Disturbance::default(),
        steps: 0,
        seconds: 9.5,
        tail: vec![],
        inspection: None,
        ranks: Vec::new(),
        nodes: Vec::new(),
        windows: Vec::new(),
    }
}

/// A trial that fits: MiB of peak, samples/s, and the half of its interval.
pub fn fit(n: u32, purpose: Purpose, set: &str, peak: u64, rate: f64, half: f64) -> Observation {
    Observation {
        timing: Some(Timing {
            steps: 40,
            warmup_steps: 2,
            step_seconds: vec![64.0 / rate; 40],
            cpu_seconds: vec![64.0 / rate; 40],
            samples_per_step: 64.0,
            samples_per_second: rate,
            interval: (rate - half, rate + half),
            unit: "samples/s".into(),
            loader_wait_share: 0.03,
            first_step_after: 4.2,
        }),
        peaks: Peaks { host: Some(peak * MIB), ..Peaks::default() },
        memory: Some(memory(peak * MIB)),
        steps: 42,
        losses: vec![2.301, 2.1, 1.95, 1.9],
        grad_norms: vec![1.2, 1.1, 1.0, 0.9],
        ..trial(n, purpose, set, Verdict::Fit, "ran within the cap")
    }
}

/// A trial whose memory ran out in training.
pub fn oom(n: u32, purpose: Purpose, set: &str) -> Observation {
    let cause = "the host refused an allocation of 256 MiB (DefaultCPUAllocator)";
    Observation {
        end: ProcessEnd::Exited { code: 1 },
        failure: Some(Failure {
            kind: FailureKind::HostOom,
            fragmentation: None,
            fields: FailureFields { requested_bytes: Some(256 * MIB), ..FailureFields::default() },
            cause: cause.into(),
            evidence: None,
            next: vec![],
        }),
        oom_phase: Some(Phase::Train),
        peaks: Peaks { host: Some(1530 * MIB), ..Peaks::default() },
        memory: Some(memory(1530 * MIB)),
        filled: (purpose == Purpose::Baseline).then(filled),
        steps: 1,
        ..trial(n, purpose, set, Verdict::Oom, cause)
    }
}

/// What a training holds in the middle of its forward pass.
fn filled() -> Filled {
    let block = |category: &str, mib: u64, count, what: Option<&str>, shape: [u64; 2]| BlockRow {
        category: category.into(),
        bytes: mib * MIB,
        count,
        place: None,
        what: what.map(str::to_owned),
        shape: Some(shape.to_vec()),
        dtype: Some("float32".into()),
    };
    Filled {
        device: "cpu".into(),
        bytes: 1100 * MIB,
        categories: [("activations", 980), ("optimizer_state", 80), ("parameters", 40)]
            .map(|(name, mib)| (name.to_owned(), mib * MIB))
            .into(),
        blocks: vec![
            block("activations", 768, 12, Some("GeluBackward0"), [8192, 2048]),
            block("activations", 192, 12, Some("AddmmBackward0"), [8192, 512]),
            block("optimizer_state", 32, 8, Some("exp_avg"), [2048, 512]),
            block("parameters", 16, 4, Some("h.0.mlp.weight"), [2048, 512]),
        ],
        pieces: None,
        partial: false,
    }
}

/// Python starts, data and model are made, steps go up and down below their peak.
fn memory(peak: u64) -> MemoryTrace {
    let share = [0.02, 0.10, 0.22, 0.35, 0.62, 0.98, 0.71, 1.0, 0.70, 0.99, 0.72, 1.0, 0.71];
    MemoryTrace {
        at: (0..share.len()).map(|i| i as f64 * 0.75).collect(),
        host: share.iter().map(|s| (peak as f64 * s) as u64).collect(),
        ..MemoryTrace::default()
    }
}

/// A trial that failed for a reason that is not memory.
pub fn failed(n: u32, purpose: Purpose, set: &str) -> Observation {
    Observation {
        end: ProcessEnd::Exited { code: 1 },
        failure: Some(Failure {
            kind: FailureKind::NotMemory,
            fragmentation: None,
            fields: FailureFields { exit_code: Some(1), ..FailureFields::default() },
            cause: "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'".into(),
            evidence: None,
            next: vec!["put data/train.bin where the script looks for it".into()],
        }),
        tail: vec![
            "Traceback (most recent call last):".into(),
            "  File \"train.py\", line 12, in <module>".into(),
            "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'".into(),
        ],
        ..trial(n, purpose, set, Verdict::Failed, "the script ended with exit status 1 before its first step")
    }
}

/// A summary's input; `winner` is the number of a trial.
pub fn input(status: Status, observations: Vec<Observation>, winner: Option<u32>) -> SummaryInput {
    let typed = ["autofit", "--memory-cap", "1.5GiB", "--", "python", "train.py", "--lr", "1e-3"];
    let env = winner.map(|_| "autofit.env".to_owned());
    SummaryInput {
        id: "3f9a2c".into(),
        status,
        reason: String::new(),
        command: typed[4..].iter().map(ToString::to_string).collect(),
        invocation: typed.iter().map(ToString::to_string).collect(),
        directory: "/home/me/project".into(),
        device: Device::Cpu,
        machine: Machine { system: "Linux 6.1 x86_64".into(), cores: 2, ..Machine::default() },
        cap: cap(),
        isolation: Isolation {
            mechanism: "overlay".into(),
            covers: "the working directory, HOME, /tmp".into(),
            not_covered: vec!["the network".into()],
        },
        inspection: None,
        seconds: observations.iter().map(|o| o.seconds).sum(),
        observations,
        predictions: BTreeMap::new(),
        winner,
        advice: vec![],
        skipped: vec![],
        notes: vec![],
        compared: None,
        files: Files {
            env,
            result: Some(".autofit/3f9a2c/result.json".into()),
            report: None,
            markdown: None,
            directory: Some(".autofit/3f9a2c".into()),
        },
    }
}

/// The baseline runs out of memory; two rungs fit, the second wins and is confirmed.
pub fn baseline_ooms() -> SummaryInput {
    let bf16 = Observation {
        losses: vec![2.3012, 2.1, 1.9504, 1.9],
        ..fit(4, Purpose::Climb, "amp=bf16,accumulation=2", 1240, 412.37, 3.2)
    };
    let confirm = Observation {
        trial: 6,
        purpose: Purpose::Confirm,
        coverage: Some(Coverage {
            eval_seen: true,
            save_seen: false,
            looked_at: 120,
            of_batches: Some(120),
            largest_trained: true,
        }),
        ..fit(6, Purpose::Confirm, "amp=bf16,accumulation=2", 1243, 409.1, 2.4)
    };
    let mut input = input(
        Status::Tuned,
        vec![
            oom(1, Purpose::Baseline, ""),
            oom(2, Purpose::Climb, "accumulation=2"),
            fit(3, Purpose::Climb, "accumulation=4,checkpoint=alternate", 980, 302.0, 2.0),
            bf16,
            fit(5, Purpose::Advice, "amp=bf16,batch_size=32", 1100, 455.0, 4.0),
            confirm,
        ],
        Some(4),
    );
    input.predictions.insert(4, Prediction { samples_per_second: Some(400.0), peak_bytes: Some(1250 * MIB) });
    input.advice = vec![Advice {
        text: "an effective batch of 32 gives 455 ± 4 samples/s at a peak of 1.07 GiB; it is another training run"
            .into(),
        trial: Some(5),
        option: Some("--batch lower".into()),
    }];
    input.skipped = vec![Skipped {
        what: "pin_memory".into(),
        why: "pinned memory is for CUDA; training is on the CPU".into(),
    }];
    input
}

/// The baseline fits and nothing is faster.
pub fn baseline_wins() -> SummaryInput {
    let confirm =
        Observation { coverage: Some(Coverage::default()), ..fit(3, Purpose::Confirm, "", 702, 511.0, 5.0) };
    input(
        Status::Tuned,
        vec![
            fit(1, Purpose::Baseline, "", 700, 512.0, 4.0),
            fit(2, Purpose::Climb, "num_workers=2", 901, 488.0, 9.0),
            confirm,
        ],
        Some(1),
    )
}

/// Nothing fits within the bounds; one bound further something would.
pub fn nothing_fits() -> SummaryInput {
    let mut input = input(
        Status::NothingFits,
        vec![
            oom(1, Purpose::Baseline, ""),
            oom(2, Purpose::Climb, "accumulation=64,checkpoint=all"),
            fit(3, Purpose::Advice, "batch_size=8", 1400, 77.0, 0.8),
        ],
        None,
    );
    input.advice = vec![Advice {
        text: "batch_size=8 fits (peak 1.37 GiB, 77.0 ± 0.8 samples/s); it is another training run".into(),
        trial: Some(3),
        option: Some("--batch lower".into()),
    }];
    input
}

/// The script fails by itself.
pub fn script_fails() -> SummaryInput {
    input(Status::ScriptFails, vec![failed(1, Purpose::Baseline, "")], None)
}

/// Ctrl-C after something was found to fit.
pub fn interrupted() -> SummaryInput {
    let stopped = Observation {
        end: ProcessEnd::Interrupted,
        ..trial(3, Purpose::Climb, "amp=bf16", Verdict::Interrupted, "stopped by Ctrl-C")
    };
    input(
        Status::Interrupted,
        vec![
            oom(1, Purpose::Baseline, ""),
            fit(2, Purpose::Climb, "accumulation=4", 980, 302.0, 2.0),
            stopped,
        ],
        Some(2),
    )
}

/// Several configurations in one launch, by `autofit try`.
pub fn swept() -> SummaryInput {
    let window = |set: &str, ratio: f64, peak: u64| Window {
        settings: settings(set),
        steps: 12,
        ratio: Some(Ratio { ratio, interval: (0.98 * ratio, 1.02 * ratio) }),
        step_seconds: 0.1 / ratio,
        samples_per_step: 32.0,
        peak: Some(peak * MIB),
        ..Window::default()
    };
    let not = |set: &str, why: &str, too_large| Window {
        settings: settings(set),
        why_not: Some(why.to_owned()),
        too_large,
        ..Window::default()
    };
    let windows = vec![
        window("amp=bf16,checkpoint=all", 0.87, 402),
        window("", 1.22, 840),
        not("amp=bf16,tf32=true", "tf32=true was not applied: it is a switch of NVIDIA's libraries", false),
        not("amp=bf16,accumulation=1", "the kernel killed a process at the memory limit", true),
    ];
    let baseline = fit(1, Purpose::Baseline, "", 830, 302.0, 2.0);
    let sweep = Observation { windows, ..fit(2, Purpose::Sweep, "amp=bf16", 700, 330.0, 2.0) };
    input(Status::Tuned, vec![baseline, sweep], Some(2))
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, SummaryInput)> {
    vec![
        ("baseline ooms", baseline_ooms()),
        ("baseline wins", baseline_wins()),
        ("nothing fits", nothing_fits()),
        ("script fails", script_fails()),
        ("interrupted", interrupted()),
        ("swept", swept()),
    ]
}

/// Assembled without secrets of the test's own environment.
pub fn assembled(input: &SummaryInput) -> TuneResult {
    TuneResult::assemble_with(input, &Redactor::default())
}
