//! Searches as they lie on disk, written through the journal as a search writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use autofit::journal::{Journal, SearchKey};
use autofit::model::event::Phase;
use autofit::model::observation::{Cap, Coverage, Disturbance, Peaks, ProcessEnd, Ratio, Timing, Window};
use autofit::model::parity::{Compared, Figure, Outcome, Quantity};
use autofit::model::plan::Device;
use autofit::model::trace::{AllocatorTrace, MemoryTrace};
use autofit::model::{
    Configuration, Failure, FailureFields, FailureKind, Inspection, Knob, Observation, Purpose, VERSION,
    Verdict,
};
use autofit::report::TuneResult;
use autofit::report::assemble::SummaryInput;
use autofit::report::machine::{Accelerator, Machine};
use autofit::report::result::{Advice, Files, Isolation, Skipped, Status};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A search to be written.
pub struct Search {
    pub command: Vec<String>,
    pub device: Device,
    pub cap: u64,
    pub observations: Vec<Observation>,
    pub winner: Option<u32>,
    pub status: Status,
}

/// `"amp=bf16,accumulation=4"`.
fn settings(text: &str) -> Configuration {
    text.split(',').filter(|p| !p.is_empty()).fold(Configuration::baseline(), |c, part| {
        let (knob, value) = part.split_once('=').unwrap();
        let knob: Knob = knob.parse().unwrap();
        c.with(knob, knob.parse_value(value).unwrap())
    })
}

impl Search {
    /// On a processor: the script as it is does not fit; what was made to fit is confirmed.
    pub fn that_rescues() -> Self {
        let mut s = Self::new(Device::Cpu, 1536);
        s.oom("", 1);
        s.oom("accumulation=2", 2);
        s.fit(Purpose::Climb, "accumulation=4", 1410, 231.0, 4.0);
        s.fit(Purpose::Climb, "accumulation=4,amp=bf16", 1222, 388.0, 6.0);
        s.fit(Purpose::Climb, "accumulation=2,amp=bf16,checkpoint=selective", 1044, 402.0, 5.0);
        s.disturbed("amp=bf16,checkpoint=all,malloc=huge", 806, 318.0, 38.0);
        s.fit(Purpose::Climb, "amp=bf16,checkpoint=selective,malloc=huge,omp_threads=4", 1300, 446.0, 5.0);
        s.fit(Purpose::Prune, "amp=bf16,checkpoint=selective,malloc=huge", 1290, 428.0, 5.0);
        s.fit(Purpose::Advice, "amp=bf16,batch_size=128,malloc=huge", 1180, 481.0, 7.0);
        s.fit(Purpose::Confirm, "amp=bf16,checkpoint=selective,malloc=huge,omp_threads=4", 1318, 441.0, 4.0);
        s.winner = Some(7);
        s
    }

    /// On a GPU: everything fits, and the winner trains like the script as it is.
    pub fn on_a_gpu() -> Self {
        let mut s = Self::new(Device::Cuda, 24 * 1024);
        s.fit(Purpose::Baseline, "", 18_100, 412.0, 3.0);
        s.observations[0].inspection = Some(with_a_batch_of(64));
        s.sweep(18_100);
        s.fit(Purpose::Climb, "amp=bf16", 11_900, 803.0, 9.0);
        s.fit(Purpose::Climb, "amp=bf16,optimizer=fused", 11_905, 851.0, 8.0);
        s.fit(Purpose::Climb, "amp=bf16,compile=default,optimizer=fused", 10_700, 1204.0, 11.0);
        s.fit(Purpose::Confirm, "amp=bf16,compile=default,optimizer=fused", 10_950, 1197.0, 10.0);
        s.winner = Some(5);
        s
    }

    /// In turns with the script as it is: two rungs and two smaller batches.
    fn sweep(&mut self, peak: u64) {
        self.fit(Purpose::Sweep, "", peak, 410.0, 3.0);
        let window = |set: &str, ratio: f64, peak: u64, seconds: f64| Window {
            settings: settings(set),
            steps: 12,
            ratio: Some(Ratio { ratio, interval: (ratio * 0.99, ratio * 1.01) }),
            step_seconds: seconds,
            samples_per_step: 64.0,
            peak: Some(peak * MIB),
            ..Window::default()
        };
        self.observations.last_mut().unwrap().windows = vec![
            window("", 1.01, peak, 0.156),
            window("amp=bf16", 1.95, 11_900, 0.08),
            window("checkpoint=all", 0.76, 6_300, 0.205),
            Window {
                why_not: Some("the script has no optimizer of torch.optim".into()),
                ratio: None,
                peak: None,
                steps: 0,
                ..window("optimizer=fused", 1.0, 0, 0.0)
            },
            window("batch_size=16", 0.82, 5_500, 0.048),
            window("batch_size=32", 0.93, 9_690, 0.084),
        ];
    }

    /// The same search after its command and its output were made to look like parts of a page.
    pub fn that_is_hostile() -> Self {
        let mut s = Self::that_rescues();
        s.command = ["python", "train.py", "--name", HOSTILE, "--hub-token", "sesame-street"]
            .map(str::to_owned)
            .to_vec();
        for o in &mut s.observations {
            o.why = format!("{HOSTILE} {}", o.why);
        }
        let failed = Observation {
            verdict: Verdict::Failed,
            tail: vec![HOSTILE.to_owned(), "-->]]>&lt;".to_owned()],
            ..s.observations[0].clone()
        };
        s.observations = vec![failed];
        (s.winner, s.status) = (None, Status::ScriptFails);
        s
    }

    fn new(device: Device, cap_mib: u64) -> Self {
        Self {
            command: ["python", "train.py", "--config", "configs/base.yaml", "--lr", "3e-4"]
                .map(str::to_owned)
                .to_vec(),
            device,
            cap: cap_mib * MIB,
            observations: Vec::new(),
            winner: None,
            status: Status::Tuned,
        }
    }

    /// Writes it below `place` as a search does; its folder.
    pub fn write(&self, place: &Path) -> PathBuf {
        let key = SearchKey {
            argv: self.command.clone(),
            cwd: "/home/ada/project".into(),
            recipe: None,
            files: BTreeMap::new(),
            packages: BTreeMap::new(),
            device: self.device,
            device_ids: vec![],
            cap_bytes: Some(self.cap),
            seed: Some(0),
            policy: BTreeMap::new(),
        };
        let (mut journal, _) = Journal::open(place, &key, false).unwrap();
        for o in &self.observations {
            journal.append(o).unwrap();
        }
        journal.write_result(&TuneResult::assemble(&self.summary(journal.id()))).unwrap();
        journal.finish("complete", self.status.exit_status()).unwrap();
        journal.dir().to_owned()
    }

    fn summary(&self, id: &str) -> SummaryInput {
        let ours: &[&str] = match self.device {
            Device::Cpu => &["autofit", "--memory-cap", "1.5GiB", "--"],
            Device::Cuda => &["autofit", "--"],
        };
        let gpu = Accelerator {
            name: "NVIDIA L4".into(),
            memory_bytes: 24 << 30,
            driver: Some("570.133.20".into()),
        };
        SummaryInput {
            id: id.to_owned(),
            status: self.status,
            reason: match self.winner {
                Some(_) => {
                    let launches = self.observations.len();
                    format!("the fastest of {launches} launches was confirmed in a fresh process")
                }
                None => String::new(),
            },
            command: self.command.clone(),
            invocation: ours.iter().map(ToString::to_string).chain(self.command.iter().cloned()).collect(),
            directory: "/home/ada/project".into(),
            device: self.device,
            machine: Machine {
                system: "Linux 6.12.30 x86_64".into(),
                cpu: "AMD EPYC 9354".into(),
                cores: 8,
                memory_bytes: 32 << 30,
                devices: if self.device == Device::Cuda { vec![gpu] } else { vec![] },
                python: Some("3.12.8".into()),
                packages: BTreeMap::from([("torch".into(), "2.11.0".into()), ("numpy".into(), "2.3.1".into())]),
            },
            cap: self.cap(),
            isolation: Isolation {
                mechanism: "overlay".into(),
                covers: "the working directory, HOME, /tmp".into(),
                not_covered: vec!["the network".into()],
            },
            inspection: self.observations.iter().find_map(|o| o.inspection.clone()),
            observations: self.observations.clone(),
            predictions: BTreeMap::new(),
            winner: self.winner,
            advice: self
                .observations
                .iter()
                .filter(|o| o.purpose == Purpose::Advice)
                .map(|o| Advice {
                    text: "an effective batch of 128 gives 481 ± 7 samples/s at a peak of 1.15 GiB; it is another training run".into(),
                    trial: Some(o.trial),
                    option: Some("--batch max".into()),
                })
                .collect(),
            skipped: vec![Skipped {
                what: "pin_memory".into(),
                why: "pinned memory is for CUDA; training is on the CPU".into(),
            }],
            notes: vec![],
            compared: None,
            seconds: self.observations.iter().map(|o| o.seconds).sum::<f64>() + 6.5,
            files: Files {
                env: self.winner.map(|_| "autofit.env".into()),
                result: Some(format!(".autofit/{id}/result.json")),
                report: Some(format!(".autofit/{id}/report.html")),
                markdown: Some(format!(".autofit/{id}/report.md")),
                directory: Some(format!(".autofit/{id}")),
            },
        }
    }

    fn cap(&self) -> Cap {
        let text = |s: &str| s.to_owned();
        match self.device {
            Device::Cpu => Cap {
                bytes: Some(self.cap),
                margin_bytes: 0,
                mechanism: text("cgroup v2"),
                scope: text("process tree"),
                metric: text("anonymous + shared memory"),
            },
            Device::Cuda => Cap {
                bytes: Some(self.cap),
                margin_bytes: 0,
                mechanism: text("device"),
                scope: text("device"),
                metric: text("device memory"),
            },
        }
    }

    fn fit(&mut self, purpose: Purpose, set: &str, peak: u64, rate: f64, half: f64) {
        let mut o = self.trial(purpose, set, Verdict::Fit, "ran within the cap", peak);
        o.timing = Some(Timing {
            steps: 40,
            warmup_steps: 3,
            step_seconds: vec![64.0 / rate; 40],
            cpu_seconds: vec![64.0 / rate; 40],
            samples_per_step: 64.0,
            samples_per_second: rate,
            interval: (rate - half, rate + half),
            unit: "samples/s".into(),
            loader_wait_share: 0.03,
            first_step_after: 4.2,
        });
        o.steps = 43;
        let drift = if set.contains("bf16") { 1.0006 } else { 1.0 };
        o.losses =
            [4.1713, 3.8021, 3.5527, 3.4102, 3.2957, 3.2211, 3.1498, 3.1102].map(|l| l * drift).to_vec();
        if drift > 1.0 {
            let figure = |what, difference, band| Figure { what, difference, band: Some(band) };
            o.parity = Some(Compared {
                outcome: Outcome::Agrees,
                sentence: "loss within 0.06 % over 8 steps".into(),
                figures: vec![
                    figure(Quantity::Loss, 6e-4, 0.02),
                    figure(Quantity::GradNorm, 3.1e-3, 0.05),
                    figure(Quantity::Update, 8.7e-3, 0.1),
                ],
            });
        }
        if purpose == Purpose::Confirm {
            o.coverage = Some(Coverage {
                eval_seen: true,
                save_seen: true,
                looked_at: 120,
                of_batches: Some(120),
                largest_trained: true,
            });
        }
        self.observations.push(o);
    }

    fn disturbed(&mut self, set: &str, peak: u64, rate: f64, half: f64) {
        self.fit(Purpose::Climb, set, peak, rate, half);
        let o = self.observations.last_mut().unwrap();
        (o.verdict, o.why) = (Verdict::Disturbed, "other processes used 1.2 cores meanwhile".into());
    }

    fn oom(&mut self, set: &str, steps: u64) {
        let purpose = if set.is_empty() { Purpose::Baseline } else { Purpose::Climb };
        let cause = "the host refused an allocation of 256 MiB (DefaultCPUAllocator)";
        let cap = self.cap / MIB;
        let mut o = self.trial(purpose, set, Verdict::Oom, cause, cap - 9);
        o.failure = Some(Failure {
            kind: FailureKind::HostOom,
            fragmentation: None,
            fields: FailureFields {
                requested_bytes: Some((cap / 5) * MIB),
                allocated_bytes: Some((cap + 40 * steps) * MIB),
                ..FailureFields::default()
            },
            cause: cause.into(),
            evidence: None,
            next: vec![],
        });
        (o.oom_phase, o.steps, o.end) = (Some(Phase::Train), steps, ProcessEnd::Exited { code: 1 });
        self.observations.push(o);
    }

    fn trial(&self, purpose: Purpose, set: &str, verdict: Verdict, why: &str, peak: u64) -> Observation {
        let (bytes, cuda) = (peak * MIB, self.device == Device::Cuda);
        let number = u32::try_from(self.observations.len()).unwrap() + 1;
        let seconds = 11.0 + f64::from(number % 4);
        Observation {
            version: VERSION,
            trial: number,
            purpose,
            settings: settings(set),
            verdict,
            why: why.into(),
            end: ProcessEnd::Exited { code: 0 },
            failure: None,
            oom_phase: None,
            knobs: vec![],
            timing: None,
            peaks: Peaks {
                device: cuda.then_some(bytes),
                host: Some(if cuda { 2100 * MIB } else { bytes }),
                ..Peaks::default()
            },
            memory: Some(memory(bytes, seconds, verdict == Verdict::Oom, cuda)),
            filled: None,
            cap: self.cap(),
            losses: vec![],
            grad_norms: vec![],
            taken_norms: vec![],
            after: None,
            parity: None,
            torch: true,
            coverage: None,
            disturbance: Disturbance::default(),
            steps: 0,
            seconds,
            tail: vec![],
            inspection: None,
            ranks: Vec::new(),
            nodes: Vec::new(),
            windows: Vec::new(),
        }
    }
}

/// A script whose own option sets the batch.
fn with_a_batch_of(batch: u32) -> Inspection {
    serde_json::from_value(json!({
        "version": VERSION, "device": "cuda", "frameworks": {"torch": "2.11.0"}, "options": null,
        "loaders": [], "roots": [], "detected": null,
        "launched": {"command": ["python", "train.py"], "python": "python", "world_size": 1},
        "knobs": [{
            "knob": "batch_size", "class": "dynamics", "way": "option", "how": "--batch-size", "why_not": null,
            "args": ["--batch-size={value}"], "env": {}, "current": batch.to_string(),
        }],
    }))
    .unwrap()
}

/// What looks like parts of a page, of a table and of a fence.
pub const HOSTILE: &str = "</script><script>document.title=String(7)</script><img src=x onerror=\"document.title=String(7)\"> | ``` <!--";

/// Python starts, data and model are made, steps go up and down below the peak; what runs out stops there.
fn memory(peak: u64, seconds: f64, ends_early: bool, cuda: bool) -> MemoryTrace {
    const POINTS: usize = 120;
    let points = if ends_early { POINTS * 3 / 5 } else { POINTS };
    let share = |i: usize| {
        let x = i as f64 / POINTS as f64;
        match x {
            x if x < 0.12 => 0.03 + x * 1.2,
            x if x < 0.28 => 0.17 + (x - 0.12) * 1.1,
            x if x < 0.36 => 0.35 + (x - 0.28) * 5.0,
            x if ends_early => (0.75 + (x - 0.36) * 1.1).min(1.0),
            _ => [1.0, 0.93, 0.82, 0.74, 0.86][i % 5],
        }
    };
    let at: Vec<f64> =
        (0..points).map(|i| (seconds * i as f64 / POINTS as f64 * 100.0).round() / 100.0).collect();
    let bytes: Vec<u64> = (0..points).map(|i| (peak as f64 * share(i)) as u64).collect();
    if !cuda {
        return MemoryTrace { at, host: bytes, ..MemoryTrace::default() };
    }
    let steps: Vec<f64> = (0..20).map(|i| 4.3 + f64::from(i) * (seconds - 5.0) / 20.0).collect();
    let so_far = |share: f64| {
        (0..20).map(|i| (peak as f64 * share * if i == 0 { 0.97 } else { 1.0 }) as u64).collect()
    };
    MemoryTrace {
        host: at.iter().map(|_| 2100 * MIB).collect(),
        at,
        device: bytes,
        allocator: Some(AllocatorTrace { at: steps, allocated: so_far(0.81), reserved: so_far(0.93) }),
    }
}
