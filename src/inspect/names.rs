//! What scripts in the wild call the options that turn knobs: the one table.
//!
//! Whole names are compared, dashes and camel case evened out; of a nested name (`trainer.precision`) the last part is
//! compared and the parts before it only rule out (`val.batch_size`).

/// One meaning that an option can have.
pub(super) struct Names {
    /// A knob, or what a knob is put together from.
    pub meaning: Meaning,
    /// Kinds of option that can have it.
    pub kinds: &'static [&'static str],
    /// Names that leave no doubt, the plainest first.
    pub sure: &'static [&'static str],
    /// Words that make a name possible when its value is the one that was seen in force.
    pub doubtful: &'static [&'static str],
}

/// What an option means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Samples of a batch.
    Batch,
    /// Samples of a part of a batch, beside an option for the whole.
    MicroBatch,
    /// Batches of an optimizer step.
    Accumulation,
    /// Loader processes.
    Workers,
    /// Batches that each of them loads ahead.
    Prefetch,
    /// Page-locked batches.
    PinMemory,
    /// Loader processes live on.
    PersistentWorkers,
    /// Autocast, in a type that the name does not say.
    Amp,
    /// Autocast in bf16.
    Bf16,
    /// Autocast in fp16.
    Fp16,
    /// The type of autocast, or that there is none.
    Precision,
    /// Checkpointing of the blocks.
    Checkpointing,
    /// `torch.compile`.
    Compile,
    /// Memory format.
    ChannelsLast,
}

const COUNT: &[&str] = &["int", ""];
const SWITCH: &[&str] = &["bool"];
const WORD: &[&str] = &["str"];

/// Every meaning that autofit looks for.
pub(super) const TABLE: &[Names] = &[
    Names {
        meaning: Meaning::Batch,
        kinds: COUNT,
        sure: &[
            "batch_size",
            "batchsize",
            "train_batch_size",
            "train_batchsize",
            "training_batch_size",
            "batch_size_train",
            "per_device_train_batch_size",
            "per_gpu_train_batch_size",
            "per_device_batch_size",
            "batch_size_per_device",
            "batch_size_per_gpu",
            "per_rank_batch_size",
            "global_batch_size",
            "total_batch_size",
            "mini_batch_size",
            "minibatch_size",
            "bsz",
            "train_bsz",
            "bs",
            "train_bs",
            "batch",
        ],
        doubtful: &["batch", "bs", "bsz", "size", "batchsize", "minibatch", "b"],
    },
    Names {
        meaning: Meaning::MicroBatch,
        kinds: COUNT,
        sure: &[
            "micro_batch_size",
            "microbatch_size",
            "micro_bsz",
            "micro_bs",
            "micro_batch",
            "device_batch_size",
        ],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Accumulation,
        kinds: COUNT,
        sure: &[
            "gradient_accumulation_steps",
            "grad_accumulation_steps",
            "grad_accum_steps",
            "accumulate_grad_batches",
            "accumulation_steps",
            "accum_steps",
            "grad_acc_steps",
            "gradient_accumulation",
            "grad_accumulation",
            "grad_accum",
            "grad_acc",
            "accum_iter",
            "accum_freq",
            "iters_to_accumulate",
            "accumulate",
            "accumulation",
            "accum",
            "update_freq",
        ],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Workers,
        kinds: COUNT,
        sure: &[
            "num_workers",
            "workers",
            "n_workers",
            "nworkers",
            "numworkers",
            "num_worker",
            "dataloader_num_workers",
            "data_workers",
            "num_data_workers",
            "loader_workers",
            "num_loader_workers",
            "dataloader_workers",
            "train_num_workers",
        ],
        doubtful: &["workers", "worker", "nw", "threads", "procs", "processes", "j"],
    },
    Names {
        meaning: Meaning::Prefetch,
        kinds: COUNT,
        sure: &["prefetch_factor", "dataloader_prefetch_factor"],
        doubtful: &["prefetch"],
    },
    Names {
        meaning: Meaning::PinMemory,
        kinds: SWITCH,
        sure: &["pin_memory", "pin_mem", "dataloader_pin_memory"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::PersistentWorkers,
        kinds: SWITCH,
        sure: &["persistent_workers", "dataloader_persistent_workers"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Amp,
        kinds: SWITCH,
        sure: &["amp", "use_amp", "autocast", "use_autocast", "mixed_precision", "use_mixed_precision"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Bf16,
        kinds: SWITCH,
        sure: &["bf16", "use_bf16", "bfloat16", "amp_bf16"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Fp16,
        kinds: SWITCH,
        sure: &["fp16", "use_fp16", "float16", "amp_fp16", "fp16_precision"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Precision,
        kinds: WORD,
        sure: &["mixed_precision", "precision", "amp_dtype", "amp_precision", "autocast_dtype", "dtype"],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Checkpointing,
        kinds: SWITCH,
        sure: &[
            "activation_checkpointing",
            "gradient_checkpointing",
            "grad_checkpointing",
            "use_gradient_checkpointing",
            "use_grad_checkpointing",
            "use_checkpointing",
            "grad_checkpoint",
            "gradient_checkpoint",
            "checkpoint_activations",
            "use_checkpoint",
        ],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::Compile,
        kinds: &["bool", "str"],
        sure: &[
            "compile",
            "torch_compile",
            "torchcompile",
            "use_compile",
            "compile_model",
            "use_torch_compile",
        ],
        doubtful: &[],
    },
    Names {
        meaning: Meaning::ChannelsLast,
        kinds: SWITCH,
        sure: &["channels_last", "use_channels_last"],
        doubtful: &[],
    },
];

/// Words that say that an option is about something else.
const OTHERS: &[&str] = &[
    "eval",
    "evaluation",
    "val",
    "valid",
    "validation",
    "test",
    "dev",
    "sample",
    "gen",
    "generation",
    "inference",
    "predict",
    "log",
    "print",
    "save",
    "interval",
    "every",
    "freq",
    "steps",
    "epochs",
    "micro",
    "hidden",
    "vocab",
    "image",
    "crop",
    "buffer",
    "cache",
    "norm",
    "no",
];

/// One name of an option.
pub(super) struct Name {
    /// Words of the parts before the last: `train.loader` of `train.loader.batch_size`.
    pub context: Vec<String>,
    /// The last part, evened out.
    pub last: String,
}

impl Name {
    /// `--trainer.batchSize` -> `trainer`, `batch_size`.
    pub fn of(name: &str) -> Self {
        let even = even_out(name);
        let (before, last) = even.rsplit_once('.').unwrap_or(("", &even));
        let context = before.split(['_', '.']).filter(|w| !w.is_empty()).map(str::to_owned).collect();
        Self { context, last: last.to_owned() }
    }

    /// Whether a part before the last is about something else than training.
    pub fn elsewhere(&self) -> bool {
        self.context.iter().any(|w| OTHERS.contains(&w.as_str()))
    }

    /// Whether any word is.
    pub fn about_something_else(&self) -> bool {
        self.elsewhere() || self.last.split('_').any(|w| OTHERS.contains(&w))
    }
}

/// `batchSize` and `--batch-size` are one name.
fn even_out(name: &str) -> String {
    let mut out = String::new();
    let mut before = '_';
    for c in name.trim_start_matches('-').chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            out.push('_');
        }
        out.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
        before = c;
    }
    out
}
