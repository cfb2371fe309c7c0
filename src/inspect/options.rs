//! Which of the script's own options turns a knob.
//!
//! A name alone proves little: `--train-size` is a batch size in one script and the size of a data set in the next,
//! `--log-interval` is no place for logs.  So whole words are compared, never parts, and a doubtful name counts only
//! when its value is the one that the training loader was seen to have.

use crate::model::inspection::{Inspection, OptionsInfo, ScriptOption};
use crate::model::{Knob, Value};

/// Names that leave no doubt, as written in `dest` or a long flag (dashes as underscores, lower case).
fn sure_names(knob: Knob) -> &'static [&'static str] {
    match knob {
        Knob::BatchSize => &[
            "batch_size",
            "batchsize",
            "train_batch_size",
            "train_batchsize",
            "training_batch_size",
            "batch_size_train",
            "per_device_train_batch_size",
            "per_gpu_train_batch_size",
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
        Knob::NumWorkers => &[
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
        Knob::PrefetchFactor => &["prefetch_factor", "dataloader_prefetch_factor"],
        _ => &[],
    }
}

/// Words that make a name doubtful but possible, when its value is the loader's.
fn doubtful_words(knob: Knob) -> &'static [&'static str] {
    match knob {
        Knob::BatchSize => &["batch", "bs", "bsz", "size", "batchsize", "minibatch"],
        Knob::NumWorkers => &["workers", "worker", "nw", "threads", "procs", "processes"],
        Knob::PrefetchFactor => &["prefetch"],
        _ => &[],
    }
}

/// Words that say that an option is about something else.
const OTHERS: &[&str] = &[
    "eval",
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
];

/// What an option can be used for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Match {
    /// This flag sets it.
    Flag {
        /// `--batch-size`.
        flag: String,
        /// The option's value in this launch.
        current: Option<String>,
        /// The only values, if limited.
        values: Vec<Value>,
    },
    /// An option exists but cannot be used.
    Unusable(String),
    /// None exists.
    Nothing,
}

/// The option that turns `knob`; `seen` is the value that was seen in force where the knob acts, if any was.
pub(super) fn option_for(knob: Knob, found: &Inspection, seen: Option<u64>) -> Match {
    let Some(options) = &found.options else { return Match::Nothing };
    let mut best: Option<(u32, &ScriptOption)> = None;
    for option in &options.options {
        let score = score(knob, option, seen);
        if score > 0 && best.is_none_or(|(top, _)| score > top) {
            best = Some((score, option));
        }
    }
    let Some((_, option)) = best else { return Match::Nothing };
    usable(option, options, seen)
}

fn score(knob: Knob, option: &ScriptOption, seen: Option<u64>) -> u32 {
    if !matches!(option.kind.as_str(), "int" | "") || option.flags.is_empty() {
        return 0;
    }
    let agrees = seen.is_some() && number(option) == seen;
    let names: Vec<String> = option
        .flags
        .iter()
        .filter(|f| f.len() > 2)
        .map(|f| normal(f))
        .chain([normal(&option.dest)])
        .collect();
    if let Some(rank) = sure_names(knob).iter().position(|n| names.iter().any(|m| m == n)) {
        // Earlier names are plainer; a value that agrees outweighs the order.
        return 100 - rank as u32 + if agrees { 200 } else { 0 };
    }
    let words = || names.iter().flat_map(|n| n.split(['_', '.']));
    let doubtful = words().any(|w| doubtful_words(knob).contains(&w));
    let other = words().any(|w| OTHERS.contains(&w));
    if agrees && doubtful && !other { 50 } else { 0 }
}

fn usable(option: &ScriptOption, options: &OptionsInfo, seen: Option<u64>) -> Match {
    let flag = option
        .flags
        .iter()
        .find(|f| f.starts_with("--"))
        .or_else(|| option.flags.first())
        .cloned()
        .unwrap_or_default();
    let chosen = options.options.iter().any(|o| !o.under.is_empty());
    if option.under.is_empty() && chosen {
        // Options are added at the end of the command, where a subcommand's parser reads them.
        return Match::Unusable(format!("{flag} belongs before the subcommand, where it cannot be added"));
    }
    if let (Some(value), Some(seen)) = (number(option), seen)
        && value != seen
    {
        return Match::Unusable(format!("{flag} is {value}, but {seen} is in force"));
    }
    let values: Vec<Value> = option.choices.iter().filter_map(|c| c.parse().ok().map(Value::Int)).collect();
    if values.is_empty() && !option.choices.is_empty() {
        return Match::Unusable(format!("{flag} takes only {}", option.choices.join(", ")));
    }
    Match::Flag { flag, current: option.value.clone().or_else(|| option.default.clone()), values }
}

fn number(option: &ScriptOption) -> Option<u64> {
    option.value.as_ref().or(option.default.as_ref())?.trim().parse().ok()
}

fn normal(name: &str) -> String {
    // `batchSize` and `--batch-size` are one name.
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
