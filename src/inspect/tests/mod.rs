//! Which knobs can be turned for a script, and why the others cannot: one script, one line of truth.

mod frameworks;
mod options;
mod ranks;

use std::path::Path;

use super::*;
use crate::model::event::Hello;
use crate::model::inspection::{
    BlocksInfo, Detected, ExchangeInfo, LoaderInfo, OptionsInfo, RootInfo, ScriptOption, SwitchInfo,
};
use crate::model::plan::Way;
use crate::model::{NumericsClass, Value};
use crate::recipe::load;

/// A script, changed as a test needs it.
struct Script {
    device: Device,
    options: Vec<ScriptOption>,
    words: Vec<String>,
    switches: Vec<SwitchInfo>,
    loaders: Vec<LoaderInfo>,
    roots: Vec<RootInfo>,
    detected: Option<Detected>,
    machine: MachineFacts,
    recipe: &'static str,
    processes: u32,
}

/// One model with blocks, one loader of 32 samples, two cores.
fn script() -> Script {
    let blocks = BlocksInfo { path: "h".into(), class: "Block".into(), count: 6, share: 0.9 };
    Script {
        device: Device::Cpu,
        options: Vec::new(),
        words: Vec::new(),
        switches: Vec::new(),
        loaders: vec![LoaderInfo {
            site: "train.py:41".into(),
            training: true,
            batch_size: Some(32),
            sampler: "RandomSampler".into(),
            ..LoaderInfo::default()
        }],
        roots: vec![RootInfo {
            class: "GPT".into(),
            parameters: 100,
            trainable: 100,
            blocks: Some(blocks),
            returns_loss: true,
            batch: Some(32),
            ..RootInfo::default()
        }],
        detected: Some(Detected {
            accumulation: 1,
            roots: 1,
            samples_per_step: 32,
            samples_from: "loader".into(),
            threads: 2,
            ..Detected::default()
        }),
        machine: MachineFacts { cores: 2, shm_bytes: 1 << 30, ram_bytes: 1 << 34, ..MachineFacts::default() },
        recipe: "{}",
        processes: 1,
    }
}

impl Script {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn found(&self) -> Inspection {
        let mut records = vec![Record::Hello(Hello {
            nonce: String::new(),
            ppid: 0,
            rank: 0,
            world_size: self.processes,
            argv: Vec::new(),
            python: "3.11.7".into(),
            executable: "python".into(),
            training: true,
        })];
        if !self.options.is_empty() {
            records.push(Record::Options(OptionsInfo {
                parser: "argparse".into(),
                options: self.options.clone(),
                words: self.words.clone(),
                ..OptionsInfo::default()
            }));
        }
        records.extend(self.switches.iter().cloned().map(Record::Switch));
        records.extend(self.loaders.iter().cloned().map(Record::Loader));
        records.extend(self.roots.iter().cloned().map(Record::Root));
        records.extend(self.detected.iter().cloned().map(Record::Detected));
        let events: Vec<Event> =
            records.into_iter().map(|record| Event { v: VERSION, at: 0.0, pid: 1, record }).collect();
        let recipe = load(self.recipe, Path::new("r.yaml")).unwrap();
        let command: Vec<String> =
            ["python".to_owned(), "train.py".to_owned()].into_iter().chain(self.words.clone()).collect();
        build_inspection(&events, &command, &recipe, self.device, &self.machine)
    }

    fn site(&self, knob: Knob) -> KnobSite {
        self.found().knobs.into_iter().find(|s| s.knob == knob).unwrap()
    }

    fn why_not(&self, knob: Knob) -> String {
        let site = self.site(knob);
        site.why_not.unwrap_or_else(|| panic!("{knob} is turned: {}", site.how))
    }
}

/// `-b/--batch-size=32` as argparse would tell it.
fn option(flags: &str, kind: &str, value: &str) -> ScriptOption {
    let flags: Vec<String> = flags.split('/').map(str::to_owned).collect();
    let dest = flags.last().map_or(String::new(), |f| f.trim_start_matches('-').replace('-', "_"));
    let flag = flags.last().cloned().unwrap_or_default();
    let (write, on) = if kind == "bool" { (vec![], vec![flag]) } else { (vec![flag + "={value}"], vec![]) };
    ScriptOption {
        flags,
        dest,
        kind: kind.into(),
        value: Some(value.into()),
        write,
        on,
        ..ScriptOption::default()
    }
}

/// The words that set `value`.
fn written(site: &KnobSite, value: impl Into<Value>) -> String {
    let value = value.into();
    let settings = crate::model::Configuration::baseline();
    let texts = site.turns.iter().filter_map(|t| Some(t.edit(&t.text(&value, &settings)?).words.join(" ")));
    texts.collect::<Vec<_>>().join(" ")
}

/// A switch of `TrainingArguments`.
fn switch(knob: Knob, why_not: Option<&str>, agent: bool) -> SwitchInfo {
    SwitchInfo {
        knob,
        how: "TrainingArguments.bf16".into(),
        current: Some("off".into()),
        values: vec!["off".into(), "bf16".into()],
        why_not: why_not.map(str::to_owned),
        agent,
    }
}

#[test]
fn every_knob_has_one_entry_with_a_way_or_a_reason() {
    let found = script().found();
    let knobs: Vec<Knob> = found.knobs.iter().map(|s| s.knob).collect();
    assert_eq!(knobs, Knob::ALL);
    for site in &found.knobs {
        assert_ne!(site.way.is_some(), site.why_not.is_some(), "{}", site.knob);
    }
}

#[test]
fn workers_are_set_by_option_or_by_the_agent_and_draw_other_numbers() {
    let site = script().with(|s| s.options = vec![option("-j/--workers", "int", "0")]).site(Knob::NumWorkers);
    assert_eq!((site.way, written(&site, 2)), (Some(Way::Option), "--workers=2".to_owned()));
    assert_eq!(site.class, NumericsClass::Distribution);
    // An option that is not in force does not stand in the agent's way.
    let site = script().with(|s| s.options = vec![option("--workers", "int", "8")]).site(Knob::NumWorkers);
    assert_eq!((site.way, site.how.as_str()), (Some(Way::Agent), "DataLoader.__init__ at train.py:41"));
    assert_eq!(
        script().with(|s| s.loaders.clear()).why_not(Knob::NumWorkers),
        "the script has no DataLoader"
    );
    assert!(
        script().with(|s| s.loaders[0].iterable = true).why_not(Knob::NumWorkers).contains("IterableDataset")
    );
    assert!(script().with(|s| s.machine.shm_bytes = 0).why_not(Knob::NumWorkers).contains("/dev/shm"));
}

#[test]
fn a_split_is_refused_where_it_would_change_training() {
    type Change = fn(&mut Script);
    let refusals: [(Change, &str); 7] = [
        (|s| s.roots[0].batch_norm = true, "BatchNorm"),
        (|s| (s.roots[0].recurrent, s.roots[0].several_inputs) = (true, true), "recurrent state"),
        (|s| s.roots[0].batch = Some(1), "one sample"),
        (|s| s.detected.as_mut().unwrap().optimizers = vec!["LBFGS".into()], "LBFGS"),
        (|s| s.detected.as_mut().unwrap().double_backward = true, "differentiates through its gradients"),
        (|s| s.detected.as_mut().unwrap().roots = 2, "more than one model"),
        (|s| s.roots.clear(), "no module"),
    ];
    for (change, why) in refusals {
        let found = script().with(change).why_not(Knob::Accumulation);
        assert!(found.contains(why), "{found} does not say {why}");
    }
    let site = script().site(Knob::Accumulation);
    assert_eq!((site.way, site.class), (Some(Way::Agent), NumericsClass::Exact));
    let dropout = script().with(|s| s.roots[0].dropout = true).site(Knob::Accumulation);
    assert_eq!(dropout.class, NumericsClass::Distribution);
}

#[test]
fn what_the_script_does_by_itself_is_never_stacked() {
    let own = script().with(|s| {
        let detected = s.detected.as_mut().unwrap();
        (detected.amp, detected.checkpointing) = (Some("bf16".into()), true);
    });
    assert_eq!(own.why_not(Knob::Amp), "the script uses bf16 by itself");
    assert_eq!(own.why_not(Knob::Checkpoint), "the script checkpoints by itself");
    let scaler = script().with(|s| s.detected.as_mut().unwrap().grad_scaler = true);
    assert!(scaler.why_not(Knob::Amp).contains("GradScaler"));
    let plain = script().with(|s| s.roots[0].blocks = None);
    assert_eq!(plain.why_not(Knob::Checkpoint), "the model has no repeated blocks");
}

#[test]
fn on_the_processor_only_bf16_is_offered() {
    assert_eq!(script().site(Knob::Amp).values, [Value::from("off"), Value::from("bf16")]);
    assert!(script().site(Knob::Amp).how.contains("no bf16 hardware"));
    assert!(script().with(|s| s.device = Device::Cuda).site(Knob::Amp).values.is_empty());
    let old = script().with(|s| (s.device, s.detected.as_mut().unwrap().no_bf16) = (Device::Cuda, true));
    assert_eq!(old.site(Knob::Amp).values, [Value::from("off"), Value::from("fp16")]);
}

#[test]
fn knobs_of_the_other_device_are_refused() {
    for knob in [Knob::Allocator, Knob::PinMemory] {
        assert!(script().why_not(knob).contains("GPU"), "{knob}");
    }
    assert!(script().why_not(Knob::Offload).contains("in host memory already"));
    assert_eq!(script().with(|s| s.device = Device::Cuda).site(Knob::Offload).values.len(), 3);
    for knob in [Knob::OmpThreads, Knob::Malloc] {
        assert!(script().with(|s| s.device = Device::Cuda).why_not(knob).contains("GPU"), "{knob}");
    }
    assert_eq!(script().with(|s| s.machine.cores = 1).why_not(Knob::OmpThreads), "there is one core");
}

#[test]
fn allocator_settings_are_joined_to_the_users_own() {
    let gpu = |own: Option<&str>| {
        script().with(|s| (s.device, s.machine.alloc_conf) = (Device::Cuda, own.map(str::to_owned)))
    };
    let value = Value::from("expandable_segments:True");
    let env =
        |own: Option<&str>| gpu(own).site(Knob::Allocator).env_for(&value)["PYTORCH_CUDA_ALLOC_CONF"].clone();
    assert_eq!(env(None), "expandable_segments:True");
    assert_eq!(env(Some("max_split_size_mb:128")), "max_split_size_mb:128,expandable_segments:True");
    // What the user has set is not set again.
    let values = gpu(Some("expandable_segments:False")).site(Knob::Allocator).values;
    assert!(!values.is_empty() && !values.contains(&value), "{values:?}");
    assert!(!values.contains(&Value::from("backend:cudaMallocAsync")), "it would ignore the user's own");
    let all = gpu(None).site(Knob::Allocator).values;
    assert_eq!(all.last(), Some(&Value::from("backend:cudaMallocAsync")));
    for value in &all {
        assert_eq!(Knob::Allocator.check(value), Ok(()));
    }
    assert!(gpu(Some("backend:cudaMallocAsync")).why_not(Knob::Allocator).contains("cudaMallocAsync"));
    assert!(gpu(Some("roundup_power2_divisions:[256:1]")).why_not(Knob::Allocator).contains("characters"));
}

#[test]
fn every_environment_value_survives_every_reader_of_env_files() {
    let site = script().site(Knob::Malloc);
    for word in ["retain", "huge", "pages", "trim"] {
        let env = site.env_for(&Value::from(word));
        assert!(!env.is_empty(), "{word}");
        for value in env.values() {
            assert!(crate::model::knob::env_safe(value), "{word}: {value}");
        }
    }
    assert!(site.env_for(&Value::from("default")).is_empty());
    let threads = script().site(Knob::OmpThreads).env_for(&Value::Int(1));
    assert_eq!(threads["OMP_NUM_THREADS"], "1");
    assert_eq!(threads["MKL_NUM_THREADS"], "1");
}

#[test]
fn the_recipe_has_the_first_word() {
    let off = script().with(|s| s.recipe = "knobs: {amp: {off: true}}");
    assert_eq!(off.why_not(Knob::Amp), "the recipe switches it off");
    let own = script().with(|s| {
        s.recipe = "knobs: {batch_size: {args: [--b, '{batch_size}'], values: [8, 16]}}";
        s.options = vec![option("--batch-size", "int", "32")];
    });
    let site = own.site(Knob::BatchSize);
    assert_eq!(
        (site.way, site.args_for(&Value::Int(8))),
        (Some(Way::Recipe), vec!["--b".into(), "8".into()])
    );
    assert_eq!(site.values, [Value::Int(8), Value::Int(16)]);
    let none = script().with(|s| s.recipe = "knobs: {amp: {values: [fp16]}}");
    assert_eq!(none.why_not(Knob::Amp), "none of the recipe's values can be set here");
}

#[test]
fn a_launch_that_died_early_is_not_held_against_the_loader() {
    let early =
        |loaders: Vec<LoaderInfo>| script().with(|s| (s.detected, s.loaders) = (None, loaders)).found();
    let loader = |index: u32, sampler: &str| LoaderInfo {
        index,
        sampler: sampler.into(),
        batch_size: Some(32),
        ..LoaderInfo::default()
    };
    let one = early(vec![loader(0, "SequentialSampler")]);
    assert_eq!(one.training_loader().map(|l| l.index), Some(0));
    let shuffling = early(vec![loader(0, "SequentialSampler"), loader(1, "RandomSampler")]);
    assert_eq!(shuffling.training_loader().map(|l| l.index), Some(1));
    let doubtful = early(vec![loader(0, "RandomSampler"), loader(1, "RandomSampler")]);
    assert_eq!(doubtful.training_loader(), None);
}

#[test]
fn a_later_record_replaces_an_earlier_one_on_the_same_object() {
    let found = script()
        .with(|s| {
            let again = RootInfo { returns: "scalar".into(), ..s.roots[0].clone() };
            s.roots.push(again);
        })
        .found();
    assert_eq!((found.roots.len(), found.roots[0].returns.as_str()), (1, "scalar"));
}

/// The table of names, as met in timm, pytorch/examples, nanoGPT, transformers, accelerate, Lightning, MAE, fairseq and
/// YOLO: option, kind, its value, the knob, and what is written for which value.

#[test]
fn inference_mode_is_for_scripts_that_never_train() {
    let knob = Knob::InferenceMode;
    assert!(script().why_not(knob).contains("the script trains"));
    let serves = || script().with(|s| s.roots[0].serves = true);
    assert_eq!(serves().site(knob).how, "torch.inference_mode() in the calls of GPT");
    assert!(serves().with(|s| s.roots[0].inference_mode = true).why_not(knob).contains("by itself"));
    let compiled = serves().with(|s| s.detected.as_mut().unwrap().compile = true);
    assert!(compiled.why_not(knob).contains("nothing to gain"));
}

/// 45 samples in batches of 16: the last 13 are cut otherwise by the script's loop than in the model's call.
#[test]
fn an_uneven_end_of_an_epoch_is_better_cut_inside_the_models_call() {
    let with = |length: u64| {
        script().with(|s| {
            s.options = vec![option("--batch-size", "int", "16"), option("--accumulation-steps", "int", "1")];
            s.loaders[0].batch_size = Some(16);
            s.loaders[0].dataset_length = Some(length);
            s.roots[0].batch = Some(16);
        })
    };
    assert_eq!(with(48).site(Knob::Accumulation).way, Some(Way::Option));
    assert_eq!(with(45).site(Knob::Accumulation).way, Some(Way::Agent));
    let only = with(45).with(|s| s.detected.as_mut().unwrap().roots = 2).site(Knob::Accumulation);
    assert_eq!(only.way, Some(Way::Option));
    assert!(only.how.ends_with("an epoch's last 13 samples may weigh otherwise"), "{}", only.how);
}

#[test]
fn activations_are_in_place_where_some_could_be() {
    assert!(script().why_not(Knob::Inplace).contains("no ReLU behind a layer"));
    let some = script().with(|s| s.roots[0].in_place = 3);
    assert!(some.site(Knob::Inplace).how.contains("3 activations"));
    let compiled = some.with(|s| s.detected.as_mut().unwrap().compile = true);
    assert!(compiled.why_not(Knob::Inplace).contains("the compiler chooses"));
}

#[test]
fn a_budget_of_activations_is_for_what_is_compiled() {
    let knob = Knob::ActivationMemoryBudget;
    assert!(script().site(knob).how.contains("while the model is compiled"));
    let detected = |change: fn(&mut Detected)| script().with(|s| change(s.detected.as_mut().unwrap()));
    let lacks = detected(|d| d.compile_lacks = Some("there is no compiler".into()));
    assert!(lacks.why_not(knob).ends_with("nothing can be compiled: there is no compiler"));
    let own = lacks.with(|s| s.detected.as_mut().unwrap().compile = true);
    assert_eq!(own.site(knob).way, Some(Way::Agent));
    assert!(own.with(|s| s.roots[0].dropout = true).why_not(knob).contains("other masks"));
    assert_eq!(detected(|d| d.checkpointing = true).why_not(knob), "the script checkpoints by itself");
}

#[test]
fn idle_models_are_for_scripts_with_several_models_on_a_gpu() {
    let knob = Knob::IdleModels;
    assert_eq!(script().why_not(knob), "the models are in host memory already");
    let gpu = |change: fn(&mut Detected)| {
        script().with(|s| s.device = Device::Cuda).with(|s| change(s.detected.as_mut().unwrap()))
    };
    assert!(gpu(|_| ()).why_not(knob).contains("no other one is called"));
    assert!(gpu(|d| d.roots = 2).site(knob).how.starts_with("2 models"));
    assert!(gpu(|d| d.others = 1).site(knob).how.starts_with("2 models"));
    assert!(gpu(|d| d.roots = 30).why_not(knob).contains("one by one"));
    assert!(gpu(|d| (d.roots, d.compile) = (2, true)).why_not(knob).contains("compiled code"));
    assert!(gpu(|d| (d.roots, d.distributed) = (2, Some("DDP".into()))).why_not(knob).contains("DDP"));
}
