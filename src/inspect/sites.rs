//! One knob -> how it is turned for this script, or why not.

use super::names::Meaning;
use super::options::{self, Match, Turned};
use super::{MachineFacts, environment, frameworks, kernels, ranks};
use crate::model::inspection::{Detected, Inspection, KnobSite, LoaderInfo, RootInfo};
use crate::model::plan::{Device, Way};
use crate::model::{Knob, NumericsClass, Value};
use crate::recipe::KnobRule;

/// A script with more roots than this calls parts of a model, not models.
const MANY_MODELS: u32 = 8;

/// A knob with a way.
pub(super) fn site(knob: Knob, way: Way, how: impl Into<String>) -> KnobSite {
    KnobSite {
        knob,
        class: knob.class(),
        way: Some(way),
        how: how.into(),
        why_not: None,
        args: Vec::new(),
        turns: Vec::new(),
        env: Default::default(),
        env_by_value: Default::default(),
        values: Vec::new(),
        launcher: None,
        current: None,
    }
}

/// A knob without one.
pub(super) fn refused(knob: Knob, why: impl Into<String>) -> KnobSite {
    KnobSite { way: None, why_not: Some(why.into()), ..site(knob, Way::Agent, String::new()) }
}

/// As the recipe says.
pub(super) fn by_recipe(knob: Knob, rule: &KnobRule, found: &Inspection) -> KnobSite {
    let env = rule.env.iter().map(|(name, value)| format!("{name}={value}"));
    let how: Vec<String> = rule.args.iter().cloned().chain(env).collect();
    KnobSite {
        args: rule.args.clone(),
        env: rule.env.clone(),
        class: class(knob, found),
        current: current(knob, found),
        ..site(knob, Way::Recipe, how.join(" "))
    }
}

/// As found: the script's option, a framework's switch, the agent, the environment.
/// `wanted`: the values that the recipe lists, if it does.
pub(super) fn find(knob: Knob, found: &Inspection, machine: &MachineFacts, wanted: &[Value]) -> KnobSite {
    let mut site = match knob {
        Knob::Allocator => environment::allocator(found, machine, wanted),
        Knob::OmpThreads => environment::omp_threads(found, machine),
        Knob::Malloc => environment::malloc(found),
        Knob::BatchSize => batch_size(found),
        Knob::Accumulation => accumulation(found),
        Knob::Amp => amp(found, machine),
        Knob::Checkpoint => checkpoint(found),
        Knob::NumWorkers => num_workers(found, machine),
        Knob::PinMemory => pin_memory(found),
        Knob::PrefetchFactor => loader_knob(knob, found),
        Knob::PersistentWorkers => loader_knob(knob, found),
        Knob::Offload => offload(found),
        Knob::IdleModels => idle_models(found),
        Knob::Strategy => ranks::strategy(found, machine),
        Knob::Processes => ranks::processes(found, machine),
        Knob::GradientAsBucketView | Knob::BucketCapMb => ranks::buckets(knob, found, machine),
        Knob::Optimizer
        | Knob::SetToNone
        | Knob::Tf32
        | Knob::CudnnBenchmark
        | Knob::ChannelsLast
        | Knob::Compile
        | Knob::EmptyCache
        | Knob::Inplace
        | Knob::ActivationMemoryBudget
        | Knob::InferenceMode => kernels::find(knob, found),
    };
    if let Some(switch) = found.switches.iter().find(|s| s.knob == knob) {
        site = frameworks::through(site, switch);
    }
    site.class = class(knob, found);
    if site.current.is_none() {
        site.current = current(knob, found);
    }
    site
}

/// What turning it does to the training of this script.
fn class(knob: Knob, found: &Inspection) -> NumericsClass {
    let dropout = found.roots.iter().any(|r| r.dropout);
    match knob {
        // A split draws one dropout mask for each part.
        Knob::Accumulation if dropout => NumericsClass::Distribution,
        // Each process draws masks for its part of a batch; where the command starts them, it has one of its own.
        Knob::Strategy | Knob::Processes if dropout && found.launched.world_size < 2 => {
            NumericsClass::Distribution
        }
        // Random transforms draw from each worker's own generator; whether there are any cannot be seen.
        Knob::NumWorkers => NumericsClass::Distribution,
        _ => knob.class(),
    }
}

/// The script's own value.
fn current(knob: Knob, found: &Inspection) -> Option<String> {
    let loader = found.training_loader();
    let detected = found.detected.as_ref();
    match knob {
        Knob::BatchSize => effective_batch(found).map(|b| b.to_string()),
        Knob::Accumulation => detected.map(|d| d.accumulation).filter(|n| *n > 0).map(|n| n.to_string()),
        Knob::Amp => detected.map(|d| d.amp.clone().unwrap_or_else(|| "off".into())),
        Knob::Checkpoint => {
            detected.map(|d| if d.checkpointing { "the script's own" } else { "none" }.to_owned())
        }
        Knob::NumWorkers => loader.map(|l| l.num_workers.to_string()),
        Knob::PinMemory => loader.map(|l| l.pin_memory.to_string()),
        Knob::PrefetchFactor => loader.and_then(|l| l.prefetch_factor).map(|p| p.to_string()),
        Knob::PersistentWorkers => loader.map(|l| l.persistent_workers.to_string()),
        _ => kernels::current(knob, found),
    }
}

/// Samples of one optimizer step, as far as one launch can know.
fn effective_batch(found: &Inspection) -> Option<u64> {
    let detected = found.detected.as_ref().filter(|d| d.samples_per_step > 0 && d.samples_from != "unknown");
    detected.map(|d| d.samples_per_step).or_else(|| found.training_loader()?.batch_size)
}

/// The root that trains: the largest of those seen.
pub(super) fn main_root(found: &Inspection) -> Option<&RootInfo> {
    found.roots.iter().filter(|r| r.trainable > 0 || r.serves).max_by_key(|r| r.parameters)
}

/// Knobs of a backward pass have nothing to act on in a script that never trains.
pub(super) fn never_trains(knob: Knob, found: &Inspection) -> Option<KnobSite> {
    main_root(found).filter(|r| r.serves).map(|root| {
        refused(knob, format!("{} is only called without gradients: nothing is trained", root.class))
    })
}

fn batch_size(found: &Inspection) -> KnobSite {
    let knob = Knob::BatchSize;
    let loader = found.training_loader();
    let detected = found.detected.as_ref();
    // What the option sets is the loader's batch (the script may accumulate on top), else the samples of a step.
    let seen = match (loader, detected) {
        (Some(l), _) => l.batch_size,
        (None, Some(d)) if d.samples_per_step > 0 && d.accumulation <= 1 && d.samples_from == "loader" => {
            Some(d.samples_per_step)
        }
        _ => None,
    };
    if detected.is_some_and(|d| d.accumulation > 1) {
        return refused(
            knob,
            "the script accumulates gradients by itself, so its option is not the effective batch",
        );
    }
    match options::count(Meaning::Batch, found, seen) {
        Match::Options(turned) => by_options(knob, turned),
        other => match loader {
            Some(l) if l.batch_size.is_some() && !l.iterable => {
                site(knob, Way::Agent, format!("DataLoader.__init__ at {}", l.site))
            }
            Some(_) => refused(knob, "the training loader makes its batches by itself"),
            None => match other {
                Match::Unusable(why) => refused(knob, why),
                _ => refused(knob, "the script has no option for it and no DataLoader"),
            },
        },
    }
}

fn by_options(knob: Knob, turned: Turned) -> KnobSite {
    let Turned { turns, how, current, values } = turned;
    KnobSite { turns, current, values, ..site(knob, Way::Option, how) }
}

fn accumulation(found: &Inspection) -> KnobSite {
    let knob = Knob::Accumulation;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    let detected = found.detected.as_ref();
    let Some(root) = main_root(found) else {
        return refused(knob, no_root(found));
    };
    if root.batch_norm {
        return refused(
            knob,
            "BatchNorm takes its statistics from the whole batch; a split would change training",
        );
    }
    if root.batch == Some(1) {
        return refused(knob, "the batch has one sample");
    }
    // The script's own accumulation knows its loop; what follows is about a split inside the model's call.
    let own = detected.map(|d| u64::from(d.accumulation)).filter(|n| *n > 0);
    let seen = match found.training_loader() {
        Some(loader) => loader.batch_size,
        None => root.batch,
    };
    let in_call = split_in_call(found, root);
    let Match::Options(mut turned) = options::accumulation(found, own, seen) else { return in_call };
    let Some(rest) = uneven_end(found) else { return by_options(knob, turned) };
    // The script's micro-batches at an epoch's end are fewer than elsewhere, and weigh as its own code has it.
    if in_call.way.is_some() {
        return in_call;
    }
    turned.how.push_str(&format!("; an epoch's last {rest} samples may weigh otherwise"));
    by_options(knob, turned)
}

/// Samples that an epoch has beyond whole batches.
fn uneven_end(found: &Inspection) -> Option<u64> {
    let loader = found.training_loader()?;
    let batch = loader.batch_size.filter(|b| *b > 0)?;
    loader.dataset_length.map(|length| length % batch).filter(|rest| *rest > 0)
}

/// The agent's own way: the batch in parts inside the model's call.
fn split_in_call(found: &Inspection, root: &RootInfo) -> KnobSite {
    let knob = Knob::Accumulation;
    let trained = found.roots.iter().filter(|r| r.trainable > 0).count();
    let detected = found.detected.as_ref();
    if found.starts_processes() {
        return refused(
            knob,
            "several processes train, and DistributedDataParallel expects one backward pass for each call",
        );
    }
    if let Some(why) = not_linear(detected) {
        return refused(knob, why);
    }
    if trained > 1 || detected.is_some_and(|d| d.roots > 1) {
        return refused(knob, "more than one model is trained, and a loss may join them");
    }
    if root.batch_dim == Some(1) {
        return refused(
            knob,
            "the sequence is dimension 0 of what the model is given, and only that is split",
        );
    }
    if root.recurrent && root.several_inputs {
        return refused(knob, "a recurrent state is passed along, and it is not known how to split it");
    }
    let how = if root.returns_loss {
        format!("the call of {} in parts, the gradient of each part taken at once", root.class)
    } else {
        format!("the call of {} in parts, each recomputed in the backward pass", root.class)
    };
    site(knob, Way::Agent, how)
}

/// Training for which a batch's gradient is not the mean of its parts' gradients.
fn not_linear(detected: Option<&Detected>) -> Option<String> {
    let d = detected?;
    if d.optimizers.iter().any(|o| o.contains("LBFGS")) {
        return Some("LBFGS calls the model several times in a step".to_owned());
    }
    if d.double_backward {
        return Some("the script differentiates through its gradients".to_owned());
    }
    None
}

fn checkpoint(found: &Inspection) -> KnobSite {
    let knob = Knob::Checkpoint;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    let detected = found.detected.as_ref();
    if detected.is_some_and(|d| d.checkpointing) {
        return refused(knob, "the script checkpoints by itself");
    }
    if detected.is_some_and(|d| d.double_backward) {
        return refused(knob, "the script differentiates through its gradients");
    }
    if let Match::Options(turned) =
        options::switch(Meaning::Checkpointing, found, ["all".into(), "none".into()], false)
    {
        return by_options(knob, turned);
    }
    let blocks = found.roots.iter().filter_map(|r| Some((r, r.blocks.as_ref()?)));
    match blocks
        .max_by(|a, b| (a.1.share * a.0.parameters as f64).total_cmp(&(b.1.share * b.0.parameters as f64)))
    {
        Some((root, blocks)) => {
            let how = format!(
                "{} x {} in {}.{}, recomputed in the backward pass",
                blocks.count, blocks.class, root.class, blocks.path
            );
            site(knob, Way::Agent, how)
        }
        None if found.roots.is_empty() => refused(knob, no_root(found)),
        None => refused(knob, "the model has no repeated blocks"),
    }
}

fn offload(found: &Inspection) -> KnobSite {
    let knob = Knob::Offload;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    if found.device != Device::Cuda {
        return refused(knob, "activations and optimizer state are in host memory already");
    }
    let Some(root) = main_root(found) else {
        return refused(knob, no_root(found));
    };
    let compiled = found.detected.as_ref().is_some_and(|d| d.compile);
    let words: &[&str] =
        if compiled { &["none", "optimizer"] } else { &["none", "optimizer", "activations"] };
    let how =
        format!("what the call of {} saves, or the optimizer's state, in page-locked memory", root.class);
    KnobSite { values: words.iter().map(|w| Value::from(*w)).collect(), ..site(knob, Way::Agent, how) }
}

fn idle_models(found: &Inspection) -> KnobSite {
    let knob = Knob::IdleModels;
    if let Some(refusal) = never_trains(knob, found) {
        return refusal;
    }
    if found.device != Device::Cuda {
        return refused(knob, "the models are in host memory already");
    }
    if main_root(found).is_none() {
        return refused(knob, no_root(found));
    }
    let Some(detected) = &found.detected else {
        return refused(knob, "the launch did not show how many models there are");
    };
    if detected.compile {
        return refused(knob, "compiled code counts on parameters that stay where they are");
    }
    if let Some(wrapper) = &detected.distributed {
        return refused(knob, format!("the model is wrapped in {wrapper}"));
    }
    if detected.roots > MANY_MODELS {
        return refused(knob, "the script calls parts of its model one by one");
    }
    if detected.roots + detected.others < 2 {
        return refused(knob, "one model is trained, and no other one is called");
    }
    let how =
        format!("{} models: those that are not needed wait in host memory", detected.roots + detected.others);
    site(knob, Way::Agent, how)
}

fn amp(found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let knob = Knob::Amp;
    let Some(root) = main_root(found) else {
        return refused(knob, no_root(found));
    };
    let detected = found.detected.as_ref();
    if let Some(own) = detected.and_then(|d| d.amp.as_ref()) {
        return refused(knob, format!("the script uses {own} by itself"));
    }
    if detected.is_some_and(|d| d.grad_scaler) {
        return refused(knob, "the script has a GradScaler of its own");
    }
    // On the processor fp16 has few kernels: it is never proposed there.
    let possible = |v: &Value| found.device == Device::Cuda || *v != Value::from("fp16");
    if let Match::Options(mut turned) = options::amp(found) {
        turned.values.retain(possible);
        return by_options(knob, turned);
    }
    let slow = found.device == Device::Cpu && !machine.cpu_bf16;
    let note =
        if slow { "; this processor has no bf16 hardware, so it saves memory and costs time" } else { "" };
    KnobSite {
        // On the processor fp16 has few kernels: it is done when asked for by name, and never proposed.
        values: match found.device {
            Device::Cpu => vec!["off".into(), "bf16".into()],
            Device::Cuda if detected.is_some_and(|d| d.no_bf16) => vec!["off".into(), "fp16".into()],
            Device::Cuda => Vec::new(),
        },
        ..site(knob, Way::Agent, format!("autocast around the call of {}{note}", root.class))
    }
}

fn num_workers(found: &Inspection, machine: &MachineFacts) -> KnobSite {
    let knob = Knob::NumWorkers;
    let Some(loader) = found.training_loader() else {
        return refused(knob, no_loader(found));
    };
    if loader.iterable {
        return refused(
            knob,
            "an IterableDataset would be repeated by every worker unless it shares itself out",
        );
    }
    if machine.shm_bytes == 0 {
        return refused(knob, "there is no /dev/shm, through which workers pass their batches");
    }
    loader_knob(knob, found)
}

fn pin_memory(found: &Inspection) -> KnobSite {
    if found.device != Device::Cuda {
        return refused(Knob::PinMemory, "page-locked memory only helps copies to a GPU");
    }
    loader_knob(Knob::PinMemory, found)
}

/// A setting of the training loader: by the script's option, else by the agent.
fn loader_knob(knob: Knob, found: &Inspection) -> KnobSite {
    let Some(loader) = found.training_loader() else {
        return refused(knob, no_loader(found));
    };
    let on_off = [true.into(), false.into()];
    let found_option = match knob {
        Knob::NumWorkers => options::count(Meaning::Workers, found, Some(u64::from(loader.num_workers))),
        Knob::PrefetchFactor => {
            options::count(Meaning::Prefetch, found, loader.prefetch_factor.map(u64::from))
        }
        Knob::PinMemory => options::switch(Meaning::PinMemory, found, on_off, loader.pin_memory),
        Knob::PersistentWorkers => {
            options::switch(Meaning::PersistentWorkers, found, on_off, loader.persistent_workers)
        }
        _ => Match::Nothing,
    };
    match found_option {
        Match::Options(turned) => by_options(knob, turned),
        Match::Unusable(_) | Match::Nothing => site(knob, Way::Agent, loader_words(loader, found)),
    }
}

fn loader_words(loader: &LoaderInfo, found: &Inspection) -> String {
    match found.loaders.len() {
        1 => format!("DataLoader.__init__ at {}", loader.site),
        n => format!("DataLoader.__init__ at {} (1 of {n} loaders)", loader.site),
    }
}

pub(super) fn no_root(found: &Inspection) -> String {
    if found.roots.is_empty() {
        "no module was seen to be called with gradients".to_owned()
    } else {
        "the modules that are called have no parameters that train".to_owned()
    }
}

fn no_loader(found: &Inspection) -> String {
    if found.loaders.is_empty() {
        "the script has no DataLoader".to_owned()
    } else {
        "training was not seen to draw from a DataLoader".to_owned()
    }
}
