//! A machine that is not there: laws of memory, speed and noise instead of launches.

mod finished;
mod inspected;

use std::collections::BTreeMap;

pub use finished::{Run, table};

use crate::inspect::{MachineFacts, build_inspection};
use crate::model::event::{KnobReport, Phase};
use crate::model::observation::{Cap, Disturbance, Peaks, ProcessEnd, Ratio, Timing, Window};
use crate::model::plan::Device;
use crate::model::{
    Configuration, Failure, FailureFields, FailureKind, Knob, Observation, Purpose, TrialSpec, Value, Verdict,
};
use crate::recipe::{Recipe, shipped};
use crate::search::confirm::ROOM;
use crate::search::{Next, SearchPlan, next};
use crate::trial::references::References;
use crate::verdict::parity::Parity;

pub const MIB: u64 = 1 << 20;

/// What would happen to a configuration.
#[derive(Debug, Clone)]
pub struct Law {
    /// MiB.
    pub peak: f64,
    /// Samples per second without noise.
    pub rate: f64,
    /// An end that has nothing to do with memory.
    pub end: Option<Verdict>,
    /// The knob that is not in force.
    pub not_applied: Option<Knob>,
    /// MiB more in a confirm trial.
    pub confirm_more: f64,
    /// MiB more under its own peak as the limit.
    pub proof_more: f64,
    /// Samples of a step.
    pub samples: f64,
    /// Of the first steps; most settings leave training as it is.
    pub losses: [f64; 4],
    /// What a launch adds to them that no seed decides.
    pub chance: f64,
}

/// What is tuned.
pub fn command() -> Vec<String> {
    vec!["python".into(), "train.py".into()]
}

type LawOf = Box<dyn Fn(&Configuration, Law) -> Law>;

/// A script on a machine.
pub struct Machine {
    pub device: Device,
    pub cap: u64,
    pub cores: u32,
    /// MiB.
    pub fixed: f64,
    pub transient: f64,
    /// Relative standard deviation between launches.
    pub noise: f64,
    pub seed: u64,
    /// Factor on the rate, by knob and value.
    pub speed: BTreeMap<(Knob, String), f64>,
    /// Factor on the transient memory.
    pub memory: BTreeMap<(Knob, String), f64>,
    pub batch: u64,
    pub returns_loss: bool,
    /// It never trains.
    pub serves: bool,
    pub blocks: bool,
    pub dropout: bool,
    pub batch_norm: bool,
    pub loader: bool,
    pub loader_wait: f64,
    /// Workers that the script's loader has by itself.
    pub own_workers: u32,
    pub fragmentation: Option<bool>,
    pub failure: Option<FailureKind>,
    pub cpu_bf16: bool,
    /// There is a compiler, and the script leaves its kernels and updates as PyTorch has them; else it has seen to
    /// them itself.
    pub kernels: bool,
    /// The script wraps its model in DistributedDataParallel.
    pub copies: bool,
    /// Processes that the command starts by itself.
    pub processes: u32,
    /// MiB of parameters and buffers.
    pub model: u64,
    /// Launches (counted from 1) that other load spoils.
    pub disturbed: Vec<u32>,
    /// Settings can be turned between two steps.
    pub sweeps: bool,
    pub law: LawOf,
}

impl Machine {
    /// A small language model on two cores under `cap` MiB; knobs as the defaults below.
    pub fn cpu(cap: u64) -> Self {
        let mut machine = Self {
            device: Device::Cpu,
            cap: cap * MIB,
            cores: 2,
            fixed: 450.0,
            transient: 400.0,
            noise: 0.03,
            seed: 1,
            speed: BTreeMap::new(),
            memory: BTreeMap::new(),
            batch: 32,
            returns_loss: true,
            serves: false,
            blocks: true,
            dropout: false,
            batch_norm: false,
            loader: true,
            loader_wait: 0.0,
            own_workers: 0,
            fragmentation: None,
            failure: None,
            cpu_bf16: false,
            kernels: false,
            copies: false,
            processes: 1,
            model: 4,
            disturbed: Vec::new(),
            sweeps: true,
            law: Box::new(|_, law| law),
        };
        for (knob, value, speed, memory) in [
            (Knob::Accumulation, "2", 0.97, 0.52),
            (Knob::Accumulation, "4", 0.93, 0.27),
            (Knob::Accumulation, "8", 0.86, 0.15),
            (Knob::Accumulation, "16", 0.74, 0.09),
            (Knob::Accumulation, "32", 0.60, 0.06),
            (Knob::Checkpoint, "selective", 0.91, 0.72),
            (Knob::Checkpoint, "alternate", 0.86, 0.58),
            (Knob::Checkpoint, "all", 0.75, 0.28),
            (Knob::Amp, "bf16", 0.45, 0.70),
            (Knob::Malloc, "retain", 1.12, 1.10),
            (Knob::Malloc, "huge", 1.18, 1.08),
            (Knob::Malloc, "pages", 1.05, 1.0),
            (Knob::Malloc, "trim", 0.60, 0.85),
            (Knob::OmpThreads, "1", 0.62, 1.0),
        ] {
            machine = machine.knob(knob, value, speed, memory);
        }
        machine
    }

    /// A larger model on a GPU.
    pub fn cuda(cap: u64) -> Self {
        let mut machine = Self::cpu(cap);
        machine.device = Device::Cuda;
        machine.fixed = 3000.0;
        machine.transient = 9000.0;
        machine.noise = 0.01;
        machine.cores = 8;
        machine
            .knob(Knob::Amp, "bf16", 1.6, 0.62)
            .knob(Knob::Allocator, "expandable_segments:True", 1.0, 0.93)
            .knob(Knob::Allocator, "garbage_collection_threshold:0.8", 0.99, 0.97)
            .knob(Knob::Allocator, "max_split_size_mb:256", 1.0, 0.98)
            .knob(Knob::Offload, "optimizer", 0.82, 0.87)
            .knob(Knob::Offload, "activations", 0.65, 0.40)
            .knob(Knob::PinMemory, "true", 1.0, 1.0)
    }

    pub fn knob(mut self, knob: Knob, value: &str, speed: f64, memory: f64) -> Self {
        self.speed.insert((knob, value.to_owned()), speed);
        self.memory.insert((knob, value.to_owned()), memory);
        self
    }

    pub fn law(mut self, law: impl Fn(&Configuration, Law) -> Law + 'static) -> Self {
        self.law = Box::new(law);
        self
    }

    pub fn set(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn truth(&self, settings: &Configuration) -> Law {
        let factor = |table: &BTreeMap<(Knob, String), f64>| -> f64 {
            settings.0.iter().map(|(k, v)| table.get(&(*k, v.to_string())).copied().unwrap_or(1.0)).product()
        };
        let batch = settings.int(Knob::BatchSize).unwrap_or(self.batch as i64) as f64;
        let share = batch / self.batch as f64;
        let law = Law {
            peak: self.fixed + self.transient * share * factor(&self.memory),
            // A larger batch is a little faster; waiting for the loader goes away with workers.
            rate: 100.0 * share.powf(0.1) * factor(&self.speed),
            end: None,
            not_applied: None,
            confirm_more: 0.0,
            proof_more: 0.0,
            samples: batch,
            losses: [2.3, 2.1, 1.9, 1.8],
            chance: 0.0,
        };
        (self.law)(settings, law)
    }

    pub fn fits(&self, settings: &Configuration) -> bool {
        let law = self.truth(settings);
        (law.peak + law.confirm_more.max(0.0)) * MIB as f64 <= self.cap as f64
            && law.end.is_none()
            && law.not_applied.is_none()
    }

    /// Whether it fits and leaves what launches differ by, as a winner does on the processor.
    fn has_room(&self, settings: &Configuration) -> bool {
        let law = self.truth(settings);
        let room = if self.device == Device::Cpu { ROOM } else { 0.0 };
        let most = (1.0 - room) * self.cap as f64;
        self.fits(settings) && (law.peak + law.confirm_more.max(0.0)) * MIB as f64 <= most
    }

    /// The best rate among everything that could be set and leaves room.
    pub fn best(&self, knobs: &[(Knob, &[&str])]) -> (Configuration, f64) {
        let mut all = vec![Configuration::baseline()];
        for (knob, values) in knobs {
            let before = all.clone();
            for value in *values {
                let value = knob.parse_value(value).unwrap();
                all.extend(before.iter().map(|c| super::super::space::with(c, *knob, value.clone())));
            }
        }
        let rate = |c: &Configuration| self.truth(c).rate;
        let best =
            all.into_iter().filter(|c| self.has_room(c)).max_by(|a, b| rate(a).total_cmp(&rate(b))).unwrap();
        let rate = rate(&best);
        (best, rate)
    }

    pub fn facts(&self) -> MachineFacts {
        MachineFacts {
            cores: self.cores,
            cuda_devices: u32::from(self.device == Device::Cuda),
            shm_bytes: 1 << 30,
            ram_bytes: 32 << 30,
            cpu_bf16: self.cpu_bf16,
            alloc_conf: None,
            threads_set: false,
        }
    }

    pub fn recipe(&self) -> Recipe {
        let mut recipe = shipped(if self.device == Device::Cuda { "default" } else { "cpu" }).unwrap();
        recipe.limits.budget = None;
        recipe
    }

    pub fn plan(&self) -> SearchPlan {
        let mut plan = SearchPlan::new(self.device, &self.recipe(), self.facts());
        plan.cap = self.cap_words();
        plan
    }

    fn cap_words(&self) -> Cap {
        Cap {
            bytes: Some(self.cap),
            margin_bytes: 0,
            mechanism: "simulated".into(),
            scope: "process tree".into(),
            metric: "all".into(),
        }
    }

    /// One launch.
    pub fn launch(&self, spec: &TrialSpec, history: &[Observation]) -> Observation {
        let trial = history.len() as u32 + 1;
        let law = self.truth(&spec.settings);
        let confirm = spec.purpose.covers();
        let cap = spec.limit.unwrap_or(self.cap);
        let more = if spec.purpose == Purpose::Prove { law.proof_more } else { 0.0 };
        let peak = law.peak + more + if confirm { law.confirm_more } else { 0.0 };
        let too_large = peak * MIB as f64 > cap as f64;
        let (verdict, why) = match (law.end, law.not_applied, too_large) {
            (Some(v), ..) => (v, format!("it is {}", v.name())),
            (_, Some(knob), _) => (Verdict::NotApplied, format!("{knob} is not in force")),
            (_, _, true) => (Verdict::Oom, "memory ran out".into()),
            _ if self.disturbed.contains(&trial) => (Verdict::Disturbed, "other load".into()),
            _ => (Verdict::Fit, "it ran".into()),
        };
        let timed = matches!(verdict, Verdict::Fit | Verdict::Disturbed);
        let spoiled = if verdict == Verdict::Disturbed { 0.6 } else { 1.0 };
        let rate = law.rate * spoiled * (self.noise * self.normal(&spec.settings, trial)).exp();
        let workers = spec.settings.int(Knob::NumWorkers).unwrap_or(0) > 0;
        let knobs = spec
            .settings
            .0
            .iter()
            .map(|(knob, value)| KnobReport {
                knob: *knob,
                requested: value.clone(),
                effective: (law.not_applied != Some(*knob)).then(|| value.clone()),
                how: String::new(),
                objects: u32::from(law.not_applied != Some(*knob)),
                reason: None,
            })
            .collect();
        let failure = too_large.then(|| Failure {
            kind: self.failure.unwrap_or(match self.device {
                Device::Cpu => FailureKind::HostOom,
                Device::Cuda => FailureKind::GpuOom,
            }),
            fragmentation: self.fragmentation,
            fields: FailureFields::default(),
            cause: String::new(),
            evidence: None,
            next: Vec::new(),
        });
        let inspect = spec.purpose == Purpose::Baseline;
        let bytes = (peak.min(cap as f64 / MIB as f64) * MIB as f64) as u64;
        let mut observation = Observation {
            trial,
            purpose: spec.purpose,
            settings: spec.settings.clone(),
            verdict,
            why,
            end: match verdict {
                Verdict::Timeout => ProcessEnd::TimedOut,
                _ => ProcessEnd::Exited { code: 0 },
            },
            failure,
            knobs,
            timing: timed.then(|| Timing {
                steps: 20,
                step_seconds: vec![law.samples / rate; 20],
                samples_per_step: law.samples,
                samples_per_second: rate,
                interval: (rate * 0.99, rate * 1.01),
                unit: "samples/s".into(),
                loader_wait_share: if workers { 0.0 } else { self.loader_wait },
                ..Timing::default()
            }),
            peaks: match self.device {
                Device::Cpu => Peaks { host: Some(bytes), ..Peaks::default() },
                Device::Cuda => Peaks { device: Some(bytes), ..Peaks::default() },
            },
            // What only a confirm trial asks for is asked for by the evaluation.
            oom_phase: (verdict == Verdict::Oom && law.peak * MIB as f64 <= self.cap as f64)
                .then_some(Phase::Eval),
            filled: None,
            cap: self.cap_words().lowered(spec.limit),
            disturbance: Disturbance::default(),
            losses: if timed {
                law.losses.map(|l| l + law.chance * f64::from(trial)).into()
            } else {
                Vec::new()
            },
            steps: if timed { 25 } else { 0 },
            seconds: match (timed, confirm) {
                (true, true) => 14.0,
                (true, false) => 9.0,
                (false, _) => 5.0,
            },
            inspection: inspect.then(|| {
                build_inspection(&self.events(), &command(), &self.recipe(), self.device, &self.facts())
            }),
            ..blank()
        };
        observation.windows = self.windows(&observation, &spec.windows);
        let mut references = References::default();
        history.iter().for_each(|o| references.learn(o));
        let found = history.iter().find_map(|o| o.inspection.as_ref());
        let checked = references.compare(&observation, found).filter(|_| timed);
        if let Some(Parity::Diverged(d)) = checked.map(|c| c.parity) {
            (observation.verdict, observation.why) = (Verdict::Diverged, d.to_string());
        }
        observation
    }

    /// What a sweep shows: it ends where memory runs out or the script fails.
    fn windows(&self, base: &Observation, asked: &[Configuration]) -> Vec<Window> {
        let mut ended = (base.verdict != Verdict::Fit).then(|| "the launch had ended".to_owned());
        let one = |settings: &Configuration| {
            let blank = Window { settings: settings.clone(), ..Window::default() };
            let law = self.truth(settings);
            let why_not = if !self.sweeps {
                Some("nothing can be turned between two steps".to_owned())
            } else {
                law.not_applied.map(|knob| format!("{knob} is not in force")).or_else(|| ended.clone())
            };
            if why_not.is_some() {
                let refused = law.not_applied.filter(|_| self.sweeps).and_then(|knob| {
                    let requested = settings.get(knob)?.clone();
                    Some(KnobReport {
                        knob,
                        requested,
                        effective: None,
                        how: String::new(),
                        objects: 0,
                        reason: None,
                    })
                });
                let not_applied = refused.into_iter().collect();
                return Window { why_not, not_applied, ..blank };
            }
            let too_large = law.peak * MIB as f64 > self.cap as f64;
            if too_large || matches!(law.end, Some(Verdict::Failed | Verdict::Timeout)) {
                ended = Some("the launch had ended".to_owned());
                return Window { too_large, why_not: Some("it ended the launch".to_owned()), ..blank };
            }
            let error = 0.3 * self.noise;
            let rate = law.rate / self.truth(&base.settings).rate;
            let ratio = rate * (error * self.normal(settings, base.trial)).exp();
            let interval = (ratio * (-1.96 * error).exp(), ratio * (1.96 * error).exp());
            Window {
                steps: 12,
                ratio: Some(Ratio { ratio, interval }),
                samples_per_step: law.samples,
                peak: Some((law.peak * MIB as f64) as u64),
                ..blank
            }
        };
        asked.iter().map(one).collect()
    }

    /// Standard normal, the same for the same launch.
    fn normal(&self, settings: &Configuration, trial: u32) -> f64 {
        let mut state = self.seed ^ (u64::from(trial) << 32);
        for byte in settings.to_string().bytes() {
            state = splitmix(state ^ u64::from(byte));
        }
        let uniform = |n: u64| (n >> 11) as f64 / (1u64 << 53) as f64;
        let (a, b) = (uniform(splitmix(state ^ 0xA5)), uniform(splitmix(state ^ 0x5A)));
        (-2.0 * a.max(1e-12).ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    }

    /// Searches to the end.
    pub fn search(&self, plan: &SearchPlan) -> Run {
        let mut history = Vec::new();
        loop {
            match next(plan, &history) {
                Next::Trial(spec) => history.push(self.launch(&spec, &history)),
                Next::Stop(outcome) => return Run { history, outcome },
            }
            assert!(history.len() < 80, "the search does not end: {}", table(&history));
        }
    }
}

fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn blank() -> Observation {
    // Read from JSON, so that fields that the search does not look at need no word here.
    let text = r#"{"version":1,"trial":0,"purpose":"climb","settings":{},"verdict":"fit","why":"",
        "end":{"how":"exited","code":0},"failure":null,"oom_phase":null,"knobs":[],"timing":null,"peaks":{},"cap":{},
        "losses":[],"grad_norms":[],"coverage":null,"disturbance":{},"steps":0,"seconds":0.0,"tail":[],
        "inspection":null,"parity":null,"torch":true}"#;
    let text = text
        .replace(r#""peaks":{}"#, &format!(r#""peaks":{}"#, json(&Peaks::default())))
        .replace(r#""cap":{}"#, &format!(r#""cap":{}"#, json(&Cap::default())))
        .replace(r#""disturbance":{}"#, &format!(r#""disturbance":{}"#, json(&Disturbance::default())));
    serde_json::from_str(&text).unwrap()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// A configuration as one types it: `amp=bf16,checkpoint=all`.
pub fn settings(text: &str) -> Configuration {
    let mut c = Configuration::baseline();
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (knob, value) = pair.split_once('=').unwrap();
        let knob: Knob = knob.trim().parse().unwrap();
        let value: Value = knob.parse_value(value).unwrap();
        c.0.insert(knob, value);
    }
    c
}
