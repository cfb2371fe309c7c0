//! What one launch found out about a script.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::arguments::{Edit, Place};
use super::configuration::Configuration;
use super::knob::{Knob, NumericsClass, Value};
use super::plan::{Device, Way};

/// The options of the script's own argument parser.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OptionsInfo {
    /// `argparse`, ...
    pub parser: String,
    /// All of them, those of the chosen subparser included.
    pub options: Vec<ScriptOption>,
    /// The words that it was given: the end of the command, where the command reaches it.
    #[serde(default)]
    pub words: Vec<String>,
    /// The command that was inspected; filled in by the launcher.
    #[serde(default)]
    pub command: Vec<String>,
    /// Processes that train together; filled in from the agent's hello.
    #[serde(default)]
    pub world_size: u32,
}

impl OptionsInfo {
    /// Words of the command before those that the parser was given; `None` where the command does not reach it (a
    /// shell script with words of its own).
    pub fn head(&self) -> Option<usize> {
        let head = self.command.len().checked_sub(self.words.len()).filter(|h| *h > 0)?;
        (self.command[head..] == self.words[..]).then_some(head)
    }
}

/// One option.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptOption {
    /// `["-b", "--batch-size"]`; empty for a positional.
    pub flags: Vec<String>,
    /// The attribute in the namespace.
    pub dest: String,
    /// `int`, `float`, `str`, `bool` (a switch) or the type's name.
    pub kind: String,
    /// Its default, as text.
    pub default: Option<String>,
    /// Its value in this launch, as text.
    pub value: Option<String>,
    /// Allowed values, as text.
    pub choices: Vec<String>,
    /// Subcommands that lead to it.
    pub under: Vec<String>,
    /// The help text, first 200 characters.
    pub help: String,
    /// Words that set it, `{value}` being the value: `["--batch-size={value}"]`, `["train.batch_size={value}"]`.
    pub write: Vec<String>,
    /// Words that set a truth value.
    pub on: Vec<String>,
    /// Words that take it away again.
    pub off: Vec<String>,
    /// Where its parser looks for it, in [`OptionsInfo::words`].
    pub first: usize,
    /// One behind the last word that it looks at.
    pub after: usize,
}

/// A framework's own switch for a knob, as the object that the script built has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwitchInfo {
    /// Which.
    pub knob: Knob,
    /// `TrainingArguments.bf16`.
    pub how: String,
    /// The script's own value, as text.
    pub current: Option<String>,
    /// The only values that can be set; empty when there is no such limit.
    #[serde(default)]
    pub values: Vec<Value>,
    /// Why it cannot be used here.
    pub why_not: Option<String>,
    /// The agent's own patch may turn the knob where the switch cannot.
    #[serde(default)]
    pub agent: bool,
}

/// A DataLoader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoaderInfo {
    /// In the order of construction.
    pub index: u32,
    /// `train.py:41`.
    pub site: String,
    /// Whether optimizer steps follow its batches.
    pub training: bool,
    /// Samples in a batch; absent with a batch sampler of the script's own.
    pub batch_size: Option<u64>,
    /// Worker processes.
    pub num_workers: u32,
    /// Page-locked memory.
    pub pin_memory: bool,
    /// Batches ahead per worker.
    pub prefetch_factor: Option<u32>,
    /// Kept between epochs.
    pub persistent_workers: bool,
    /// Batches in an epoch, if known.
    pub batches: Option<u64>,
    /// Samples in the dataset, if known.
    pub dataset_length: Option<u64>,
    /// Class of the sampler.
    pub sampler: String,
    /// Whether the last batch is dropped.
    pub drop_last: bool,
    /// An IterableDataset.
    pub iterable: bool,
}

/// The root module: the one whose call the training loop makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootInfo {
    /// In the order in which they were first called with gradients.
    pub index: u32,
    /// Class name.
    pub class: String,
    /// Parameters, shared ones once.
    pub parameters: u64,
    /// Those that train.
    pub trainable: u64,
    /// The script only calls it without gradients: it never trains.
    pub serves: bool,
    /// It is called in `torch.inference_mode()`.
    pub inference_mode: bool,
    /// Bytes of all parameters and buffers.
    pub bytes: u64,
    /// The repeated blocks that checkpointing would act on.
    pub blocks: Option<BlocksInfo>,
    /// A BatchNorm layer in training mode below it.
    pub batch_norm: bool,
    /// Dropout with p > 0 below it.
    pub dropout: bool,
    /// A recurrent layer below it.
    pub recurrent: bool,
    /// `scalar` (the loss), `tensor`, `tuple`, `dict`, `object`.
    pub returns: String,
    /// Whether one of the outputs is a scalar that requires a gradient (the loss comes from inside).
    pub returns_loss: bool,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// The dimension of the first tensor argument that is the batch: 1 where layers take the sequence first; absent
    /// where that cannot be told.
    pub batch_dim: Option<u32>,
    /// More than one tensor is given: a recurrent state may be among them.
    pub several_inputs: bool,
    /// Dimension 0 of the first tensor argument.
    pub batch: Option<u64>,
    /// Convolutions over two or three dimensions below it.
    pub convolutions: u32,
    /// It is called with a floating-point tensor of four or five dimensions.
    pub images: bool,
    /// The weight of a convolution lies in channels_last already.
    pub channels_last: bool,
    /// Activations that could overwrite what they are given, and do not yet.
    pub in_place: u32,
}

/// Repeated blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlocksInfo {
    /// `transformer.h`.
    pub path: String,
    /// Class of each block.
    pub class: String,
    /// How many.
    pub count: u32,
    /// Their share of all parameters, 0 to 1.
    pub share: f64,
}

/// What the script already does by itself; never stacked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detected {
    /// `bf16`, `fp16` when the script's own autocast or a low-precision model is in force.
    pub amp: Option<String>,
    /// `torch.compile` in use.
    pub compile: bool,
    /// Checkpointing in use.
    pub checkpointing: bool,
    /// `backward` calls for each optimizer step.
    pub accumulation: u32,
    /// DistributedDataParallel or FSDP in use.
    pub distributed: Option<String>,
    /// How its DistributedDataParallel exchanges gradients.
    pub exchange: Option<ExchangeInfo>,
    /// `PYTORCH_CUDA_ALLOC_CONF` as the script has it, set from outside or by itself.
    pub alloc_conf: Option<String>,
    /// Optimizer classes.
    pub optimizers: Vec<String>,
    /// Optimizers that step at different times (a GAN): more than one root is trained.
    pub roots: u32,
    /// Other modules that are called: frozen ones, or ones that are called without gradients only.
    pub others: u32,
    /// A `GradScaler` in use.
    pub grad_scaler: bool,
    /// `backward(create_graph=True)` or the like was seen.
    pub double_backward: bool,
    /// The first training step's samples, and where the number comes from (`loader`, `dim0`).
    pub samples_per_step: u64,
    /// `loader`, `dim0`, `dim1` (the sequence comes first), `unknown`.
    pub samples_from: String,
    /// CPU threads of the process.
    pub threads: u32,
    /// Training happens on a GPU that does not compute in bf16.
    pub no_bf16: bool,
    /// How the optimizers update parameters.
    pub update: Option<UpdateInfo>,
    /// `zero_grad(set_to_none=False)` was seen.
    pub keeps_zeros: bool,
    /// Matrix products in TF32 are allowed.
    pub tf32: bool,
    /// `torch.backends.cudnn.benchmark`.
    pub cudnn_benchmark: bool,
    /// The script asks for deterministic algorithms.
    pub deterministic: bool,
    /// What torch.compile lacks on this machine, if anything.
    pub compile_lacks: Option<String>,
}

/// Settings of the script's DistributedDataParallel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangeInfo {
    /// Gradients lie in its buckets.
    pub gradient_as_bucket_view: bool,
    /// The size of a bucket in MiB.
    pub bucket_cap_mb: f64,
    /// Those of both that the script passes by itself.
    pub passed: Vec<String>,
}

/// How the optimizers update parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateInfo {
    /// `loop`, `foreach`, `fused`; `mixed` where they differ.
    pub now: String,
    /// What at least one of them can be told to do.
    pub values: Vec<String>,
    /// Why none of them can be told anything.
    pub why_not: Option<String>,
    /// The part of a step that it takes; only measured on the processor.
    pub share: Option<f64>,
}

/// What an option of the script is set to, given the knob's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Translation {
    /// The knob's value.
    Same,
    /// A word for each of the knob's values; with another value the option is left alone.
    Words(BTreeMap<String, String>),
    /// This number (or the batch size of the same configuration) divided by the knob's value.
    Parts(u64),
    /// This number times the knob's value.
    Times(u64),
}

/// An option of the script that is set when a knob is turned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionTurn {
    /// What it is set to.
    pub value: Translation,
    /// Which.
    pub option: ScriptOption,
    /// The part of the command that its parser reads.
    pub place: Place,
}

impl OptionTurn {
    /// Whether the knob's value does not divide the batch: another effective batch would be trained with.
    pub fn uneven(&self, value: &Value, settings: &Configuration) -> bool {
        let (Translation::Parts(own), Value::Int(parts)) = (&self.value, value) else { return false };
        let batch = settings.int(Knob::BatchSize).unwrap_or(own.cast_signed());
        *parts < 1 || batch % parts != 0
    }

    /// What the option is set to; `true` and `false` for a truth value.
    pub fn text(&self, value: &Value, settings: &Configuration) -> Option<String> {
        let whole = |v: &Value| match v {
            Value::Int(n) => u64::try_from(*n).ok().filter(|n| *n > 0),
            _ => None,
        };
        match &self.value {
            Translation::Same => Some(value.to_string()),
            Translation::Words(words) => words.get(&value.to_string()).cloned(),
            Translation::Parts(own) => {
                let batch = settings.get(Knob::BatchSize).and_then(whole).unwrap_or(*own);
                whole(value).map(|parts| (batch / parts).to_string())
            }
            Translation::Times(own) => whole(value).map(|parts| (own * parts).to_string()),
        }
    }

    /// The words that set it.
    pub fn edit(&self, text: &str) -> Edit {
        let option = &self.option;
        let words = match (option.kind.as_str(), text) {
            ("bool", "true") => option.on.clone(),
            ("bool", _) => option.off.clone(),
            _ => option.write.iter().map(|w| w.replace("{value}", text)).collect(),
        };
        let takes_value = option.kind != "bool" || option.on.iter().any(|w| w.contains('='));
        Edit { words, flags: option.flags.clone(), takes_value, place: self.place.clone() }
    }
}

/// How a knob is turned for this script, or why it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnobSite {
    /// Which.
    pub knob: Knob,
    /// What turning it does to training, for this script (a knob of class exact can be `distribution` where draws
    /// change).
    pub class: NumericsClass,
    /// The way, when there is one.
    pub way: Option<Way>,
    /// In words: `--batch-size`, `autocast around the call of GPT`.
    pub how: String,
    /// Why not, when there is no way.
    pub why_not: Option<String>,
    /// Arguments of the recipe ([`Way::Recipe`]); `{value}` stands for the value.
    #[serde(default)]
    pub args: Vec<String>,
    /// Options of the script that are set ([`Way::Option`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<OptionTurn>,
    /// Environment variables to set when it is turned; `{value}` stands for the value.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables for one value each, by the value's text, where a template cannot say it
    /// (`malloc`: each word stands for a set of variables).  They replace [`KnobSite::env`] for that value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_by_value: BTreeMap<String, BTreeMap<String, String>>,
    /// The only values that can be set (an option's choices, the recipe's list); empty when there is no such limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
    /// What is put before the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<Launcher>,
    /// The script's own value, as text, where known.
    pub current: Option<String>,
}

/// A program that starts the script several times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launcher {
    /// Its words; `{processes}` stands for the number of processes.
    pub words: Vec<String>,
    /// That number, where nobody asks for another one.
    pub processes: u32,
    /// Threads of the processor that they share.
    pub threads: u32,
}

impl KnobSite {
    /// The arguments that set `value`.
    pub fn args_for(&self, value: &Value) -> Vec<String> {
        self.args.iter().map(|a| fill(a, self.knob, value)).collect()
    }

    /// The environment variables that set `value`.
    pub fn env_for(&self, value: &Value) -> BTreeMap<String, String> {
        let templates = self.env_by_value.get(&value.to_string()).unwrap_or(&self.env);
        templates.iter().map(|(name, t)| (name.clone(), fill(t, self.knob, value))).collect()
    }
}

/// `{value}` and the knob's own name in braces stand for the value.
fn fill(template: &str, knob: Knob, value: &Value) -> String {
    let value = value.to_string();
    template.replace("{value}", &value).replace(&format!("{{{}}}", knob.name()), &value)
}

/// Everything found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// [`super::VERSION`].
    pub version: u32,
    /// Where training happens.
    pub device: Device,
    /// Framework versions by name.
    pub frameworks: BTreeMap<String, String>,
    /// The parser's options, if one was seen.
    pub options: Option<OptionsInfo>,
    /// Switches of a framework.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchInfo>,
    /// DataLoaders.
    pub loaders: Vec<LoaderInfo>,
    /// Root modules.
    pub roots: Vec<RootInfo>,
    /// What the script does by itself.
    pub detected: Option<Detected>,
    /// What was launched.
    #[serde(default)]
    pub launched: Launched,
    /// One entry for each knob.
    pub knobs: Vec<KnobSite>,
}

/// The command and the process that trained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// As typed.
    pub command: Vec<String>,
    /// The interpreter.
    pub python: String,
    /// Processes that train together.
    pub world_size: u32,
}

impl Inspection {
    /// How this knob is turned, if it can be.
    pub fn site(&self, knob: Knob) -> Option<&KnobSite> {
        self.knobs.iter().find(|s| s.knob == knob && s.way.is_some())
    }

    /// Backward calls for each step of the script as it is: as it was seen, else by its own option.
    pub fn script_accumulation(&self) -> u32 {
        let seen = self.detected.as_ref().map(|d| d.accumulation).filter(|n| *n > 0);
        let turns = self.site(Knob::Accumulation).map_or(&[][..], |s| &s.turns);
        let told = turns.iter().find_map(|t| match t.value {
            Translation::Times(own) => u32::try_from(own).ok(),
            _ => None,
        });
        seen.or(told).unwrap_or(1)
    }

    /// The part of the command that the script reads, where that is known.
    pub fn script_words(&self) -> Place {
        let Some(options) = &self.options else { return Place::default() };
        match options.head() {
            Some(head) => Place::of(&options.command, head, options.command.len()),
            None => Place::default(),
        }
    }

    /// Whether the command starts several processes by itself.
    pub fn starts_processes(&self) -> bool {
        self.launched.world_size > 1
    }

    /// Parameters and buffers of the largest model, bytes; 0 where none was seen.
    pub fn largest_root_bytes(&self) -> u64 {
        self.roots.iter().map(|r| r.bytes).max().unwrap_or(0)
    }

    /// Whether the script calls models without ever training them.
    pub fn serves(&self) -> bool {
        !self.roots.is_empty() && self.roots.iter().all(|r| r.serves)
    }

    /// The loader that training draws from.
    pub fn training_loader(&self) -> Option<&LoaderInfo> {
        self.loaders.iter().find(|l| l.training)
    }
}
