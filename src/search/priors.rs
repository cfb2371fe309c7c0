//! What knobs usually do to speed and memory, before anything was measured here.
//!
//! These numbers choose the order of launches, and nothing else.  They come from published figures (recomputing every
//! block costs about a third more compute, every 2nd half of that) and from runs of the example scripts; they are wide.

use super::space::sharding;
use crate::model::inspection::Inspection;
use crate::model::plan::Device;
use crate::model::{Configuration, Knob, Value};

/// As large as the model: its parameters, their gradients, two moments of the optimizer.
const MODELS: f64 = 4.0;
/// Interpreter and libraries of a process.
const PROCESS_BYTES: f64 = 400.0 * 1024.0 * 1024.0;

/// One additive effect on the logarithm of the rate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Effect {
    /// Effects with the same key are the same effect.
    pub key: String,
    /// Expected value.
    pub mean: f64,
    /// Standard deviation of that expectation.
    pub sd: f64,
}

/// What priors depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub device: Device,
    pub found: &'a Inspection,
    pub cores: u32,
    pub cpu_bf16: bool,
    /// Share of a step in which the loop waits for its loader, as measured without extra workers.
    pub loader_wait: f64,
    /// The allocator had to retry, or memory was fragmented.
    pub fragmented: bool,
    /// The script's own batch.
    pub batch: Option<i64>,
}

impl Context<'_> {
    /// The effects of a configuration, relative to the script as it is.
    pub fn effects(&self, settings: &Configuration) -> Vec<Effect> {
        settings.0.iter().flat_map(|(knob, value)| self.of(*knob, value)).collect()
    }

    fn of(&self, knob: Knob, value: &Value) -> Vec<Effect> {
        let one = |mean: f64, sd: f64| vec![Effect { key: format!("{knob}={value}"), mean, sd }];
        let cuda = self.device == Device::Cuda;
        match (knob, value) {
            (Knob::Accumulation, Value::Int(k)) => self.accumulation(*k),
            // Little is computed again, but each operator of a block passes through Python twice.
            (Knob::Checkpoint, Value::Text(t)) if t == "selective" => one(-0.12, 0.06),
            (Knob::Checkpoint, Value::Text(t)) if t == "alternate" => one(-0.15, 0.07),
            (Knob::Checkpoint, _) => one(-0.29, 0.10),
            // Every step sends the state, or most of the activations, over the bus and back.
            (Knob::Offload, Value::Text(t)) if t == "optimizer" => one(-0.20, 0.10),
            (Knob::Offload, _) => one(-0.45, 0.20),
            (Knob::IdleModels, _) => one(-0.25, 0.20),
            (Knob::InferenceMode, _) => one(0.02, 0.03),
            (Knob::Amp, _) if cuda => one(0.35, 0.30),
            (Knob::Amp, _) if self.cpu_bf16 => one(0.20, 0.35),
            (Knob::Amp, _) => one(-0.80, 0.40),
            (Knob::Malloc, Value::Text(t)) => malloc(t),
            (Knob::OmpThreads, Value::Int(n)) => {
                let ratio = (*n as f64 / self.threads()).ln();
                if ratio < 0.0 { one(0.4 * ratio, 0.30) } else { one(0.1 * ratio, 0.12) }
            }
            (Knob::NumWorkers, Value::Int(n)) => self.workers(*n),
            (Knob::PrefetchFactor, _) => one(0.05 * self.wait_gain(), 0.10 * self.wait_gain()),
            (Knob::PinMemory, _) => one(0.005, 0.015 + 0.2 * self.wait_gain()),
            (Knob::Allocator, _) if self.fragmented => one(0.10, 0.15),
            (Knob::Allocator, _) => one(0.0, 0.02),
            (Knob::BatchSize, Value::Int(b)) => self.batch_size(*b),
            // PyTorch takes lists by itself on a GPU, and a loop on the processor, where lists gain nothing.
            (Knob::Optimizer, Value::Text(t)) => match t.as_str() {
                "fused" => one(0.02, 0.03),
                "foreach" if cuda => one(0.0, 0.02),
                _ => one(-0.05, 0.03),
            },
            (Knob::Tf32, _) => one(0.15, 0.20),
            (Knob::CudnnBenchmark, _) => one(0.03, 0.06),
            (Knob::ChannelsLast, _) if cuda => one(0.05, 0.12),
            (Knob::ChannelsLast, _) => one(0.03, 0.10),
            (Knob::Compile, Value::Text(t)) => compile(t, cuda),
            // Half of the activations are mostly results that cost little to compute again.
            (Knob::ActivationMemoryBudget, Value::Text(t)) => match share(t) {
                b if b >= 0.5 => one(-0.05, 0.06),
                b if b > 0.0 => one(-0.12, 0.08),
                _ => one(-0.29, 0.10),
            },
            (Knob::EmptyCache, _) => one(-0.02, 0.02),
            // Each GPU computes its part of the batch; on the processor the same cores do.
            (Knob::Strategy, Value::Text(t)) => self.strategy(t),
            _ => one(0.0, 0.02),
        }
    }

    fn strategy(&self, word: &str) -> Vec<Effect> {
        let shared = match self.device {
            Device::Cuda => {
                Effect { key: "strategy".into(), mean: 0.8 * f64::from(self.processes()).ln(), sd: 0.3 }
            }
            Device::Cpu => Effect { key: "strategy".into(), mean: 0.0, sd: 0.25 },
        };
        let more = |mean: f64, sd: f64| Effect { key: format!("strategy={word}"), mean, sd };
        if self.found.starts_processes() {
            // It already computes with all of them; on the processor each also copies what the others send.
            return match (word, self.device) {
                ("fsdp", Device::Cpu) => vec![more(-0.5, 0.25)],
                ("fsdp", Device::Cuda) => vec![more(-0.08, 0.06)],
                ("fsdp_offload", _) => vec![more(-0.6, 0.3)],
                // Between copies and parts; how far depends on the links.
                ("hybrid", Device::Cpu) => vec![more(-0.4, 0.3)],
                ("hybrid", Device::Cuda) => vec![more(-0.05, 0.10)],
                _ => vec![shared],
            };
        }
        match word {
            "fsdp" | "hybrid" => vec![shared, more(-0.08, 0.10)],
            "fsdp_offload" => vec![shared, more(-0.6, 0.3)],
            _ => vec![shared],
        }
    }

    /// As many as `strategy` starts.
    fn processes(&self) -> u32 {
        let site = self.found.site(Knob::Strategy);
        let own = self.found.launched.world_size.max(1);
        site.and_then(|s| s.launcher.as_ref()).map_or(own, |l| l.processes.max(1))
    }

    fn threads(&self) -> f64 {
        let own = self.found.detected.as_ref().map_or(0, |d| d.threads);
        f64::from(if own > 0 { own } else { self.cores.max(1) })
    }

    /// What the rate would gain if the loop never waited.
    fn wait_gain(&self) -> f64 {
        -(1.0 - self.loader_wait.clamp(0.0, 0.95)).ln()
    }

    /// The first split, and each doubling after it.
    fn accumulation(&self, parts: i64) -> Vec<Effect> {
        let from_inside = self.found.roots.iter().any(|r| r.returns_loss);
        // Where the loss comes from inside the root, each part's gradient is taken at once; else a forward pass more.
        let first = if from_inside { -0.03 } else { -0.27 };
        let mut effects = vec![Effect { key: "accumulation".into(), mean: first, sd: 0.08 }];
        let (mean, sd) = if self.device == Device::Cuda { (-0.06, 0.06) } else { (-0.03, 0.06) };
        effects.extend(doublings(2, parts).map(|n| Effect { key: format!("accumulation>{n}"), mean, sd }));
        effects
    }

    fn workers(&self, n: i64) -> Vec<Effect> {
        let gain = self.wait_gain();
        let mut effects =
            vec![Effect { key: "num_workers".into(), mean: 0.6 * gain - 0.02, sd: 0.4 * gain + 0.01 }];
        let more = doublings(1, n).map(|n| Effect {
            key: format!("num_workers>{n}"),
            mean: 0.15 * gain,
            sd: 0.25 * gain,
        });
        effects.extend(more);
        effects
    }

    fn batch_size(&self, batch: i64) -> Vec<Effect> {
        let Some(own) = self.batch else { return Vec::new() };
        if batch > own {
            return doublings(own, batch)
                .map(|n| Effect { key: format!("batch_size>{n}"), mean: 0.10, sd: 0.12 })
                .collect();
        }
        doublings(batch, own)
            .map(|n| Effect { key: format!("batch_size<{n}"), mean: -0.08, sd: 0.08 })
            .collect()
    }

    /// What all processes together (on the processor; on a GPU one of them) hold beside what a step needs, bytes:
    /// interpreter and libraries, then parameters, gradients and two moments of the optimizer.
    pub fn fixed_bytes(&self) -> f64 {
        let all = if self.device == Device::Cpu { self.found.launched.world_size.max(1) } else { 1 };
        f64::from(all) * (PROCESS_BYTES + MODELS * self.model_bytes() + self.bucket_bytes())
    }

    /// Standard deviation of the logarithm of that: copies and buckets of DistributedDataParallel can be counted.
    pub fn fixed_spread(&self) -> f64 {
        if self.bucket_bytes() > 0.0 { 0.35 } else { 0.7 }
    }

    /// What becomes of that, relative to the script as it is: DistributedDataParallel without its second copy of the
    /// gradients, or a part of the model in each process.
    pub fn fixed(&self, settings: &Configuration) -> f64 {
        let (models, buckets) = (MODELS * self.model_bytes(), self.bucket_bytes());
        let whole = PROCESS_BYTES + models + buckets;
        if let Some(word) = sharding(settings).filter(|_| self.found.starts_processes()) {
            // Of groups there are two, unless there are more nodes than that.
            let copies = if word == "hybrid" { 2.0 } else { 1.0 };
            let part = copies / f64::from(self.processes());
            let unseen = models == 0.0; // memory ran out before the model was called
            return if unseen { 0.5 + 0.5 * part } else { (PROCESS_BYTES + models * part) / whole };
        }
        let views = settings.get(Knob::GradientAsBucketView) == Some(&Value::Bool(true));
        if views { 1.0 - buckets / whole } else { 1.0 }
    }

    /// Whether one should need less memory than another one in every respect.
    pub fn needs_less(&self, settings: &Configuration, than: &Configuration) -> bool {
        let of = |c: &Configuration| (self.fixed(c), self.transient(c));
        let ((fixed, transient), (most_fixed, most_transient)) = (of(settings), of(than));
        let no_more = fixed <= most_fixed && transient <= most_transient;
        no_more && (fixed < most_fixed || transient < most_transient)
    }

    /// Parameters and buffers of a model.
    fn model_bytes(&self) -> f64 {
        self.found.largest_root_bytes() as f64
    }

    /// The script's DistributedDataParallel copies gradients into buckets, where it does not keep them there.
    fn bucket_bytes(&self) -> f64 {
        let exchange = self.found.detected.as_ref().and_then(|d| d.exchange.as_ref());
        exchange.map_or(0.0, |e| if e.gradient_as_bucket_view { 0.0 } else { self.model_bytes() })
    }

    /// What becomes of the memory that a step needs beyond parameters and optimizer, relative to the script as it is.
    pub fn transient(&self, settings: &Configuration) -> f64 {
        settings.0.iter().map(|(k, v)| self.transient_of(*k, v)).product()
    }

    /// The same as effects on the logarithm, with how uncertain they are.
    pub fn footprint(&self, settings: &Configuration) -> Vec<Effect> {
        settings.0.iter().flat_map(|(knob, value)| self.footprint_of(*knob, value)).collect()
    }

    fn footprint_of(&self, knob: Knob, value: &Value) -> Vec<Effect> {
        let own = |sd: f64| Effect {
            key: format!("{knob}={value}"),
            mean: self.transient_of(knob, value).ln(),
            sd,
        };
        match knob {
            // How well a split works at all is one question for all numbers of parts.
            Knob::Accumulation => vec![Effect { key: "accumulation".into(), mean: 0.0, sd: 0.2 }, own(0.1)],
            // Memory is proportional to the batch; what is not proportional is what is fixed.
            Knob::BatchSize => vec![own(0.03)],
            Knob::Checkpoint | Knob::Offload | Knob::ActivationMemoryBudget => vec![own(0.35)],
            Knob::Amp | Knob::Strategy | Knob::IdleModels => vec![own(0.25)],
            // What a worker takes depends on the script, and little on how many there are.
            Knob::NumWorkers => vec![Effect { key: "num_workers".into(), mean: 0.0, sd: 0.2 }, own(0.1)],
            Knob::Malloc | Knob::Compile => vec![own(0.12)],
            _ => vec![own(0.04)],
        }
    }

    fn transient_of(&self, knob: Knob, value: &Value) -> f64 {
        match (knob, value) {
            (Knob::Accumulation, Value::Int(k)) => 1.0 / (*k).max(1) as f64 + 0.02,
            // Results of products are most of what a block keeps.
            (Knob::Checkpoint, Value::Text(t)) if t == "selective" => 0.75,
            (Knob::Checkpoint, Value::Text(t)) if t == "alternate" => 0.58,
            (Knob::Checkpoint, _) => 0.30,
            (Knob::Offload, Value::Text(t)) if t == "optimizer" => 0.85,
            (Knob::Offload, _) => 0.35,
            // Its parameters, gradients and moments; what a step needs beyond them stays.
            (Knob::IdleModels, _) => 0.85,
            (Knob::Amp, _) if self.device == Device::Cuda => 0.65,
            (Knob::Amp, _) => 0.75,
            (Knob::Malloc, Value::Text(t)) => match t.as_str() {
                "trim" => 0.85,
                "retain" | "huge" => 1.18,
                _ => 1.0,
            },
            (Knob::Allocator, _) => 0.92,
            // One activation at a time: what overwrites and what is overwritten are never there together.
            (Knob::Inplace, _) => 0.97,
            (Knob::BatchSize, Value::Int(b)) => self.batch.map_or(1.0, |own| *b as f64 / own as f64),
            // Lists need room for intermediate results of all parameters at once.
            (Knob::Optimizer, Value::Text(t)) if t == "foreach" && self.device == Device::Cpu => 1.05,
            (Knob::Compile, Value::Text(t)) if t == "reduce-overhead" => 1.05,
            // What is computed again in the backward pass takes room there: the peak does not fall with the budget.
            (Knob::ActivationMemoryBudget, Value::Text(t)) => match share(t) {
                b if b >= 1.0 => 1.0,
                b if b > 0.0 => 0.70,
                _ => 0.85,
            },
            // On the processor the limit is about all processes together.
            (Knob::Strategy, _) if self.device == Device::Cpu => 1.0,
            // Each process has its whole batch already, of which nothing changes; see `fixed`.
            (Knob::Strategy, _) if self.found.starts_processes() => 1.0,
            (Knob::Strategy, _) => 1.0 / f64::from(self.processes()),
            (Knob::NumWorkers, Value::Int(n)) if self.device == Device::Cpu => 1.0 + 0.03 * *n as f64,
            _ => 1.0,
        }
    }
}

/// A number from 0 to 1.
fn share(text: &str) -> f64 {
    text.parse().unwrap_or(1.0)
}

/// Seen on three small models, two cores: keeping freed memory makes steps 1.0 to 2.2 times as fast, huge pages 1.0 to
/// 1.7 times, both together little more than the better one; giving memory back at once up to 1.9 times as slow.
fn malloc(word: &str) -> Vec<Effect> {
    let effect = |key: &str, mean: f64, sd: f64| Effect { key: format!("malloc: {key}"), mean, sd };
    match word {
        "retain" => vec![effect("kept", 0.12, 0.20)],
        "huge" => vec![effect("kept", 0.12, 0.20), effect("pages on top", 0.04, 0.05)],
        "pages" => vec![effect("pages", 0.08, 0.12)],
        "trim" => vec![effect("trim", -0.45, 0.20)],
        _ => Vec::new(),
    }
}

/// Published figures for GPUs are 1.1 to 2 times as fast in training; on the processor it gains less, and sometimes
/// loses.  CUDA graphs add to it where kernels are short.
fn compile(word: &str, cuda: bool) -> Vec<Effect> {
    let effect = |key: &str, mean: f64, sd: f64| Effect { key: format!("compile: {key}"), mean, sd };
    let compiled = if cuda { effect("code", 0.20, 0.20) } else { effect("code", 0.05, 0.15) };
    match word {
        "off" => Vec::new(),
        "default" => vec![compiled],
        "reduce-overhead" => vec![compiled, effect("graphs", 0.02, 0.08)],
        _ => vec![compiled, effect("tuned", 0.02, 0.06)],
    }
}

/// The doublings that lead from `low` to `high`: `low`, 2 low, 4 low ... below `high`.
fn doublings(low: i64, high: i64) -> impl Iterator<Item = i64> {
    std::iter::successors(Some(low.max(1)), |n| n.checked_mul(2)).take_while(move |n| *n < high)
}
