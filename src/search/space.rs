//! Which configurations there are: values of knobs, rungs of the ladder, what the policy allows.

use super::SearchPlan;
use crate::model::inspection::{Inspection, KnobSite};
use crate::model::plan::Device;
use crate::model::{BatchPolicy, Configuration, Knob, NumericsClass, Value};
use crate::recipe::Rung;

/// A batch is split into at most this many parts: smaller ones only add launches of kernels.
const MOST_PARTS: u64 = 64;

/// Knobs that lower the demand for device memory, in no order.
pub(super) const MEMORY: [Knob; 11] = [
    Knob::Allocator,
    Knob::Accumulation,
    Knob::Amp,
    Knob::Checkpoint,
    Knob::BatchSize,
    Knob::Malloc,
    Knob::Offload,
    Knob::Inplace,
    Knob::ActivationMemoryBudget,
    Knob::IdleModels,
    Knob::GradientAsBucketView,
];

/// Settings of the buckets in which copies of a model exchange gradients.
const BUCKETS: [Knob; 2] = [Knob::GradientAsBucketView, Knob::BucketCapMb];

/// What can be set, and to what.
pub(super) struct Space<'a> {
    plan: &'a SearchPlan,
    found: &'a Inspection,
    /// The loosest class that may be used.
    bound: NumericsClass,
}

impl<'a> Space<'a> {
    pub fn new(plan: &'a SearchPlan, found: &'a Inspection, bound: NumericsClass) -> Self {
        Self { plan, found, bound }
    }

    pub fn found(&self) -> &'a Inspection {
        self.found
    }

    /// The same with a looser bound.
    pub fn loosened(&self, bound: NumericsClass) -> Self {
        Self { plan: self.plan, found: self.found, bound }
    }

    /// How a knob is turned, if the bound allows it.
    pub fn site(&self, knob: Knob) -> Option<&'a KnobSite> {
        let site = self.found.site(knob)?;
        let allowed = match knob {
            Knob::BatchSize => self.may_change_batch(),
            _ => site.class <= self.bound,
        };
        allowed.then_some(site)
    }

    fn may_change_batch(&self) -> bool {
        self.plan.policy.batch != BatchPolicy::Keep || self.bound == NumericsClass::Dynamics
    }

    /// Whether every setting can be made, within the bound, beside the others.
    pub fn allows(&self, settings: &Configuration) -> bool {
        settings.0.iter().all(|(knob, value)| self.takes(*knob, value))
            && self.budget_has_sense(settings)
            && self.buckets_have_sense(settings)
            // Compiled code has nothing to gain from it.
            && !(settings.get(Knob::InferenceMode).is_some() && settings.get(Knob::Compile).is_some())
    }

    /// A budget is for what is compiled, and says the same as `checkpoint` in another way.
    fn budget_has_sense(&self, settings: &Configuration) -> bool {
        settings.get(Knob::ActivationMemoryBudget).is_none()
            || settings.get(Knob::Checkpoint).is_none()
                && (settings.get(Knob::Compile).is_some() || self.compiles_itself())
    }

    /// Copies of a model exchange gradients in buckets: the script's own copies, or those of `strategy=ddp`.
    fn buckets_have_sense(&self, settings: &Configuration) -> bool {
        let asked = BUCKETS.iter().any(|knob| settings.get(*knob).is_some());
        let own = self.found.detected.as_ref().is_some_and(|d| d.exchange.is_some());
        let copies = settings.text(Knob::Strategy).map_or(own, |word| word == "ddp");
        !asked || copies
    }

    fn compiles_itself(&self) -> bool {
        self.found.detected.as_ref().is_some_and(|d| d.compile)
    }

    /// A knob alone, with what it means nothing without.
    fn alone(&self, knob: Knob, value: Value) -> Configuration {
        let settings = with(&Configuration::baseline(), knob, value);
        if self.budget_has_sense(&settings) {
            return settings;
        }
        with(&settings, Knob::Compile, "default".into())
    }

    fn takes(&self, knob: Knob, value: &Value) -> bool {
        let Some(site) = self.site(knob) else { return false };
        let listed = site.values.is_empty() || site.values.contains(value);
        let in_range = match (knob, value) {
            (Knob::Accumulation, Value::Int(k)) => self.parts().is_none_or(|most| *k as u64 <= most),
            (Knob::BatchSize, Value::Int(b)) => self.batch_range().is_none_or(|(l, h)| *b >= l && *b <= h),
            _ => true,
        };
        listed && in_range
    }

    /// The most parts that a batch can be split into; `None` when its size is not known.
    fn parts(&self) -> Option<u64> {
        let root = self.found.roots.iter().filter(|r| r.trainable > 0).max_by_key(|r| r.parameters);
        root.and_then(|r| r.batch).filter(|b| *b > 0).map(|b| b.min(MOST_PARTS))
    }

    /// The script's own batch, in the unit of the option or loader that sets it.
    pub fn batch(&self) -> Option<i64> {
        let site = self.found.site(Knob::BatchSize)?;
        site.current.as_ref()?.parse().ok().filter(|b| *b > 0)
    }

    fn batch_range(&self) -> Option<(i64, i64)> {
        let own = self.batch()?;
        let most = match (self.plan.policy.batch, self.plan.policy.max_batch) {
            (_, Some(n)) => i64::try_from(n).unwrap_or(i64::MAX),
            (BatchPolicy::Max, None) => own.saturating_mul(64),
            _ => own,
        };
        Some((1, most))
    }

    /// A value that says no more than what the script does anyway.
    fn is_own(&self, knob: Knob, value: &Value) -> bool {
        let own = self.found.site(knob).and_then(|s| s.current.clone());
        match knob {
            Knob::Accumulation => *value == Value::Int(1),
            Knob::Amp => *value == Value::from("off"),
            Knob::Checkpoint | Knob::Offload => *value == Value::from("none"),
            Knob::Malloc => *value == Value::from("default"),
            Knob::Strategy => own.unwrap_or_else(|| "single".to_owned()) == value.to_string(),
            Knob::Compile => *value == Value::from("off"),
            Knob::ActivationMemoryBudget => *value == Value::from("1"),
            Knob::IdleModels => *value == Value::from("device"),
            _ => own.is_some_and(|o| o.eq_ignore_ascii_case(&value.to_string())),
        }
    }

    /// `settings` without what the script does anyway.
    pub fn plain(&self, settings: &Configuration) -> Configuration {
        let kept = settings.0.iter().filter(|(k, v)| !self.is_own(**k, v));
        Configuration(kept.map(|(k, v)| (*k, v.clone())).collect())
    }

    /// The values of a knob that are worth trying here, in order; the script's own is not among them.
    pub fn values(&self, knob: Knob) -> Vec<Value> {
        let Some(site) = self.site(knob) else { return Vec::new() };
        let listed = self.plan.rules.get(&knob).map(|r| r.values.as_slice()).unwrap_or_default();
        let values = if listed.is_empty() { self.usual_values(knob, site) } else { listed.to_vec() };
        values.into_iter().filter(|v| self.takes(knob, v) && !self.is_own(knob, v)).collect()
    }

    fn usual_values(&self, knob: Knob, site: &KnobSite) -> Vec<Value> {
        let ints = |values: Vec<u64>| values.into_iter().map(|v| Value::Int(v as i64)).collect();
        match knob {
            Knob::Allocator => site.values.clone(),
            Knob::Accumulation => ints(powers(2, self.parts().unwrap_or(MOST_PARTS))),
            Knob::Amp => vec![self.low_precision(site)],
            Knob::Checkpoint => vec!["selective".into(), "alternate".into(), "all".into()],
            Knob::Malloc => vec!["huge".into(), "retain".into(), "pages".into(), "trim".into()],
            Knob::BatchSize => self.batch_values(),
            Knob::OmpThreads => {
                let cores = u64::from(self.plan.machine.cores.max(1));
                let mut values = vec![cores, cores / 2, cores / 4, 1];
                values.retain(|v| *v > 0);
                values.dedup();
                ints(values)
            }
            Knob::NumWorkers => {
                let cores = u64::from(self.plan.machine.cores.max(1));
                ints(std::iter::once(1).chain(powers(2, cores.min(16))).collect())
            }
            Knob::PinMemory | Knob::PersistentWorkers => vec![true.into()],
            Knob::PrefetchFactor => ints(vec![4, 8]),
            Knob::Offload => vec!["optimizer".into(), "activations".into()],
            Knob::IdleModels => vec!["host".into()],
            Knob::Strategy if self.found.starts_processes() => self.sharded(site),
            // Where a recipe lists them.
            Knob::Strategy | Knob::Processes | Knob::BucketCapMb => Vec::new(),
            Knob::Optimizer => vec!["fused".into(), "foreach".into()],
            Knob::SetToNone
            | Knob::Tf32
            | Knob::CudnnBenchmark
            | Knob::ChannelsLast
            | Knob::EmptyCache
            | Knob::Inplace
            | Knob::InferenceMode
            | Knob::GradientAsBucketView => vec![true.into()],
            // The longest search for kernels, an hour for some models, is made where a recipe asks for it.
            Knob::Compile if self.plan.device == Device::Cuda => {
                vec!["default".into(), "reduce-overhead".into()]
            }
            Knob::Compile => vec!["default".into()],
            // With 0 all of a model is computed again at once, in the backward pass, whose peak is no lower then.
            Knob::ActivationMemoryBudget => vec!["0.5".into(), "0.25".into()],
        }
    }

    /// Blocks of a sharded model come and go all the time, and what is let go stays with the C library otherwise.
    fn given_back(&self, settings: &Configuration) -> Configuration {
        let stays =
            sharding(settings).is_some() && self.plan.device == Device::Cpu && self.found.starts_processes();
        if stays { with(settings, Knob::Malloc, "trim".into()) } else { settings.clone() }
    }

    /// Instead of the script's DistributedDataParallel; on the processor host memory is where the parts are anyway.
    /// In groups only where a recipe asks for it: it pays where links between nodes are slow, which is not known here.
    fn sharded(&self, site: &KnobSite) -> Vec<Value> {
        let cpu = self.plan.device == Device::Cpu;
        let is_wanted = |v: &&Value| {
            let Value::Text(word) = v else { return false };
            word == "fsdp" || word == "fsdp_offload" && !cpu
        };
        site.values.iter().filter(is_wanted).cloned().collect()
    }

    /// bf16, which needs no gradient scaler; fp16 where the device has nothing else.
    fn low_precision(&self, site: &KnobSite) -> Value {
        let bf16 = Value::from("bf16");
        let only_fp16 = !site.values.contains(&bf16) && site.values.contains(&"fp16".into());
        if only_fp16 { "fp16".into() } else { bf16 }
    }

    /// Half, quarter, eighth and sixteenth; double and more where that is allowed.
    fn batch_values(&self) -> Vec<Value> {
        let Some((own, (_, most))) = self.batch().zip(self.batch_range()) else { return Vec::new() };
        let smaller = (1..=4).map(|n| own >> n).filter(|b| *b > 0);
        let larger = (1..=6).filter_map(|n| own.checked_mul(1 << n)).filter(|b| *b <= most);
        larger.chain((most > own && most % own != 0).then_some(most)).chain(smaller).map(Value::Int).collect()
    }

    /// The ladder as configurations, in its order, then the strongest that can be put together.
    pub fn rungs(&self) -> Vec<Configuration> {
        let mut all = Vec::new();
        let mut add = |settings: Configuration| {
            let plain = self.plain(&settings);
            if !plain.is_baseline() && !all.contains(&plain) && self.allows(&plain) {
                all.push(plain);
            }
        };
        for rung in &self.plan.ladder {
            match rung {
                Rung::Knob { knob, values } if values.is_empty() => {
                    let lower = |v: &Value| lowers_memory(*knob, v, self.batch());
                    for value in self.values(*knob).into_iter().filter(lower) {
                        let settings = self.alone(*knob, value);
                        add(settings.clone());
                        add(self.given_back(&settings));
                    }
                }
                Rung::Knob { knob, values } => {
                    for value in values.iter().filter(|v| self.takes(*knob, v)) {
                        add(self.alone(*knob, value.clone()));
                    }
                }
                // What cannot be turned here drops out of the rung; a count too large for the batch becomes smaller.
                Rung::Together(together) => {
                    let parts = together.0.iter().filter_map(|(k, v)| self.nearest(*k, v).map(|v| (*k, v)));
                    add(Configuration(parts.collect()));
                }
            }
        }
        if self.may_change_batch() {
            for value in self.values(Knob::BatchSize) {
                if lowers_memory(Knob::BatchSize, &value, self.batch()) {
                    add(with(&Configuration::baseline(), Knob::BatchSize, value));
                }
            }
        }
        for settings in self.strongest() {
            add(settings);
        }
        all
    }

    fn nearest(&self, knob: Knob, value: &Value) -> Option<Value> {
        if self.takes(knob, value) {
            return Some(value.clone());
        }
        match (knob, value, self.parts()) {
            (Knob::Amp, Value::Text(t), _) if t == "bf16" => {
                self.site(knob).map(|s| self.low_precision(s)).filter(|v| self.takes(knob, v))
            }
            (Knob::Accumulation, Value::Int(k), Some(most)) if self.site(knob).is_some() && most >= 2 => {
                let largest = powers(2, most).last().copied().unwrap_or(2) as i64;
                Some(Value::Int(largest.min(*k)))
            }
            _ => None,
        }
    }

    /// Everything that lowers memory, at its strongest; first with every process's model whole, then in parts, then
    /// with lower precision, then with a smaller batch where that is allowed.
    fn strongest(&self) -> Vec<Configuration> {
        let mut settings = Configuration::baseline();
        let mut all = Vec::new();
        let last = |knob: Knob| self.values(knob).into_iter().rfind(|v| lowers_memory(knob, v, self.batch()));
        let sharded = if self.found.starts_processes() { &[Knob::Strategy][..] } else { &[] };
        for group in [&[Knob::Accumulation, Knob::Checkpoint][..], sharded, &[Knob::Amp], &[Knob::BatchSize]]
        {
            for knob in group {
                if let Some(value) = last(*knob) {
                    settings = with(&settings, *knob, value);
                }
            }
            settings = self.given_back(&settings);
            all.push(settings.clone());
        }
        all
    }
}

/// Whether a value asks for less memory than the script's own.
pub(super) fn lowers_memory(knob: Knob, value: &Value, own_batch: Option<i64>) -> bool {
    match (knob, value) {
        (Knob::Malloc, Value::Text(t)) => t == "trim",
        (Knob::BatchSize, Value::Int(b)) => own_batch.is_some_and(|own| *b < own),
        (Knob::Allocator | Knob::Accumulation | Knob::Amp | Knob::Checkpoint | Knob::Offload, _) => true,
        (Knob::Inplace | Knob::GradientAsBucketView, Value::Bool(on)) => *on,
        (Knob::ActivationMemoryBudget, Value::Text(t)) => t != "1",
        (Knob::IdleModels, Value::Text(t)) => t == "host",
        (Knob::Strategy, Value::Text(t)) => t != "single",
        _ => false,
    }
}

/// The strategy with which each process has a part of the model, where it is not a copy in each.
pub(super) fn sharding(settings: &Configuration) -> Option<&str> {
    settings.text(Knob::Strategy).filter(|word| *word != "ddp")
}

/// `settings` with one more.
pub(super) fn with(settings: &Configuration, knob: Knob, value: Value) -> Configuration {
    let mut next = settings.clone();
    next.0.insert(knob, value);
    next
}

/// `settings` without a knob, and without those that mean nothing without it.
pub(super) fn without(settings: &Configuration, knob: Knob) -> Configuration {
    let next = settings.without(knob);
    if knob == Knob::Strategy {
        return BUCKETS.iter().fold(next.without(Knob::Processes), |next, knob| next.without(*knob));
    }
    if knob == Knob::Compile {
        return next.without(Knob::ActivationMemoryBudget);
    }
    if knob == Knob::NumWorkers {
        return next.without(Knob::PrefetchFactor).without(Knob::PersistentWorkers);
    }
    next
}

/// 2, 4, 8 ... up to `most`.
fn powers(first: u64, most: u64) -> Vec<u64> {
    std::iter::successors(Some(first), |n| n.checked_mul(2)).take_while(|n| *n <= most).collect()
}

/// Whether the machine has what a knob needs to pay; else why not.
pub(super) fn cannot_pay(
    knob: Knob,
    plan: &SearchPlan,
    found: &Inspection,
    loader_wait: Option<f64>,
) -> Option<String> {
    let waits = loader_wait.unwrap_or(0.0);
    match knob {
        Knob::NumWorkers | Knob::PrefetchFactor if waits < LITTLE_WAIT => {
            Some(format!("the loop waits for its loader in {:.0} % of a step", waits * 100.0))
        }
        Knob::NumWorkers if plan.machine.cores < 2 => Some("there is one core".to_owned()),
        Knob::PersistentWorkers => {
            Some("it saves time between epochs only, which short trials do not see".to_owned())
        }
        Knob::Amp if plan.device == Device::Cpu && !plan.machine.cpu_bf16 => {
            Some("this processor has no bf16 hardware; it is tried only where memory needs it".to_owned())
        }
        Knob::OmpThreads if plan.machine.cores < 2 => Some("there is one core".to_owned()),
        Knob::Optimizer => update_share(found)
            .filter(|share| *share < LITTLE_UPDATE)
            .map(|share| format!("updating the parameters takes {:.1} % of a step", share * 100.0)),
        Knob::EmptyCache if plan.device == Device::Cuda => {
            Some("it costs time; it is tried only where evaluation or saving runs out of memory".to_owned())
        }
        Knob::Inplace if found.site(knob).is_some() => {
            Some("it spares one activation at a time; it is tried only where memory needs it".to_owned())
        }
        Knob::ActivationMemoryBudget | Knob::IdleModels if found.site(knob).is_some() => {
            Some("it gives time for memory; it is tried only where memory needs it".to_owned())
        }
        Knob::Strategy if found.starts_processes() && found.site(knob).is_some() => {
            Some("parts of a model cost time; it is tried only where memory needs it".to_owned())
        }
        _ => found.knobs.iter().find(|s| s.knob == knob && s.way.is_none()).and_then(|s| s.why_not.clone()),
    }
}

/// The part of a step that optimizers take, where it was measured.
fn update_share(found: &Inspection) -> Option<f64> {
    found.detected.as_ref()?.update.as_ref()?.share
}

/// Below this share of a step, another way to update parameters cannot be worth a launch.
const LITTLE_UPDATE: f64 = 0.02;

/// Below this share of a step, waiting for the loader cannot be worth more launches.
pub(super) const LITTLE_WAIT: f64 = 0.03;
