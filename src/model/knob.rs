//! One setting that can be turned from outside the script.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What turning a knob does to the mathematics of training, from harmless to another run altogether.
/// The order is the order of the `--numerics` bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumericsClass {
    /// Same mathematics, up to floating-point reassociation.
    Exact,
    /// Other random draws of the same process (dropout masks, augmentation in other workers).
    Distribution,
    /// Same algorithm, other rounding.
    Precision,
    /// Another training run: the effective batch size changes.
    Dynamics,
}

impl NumericsClass {
    /// The word for `--numerics` and for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Distribution => "distribution",
            Self::Precision => "precision",
            Self::Dynamics => "dynamics",
        }
    }

    /// The next looser bound, if there is one.
    pub fn looser(self) -> Option<Self> {
        match self {
            Self::Exact => Some(Self::Distribution),
            Self::Distribution => Some(Self::Precision),
            Self::Precision => Some(Self::Dynamics),
            Self::Dynamics => None,
        }
    }
}

impl fmt::Display for NumericsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of a knob, as a recipe, a plan or a report writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true`, `false`.
    Bool(bool),
    /// A count.
    Int(i64),
    /// A word, such as `bf16` or `expandable_segments:True`.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// What values a knob takes; used to check recipes and `--set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// `true` or `false`.
    Bool,
    /// A whole number not below this.
    IntFrom(i64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A number from 0 to 1, kept as text in its shortest form.
    Share,
    /// Any text that has only characters safe in a `.env` file.
    Text,
}

macro_rules! knobs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $class:ident, $accepts:expr;)*) => {
        /// Every knob that autofit knows, in the order in which configurations are written.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Knob { $($(#[$doc])* $variant,)* }

        impl Knob {

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in recipes, plans, `--set` and reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What turning it does to training.
            pub fn class(self) -> NumericsClass {
                match self { $(Self::$variant => NumericsClass::$class),* }
            }

            /// The values it takes.
            pub fn accepts(self) -> Accepts {
                match self { $(Self::$variant => $accepts),* }
            }
        }
    };
}

knobs! {
    /// `PYTORCH_CUDA_ALLOC_CONF`, merged with the user's own; CUDA only.
    Allocator = "allocator", Exact, Accepts::Text;
    /// The effective batch size in samples over all ranks.  The only knob of class dynamics.
    BatchSize = "batch_size", Dynamics, Accepts::IntFrom(1);
    /// Gradient accumulation at the same effective batch: the number of micro-batches that one batch is split into.
    Accumulation = "accumulation", Exact, Accepts::IntFrom(1);
    /// Autocast around the root module's call.
    Amp = "amp", Precision, Accepts::Words(&["off", "bf16", "fp16"]);
    /// Gradient (activation) checkpointing of the repeated blocks: `selective` keeps the results of products,
    /// convolutions and attention; `alternate` leaves every second block as it is.
    Checkpoint = "checkpoint", Exact, Accepts::Words(&["none", "selective", "alternate", "all"]);
    /// DataLoader worker processes of the training loader.
    NumWorkers = "num_workers", Exact, Accepts::IntFrom(0);
    /// Page-locked host memory for the training loader's batches; CUDA only.
    PinMemory = "pin_memory", Exact, Accepts::Bool;
    /// Batches that each worker loads ahead.
    PrefetchFactor = "prefetch_factor", Exact, Accepts::IntFrom(1);
    /// Keep the workers alive between epochs.  Not exact: a new epoch then draws no new base seed, so that everything
    /// random after it (the next permutation, dropout) draws other numbers of the same process.
    PersistentWorkers = "persistent_workers", Distribution, Accepts::Bool;
    /// `OMP_NUM_THREADS`, the threads of one process's CPU kernels.
    OmpThreads = "omp_threads", Exact, Accepts::IntFrom(1);
    /// The host allocator: `default`; `retain` keeps freed memory instead of returning it to the kernel after each
    /// step; `huge` also asks for huge pages; `pages` asks for huge pages only; `trim` returns memory at once.
    Malloc = "malloc", Exact, Accepts::Words(&["default", "retain", "huge", "pages", "trim"]);
    /// Process layout of a plain script: `ddp` (a copy of the model in each process), `fsdp` (a part of it),
    /// `fsdp_offload` (a part that waits in host memory), `hybrid` (a part of it, with a copy in each group of processes).
    /// Of a script with DistributedDataParallel: `ddp` as it is, and the others in place of it.
    Strategy = "strategy", Exact, Accepts::Words(&["single", "ddp", "fsdp", "fsdp_offload", "hybrid"]);
    /// Tensors that wait in host memory: `activations` for the backward pass, the state of the `optimizer` between
    /// steps; CUDA only.  `parameters` is reserved.
    Offload = "offload", Exact, Accepts::Words(&["none", "activations", "optimizer", "parameters"]);
    /// How torch.optim updates parameters: one by one, in lists, in one kernel.
    Optimizer = "optimizer", Exact, Accepts::Words(&["loop", "foreach", "fused"]);
    /// Gradients are dropped where the script has `zero_grad` fill them with zeros.
    SetToNone = "set_to_none", Exact, Accepts::Bool;
    /// TF32 for matrix products and convolutions; CUDA only.
    Tf32 = "tf32", Precision, Accepts::Bool;
    /// cuDNN measures which kernel is the fastest; CUDA only.
    CudnnBenchmark = "cudnn_benchmark", Precision, Accepts::Bool;
    /// Convolutions compute with the channels of a pixel side by side in memory.
    ChannelsLast = "channels_last", Precision, Accepts::Bool;
    /// `torch.compile` of the root module, in place, in PyTorch's words.
    Compile = "compile", Precision, Accepts::Words(&["off", "default", "reduce-overhead", "max-autotune"]);
    /// Cached device memory is given back between training, evaluation and saving; CUDA only.
    EmptyCache = "empty_cache", Exact, Accepts::Bool;
    /// Activations overwrite what they are given where nobody else needs it.
    Inplace = "inplace", Exact, Accepts::Bool;
    /// Processes of `strategy`; without it as many as there are GPUs, or two on the processor.
    Processes = "processes", Exact, Accepts::IntFrom(2);
    /// The part of the activations that compiled code keeps for the backward pass, in PyTorch's words: `1` keeps what
    /// is fastest, `0` computes everything again.
    ActivationMemoryBudget = "activation_memory_budget", Exact, Accepts::Share;
    /// Where models wait that are not needed while another one trains; CUDA only.
    IdleModels = "idle_models", Exact, Accepts::Words(&["device", "host"]);
    /// Calls of a script that never trains run in `torch.inference_mode()` instead of `no_grad`.
    InferenceMode = "inference_mode", Exact, Accepts::Bool;
    /// Gradients lie in the buckets in which copies of a model exchange them, instead of being copied there.
    GradientAsBucketView = "gradient_as_bucket_view", Exact, Accepts::Bool;
    /// The size of these buckets in MiB.
    BucketCapMb = "bucket_cap_mb", Exact, Accepts::IntFrom(1);
}

impl Knob {
    /// Whether the agent can put this value in force between two steps of a running script, and take it away without a
    /// trace, where it turns the knob itself; `turns_between_steps` of the knob's class in `autofit_agent/knobs/` says
    /// the same.  What it takes for two configurations: [`Configuration::turns_into`](super::Configuration::turns_into).
    ///
    /// Not: what is read once when a process, an optimizer or a loader begins; `malloc`, whose thresholds grow by
    /// themselves until they are set once; `compile`, whose code and compiler stay in memory; `fp16`, whose gradient
    /// scale goes on from step to step.
    pub fn turns_between_steps(self, value: &Value) -> bool {
        let is = |words: &[&str]| matches!(value, Value::Text(t) if words.contains(&t.as_str()));
        match self {
            Self::Amp => !is(&["fp16"]),
            Self::Offload => is(&["none", "activations"]),
            Self::Accumulation
            | Self::Checkpoint
            | Self::OmpThreads
            | Self::Optimizer
            | Self::SetToNone
            | Self::Tf32
            | Self::CudnnBenchmark
            | Self::ChannelsLast
            | Self::Inplace => true,
            _ => false,
        }
    }

    /// Checks a value, with the sentence to print when it does not fit.
    ///
    /// # Errors
    /// Says what the knob takes instead.
    pub fn check(self, value: &Value) -> Result<(), String> {
        let (ok, takes) = match self.accepts() {
            Accepts::Bool => (matches!(value, Value::Bool(_)), "true or false".to_owned()),
            Accepts::IntFrom(low) => {
                (matches!(value, Value::Int(i) if *i >= low), format!("a whole number from {low} up"))
            }
            Accepts::Words(words) => (
                matches!(value, Value::Text(t) if words.contains(&t.as_str())),
                format!("one of {}", words.join(", ")),
            ),
            Accepts::Share => (
                matches!(value, Value::Text(t) if share(t).as_ref() == Some(t)),
                "a number from 0 to 1, such as 0.5".to_owned(),
            ),
            Accepts::Text => (
                matches!(value, Value::Text(t) if env_safe(t)),
                "text of letters, digits and _./:,=+-".to_owned(),
            ),
        };
        if let (Self::Allocator, Value::Text(text)) = (self, value)
            && let Some(ignored) = ignored_by_async(text)
        {
            return Err(format!("`allocator`: cudaMallocAsync ignores {ignored}; set one or the other"));
        }
        if self == Self::Offload && *value == Value::from("parameters") {
            return Err(
                "`offload` does not move `parameters` of a model that is not sharded; `strategy: fsdp_offload` does"
                    .into()
            );
        }
        if ok { Ok(()) } else { Err(format!("`{}` takes {takes}, not `{value}`", self.name())) }
    }

    /// Reads a value as typed on the command line (`--set amp=bf16`).
    ///
    /// # Errors
    /// Says what the knob takes instead.
    pub fn parse_value(self, text: &str) -> Result<Value, String> {
        let value = match self.accepts() {
            Accepts::Bool => match text {
                "true" | "True" | "1" | "on" | "yes" => Value::Bool(true),
                "false" | "False" | "0" | "off" | "no" => Value::Bool(false),
                _ => Value::Text(text.to_owned()),
            },
            Accepts::IntFrom(_) => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Int),
            Accepts::Share => Value::Text(share(text).unwrap_or_else(|| text.to_owned())),
            Accepts::Words(_) | Accepts::Text => Value::Text(text.to_owned()),
        };
        self.check(&value)?;
        Ok(value)
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Knob {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(knob) = Self::ALL.iter().find(|k| k.name() == s) {
            return Ok(*knob);
        }
        let near = Self::ALL
            .iter()
            .map(|k| (strsim::jaro_winkler(k.name(), s), k.name()))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match near {
            Some((_, name)) => format!("there is no knob `{s}`; did you mean `{name}`?"),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|k| k.name()).collect();
                format!("there is no knob `{s}`; the knobs are {}", names.join(", "))
            }
        })
    }
}

/// A number from 0 to 1 as it is written everywhere: `0.50` is `0.5`.
fn share(text: &str) -> Option<String> {
    text.parse::<f64>().ok().filter(|n| (0.0..=1.0).contains(n)).map(|n| (n + 0.0).to_string())
}

/// Settings of the caching allocator beside `backend:cudaMallocAsync`, which has none of them.
fn ignored_by_async(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    let others: Vec<&str> =
        parts.iter().filter_map(|p| p.split(':').next()).filter(|name| *name != "backend").collect();
    (parts.contains(&"backend:cudaMallocAsync") && !others.is_empty()).then(|| others.join(", "))
}

/// Whether `text` is taken unharmed by sh, `docker --env-file` and systemd's `EnvironmentFile` alike.
pub fn env_safe(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_./:,=+-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_names_what_was_meant() {
        assert!("num_worker".parse::<Knob>().unwrap_err().contains("did you mean `num_workers`"));
        assert!("zzz".parse::<Knob>().unwrap_err().contains("the knobs are allocator"));
    }

    #[test]
    fn serde_and_name_agree() {
        for knob in Knob::ALL {
            assert_eq!(serde_json::to_string(knob).unwrap(), format!("\"{}\"", knob.name()));
        }
    }

    #[test]
    fn values_are_checked_with_a_sentence() {
        assert_eq!(Knob::Amp.parse_value("bf16"), Ok(Value::Text("bf16".into())));
        assert_eq!(Knob::Amp.parse_value("fp8"), Err("`amp` takes one of off, bf16, fp16, not `fp8`".into()));
        assert!(Knob::Accumulation.parse_value("0").is_err());
        assert_eq!(Knob::ActivationMemoryBudget.parse_value(".50"), Ok(Value::Text("0.5".into())));
        let beyond = Knob::ActivationMemoryBudget.parse_value("1.5").unwrap_err();
        assert_eq!(beyond, "`activation_memory_budget` takes a number from 0 to 1, such as 0.5, not `1.5`");
        assert!(Knob::ActivationMemoryBudget.check(&"0.50".into()).is_err());
        assert!(Knob::Allocator.parse_value("a$b").is_err());
        assert!(Knob::Allocator.parse_value("backend:cudaMallocAsync").is_ok());
        let both = Knob::Allocator.parse_value("max_split_size_mb:64,backend:cudaMallocAsync").unwrap_err();
        assert!(both.contains("ignores max_split_size_mb"), "{both}");
        assert!(Knob::Offload.parse_value("parameters").unwrap_err().contains("fsdp_offload"));
    }
}
