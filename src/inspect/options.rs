//! Which of the script's own options turns a knob.
//!
//! A name alone proves little: `--train-size` is a batch size in one script and the size of a data set in the next.  So
//! a doubtful name counts only when its value is the one that was seen in force, a sure name is not used when it is
//! seen not to be in force, and what the parser made of an option is read back in every launch.

use std::collections::BTreeMap;

use super::names::{Meaning, Name, TABLE};
use crate::model::Value;
use crate::model::arguments::Place;
use crate::model::inspection::{Inspection, OptionTurn, OptionsInfo, ScriptOption, Translation};

/// A batch is split into at most this many parts.
const MOST_PARTS: u64 = 64;

/// How parsers say that training is in full precision.
const FULL: &[&str] = &["32", "32-true", "fp32", "float32", "no", "none", "off", "full"];
/// How they spell autocast, the most telling first.
const BF16: &[&str] = &["bf16-mixed", "bf16", "bfloat16", "amp_bf16"];
const FP16: &[&str] = &["16-mixed", "fp16", "float16", "amp_fp16"];

/// What an option can be used for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Match {
    /// These are set.
    Options(Turned),
    /// An option exists but cannot be used.
    Unusable(String),
    /// None exists.
    Nothing,
}

/// Options that turn a knob.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turned {
    /// What is set.
    pub turns: Vec<OptionTurn>,
    /// In words.
    pub how: String,
    /// The value in this launch.
    pub current: Option<String>,
    /// The only values, if limited.
    pub values: Vec<Value>,
}

/// The option for a count; `seen` is the value that was seen in force where the knob acts, if any was.
pub(super) fn count(meaning: Meaning, found: &Inspection, seen: Option<u64>) -> Match {
    match chosen(meaning, found, seen) {
        Ok(None) => Match::Nothing,
        Err(why) => Match::Unusable(why),
        Ok(Some((info, option))) => match checked(meaning, info, option, seen) {
            Err(why) => Match::Unusable(why),
            Ok(place) => Match::Options(Turned {
                how: spelled(option),
                current: option.value.clone().or_else(|| option.default.clone()),
                values: option.choices.iter().filter_map(|c| c.parse().ok().map(Value::Int)).collect(),
                turns: vec![OptionTurn { value: Translation::Same, option: option.clone(), place }],
            }),
        },
    }
}

/// The option for a truth value; `words` are the knob's values for on and off, `seen` what is in force.
pub(super) fn switch(meaning: Meaning, found: &Inspection, words: [Value; 2], seen: bool) -> Match {
    let (info, option) = match chosen(meaning, found, None) {
        Ok(Some(pair)) => pair,
        Ok(None) => return Match::Nothing,
        Err(why) => return Match::Unusable(why),
    };
    let Some(place) = place(info, option) else { return Match::Unusable(unreached(option)) };
    if truth(option) != seen {
        return Match::Unusable(format!(
            "{} is {}, but that is not in force",
            spelled(option),
            truth(option)
        ));
    }
    // Towards off a switch can always be taken back, if it is the command that has it on.
    let possible = if seen { !option.off.is_empty() || option.on.len() == 1 } else { !option.on.is_empty() };
    if !possible {
        return Match::Unusable(format!("{} cannot be set to {}", spelled(option), !seen));
    }
    let texts = words.iter().map(ToString::to_string).zip(["true".to_owned(), "false".to_owned()]);
    Match::Options(Turned {
        how: spelled(option),
        current: Some(words[usize::from(!seen)].to_string()),
        values: words.to_vec(),
        turns: vec![OptionTurn { value: Translation::Words(texts.collect()), option: option.clone(), place }],
    })
}

/// The options for autocast: one that names the type, or one for each type.  A plain `--amp` says nothing of the type:
/// it is used only beside an option that does.
pub(super) fn amp(found: &Inspection) -> Match {
    let usable = |meaning| {
        let (info, option) = chosen(meaning, found, None).ok().flatten()?;
        Some((option, place(info, option)?))
    };
    let turn = |(option, place): (&ScriptOption, Place), words: &[(&str, &str)]| OptionTurn {
        value: Translation::Words(
            words.iter().map(|(knob, text)| ((*knob).to_owned(), (*text).to_owned())).collect(),
        ),
        option: option.clone(),
        place,
    };
    let off = |found: Option<(&'_ ScriptOption, Place)>| {
        found.filter(|(option, _)| !truth(option) && !option.on.is_empty()).is_some()
    };
    let mut turns = Vec::new();
    let any = usable(Meaning::Amp).filter(|_| off(usable(Meaning::Amp)));
    let word = usable(Meaning::Precision);
    let spelling = word.as_ref().and_then(|(option, _)| spellings(option, any.is_some()));
    if let (Some(word), Some((bf16, fp16))) = (word, spelling) {
        turns.push(turn(word, &[("bf16", &bf16), ("fp16", &fp16)]));
        if let Some(any) = any {
            turns.push(turn(any, &[("bf16", "true"), ("fp16", "true")]));
        }
    } else if off(usable(Meaning::Bf16)) {
        turns.extend(usable(Meaning::Bf16).map(|o| turn(o, &[("bf16", "true")])));
        if off(usable(Meaning::Fp16)) {
            turns.extend(usable(Meaning::Fp16).map(|o| turn(o, &[("fp16", "true")])));
        }
    }
    if turns.is_empty() {
        return Match::Nothing;
    }
    let fp16 = turns.iter().any(|t| matches!(&t.value, Translation::Words(w) if w.contains_key("fp16")));
    let values = ["off", "bf16", "fp16"].into_iter().filter(|v| *v != "fp16" || fp16);
    Match::Options(Turned {
        how: turns.iter().map(|t| spelled(&t.option)).collect::<Vec<_>>().join(" and "),
        current: None,
        values: values.map(Value::from).collect(),
        turns,
    })
}

/// How this option spells bf16 and fp16, if it is in full precision now.  `typed`: another option switches autocast
/// on, this one only says in which type.
fn spellings(option: &ScriptOption, typed: bool) -> Option<(String, String)> {
    let now = option.value.as_deref().unwrap_or("none").to_ascii_lowercase();
    if !typed && !FULL.contains(&now.as_str()) {
        return None;
    }
    let among = |words: &[&str]| {
        words.iter().find(|w| option.choices.iter().any(|c| c == *w)).map(|w| (*w).to_owned())
    };
    if !option.choices.is_empty() {
        return Some((among(BF16)?, among(FP16)?));
    }
    // Without a list the option's own value shows which words it is written in.
    let pair = match now.as_str() {
        "float32" | "float16" | "bfloat16" => ("bfloat16", "float16"),
        "fp32" | "fp16" | "bf16" | "no" => ("bf16", "fp16"),
        "32-true" => ("bf16-mixed", "16-mixed"),
        _ => return None,
    };
    Some((pair.0.to_owned(), pair.1.to_owned()))
}

/// More accumulation and a batch smaller by as much, together, so that the effective batch stays.  `own`: backward
/// calls for each step now, where that was seen; `seen`: samples of a batch.
pub(super) fn accumulation(found: &Inspection, own: Option<u64>, seen: Option<u64>) -> Match {
    let Some(batch) = seen else { return Match::Nothing };
    if let Ok(Some((info, micro))) = chosen(Meaning::MicroBatch, found, None) {
        // The option for the whole batch stays, and the script makes up the difference.
        let whole = chosen(Meaning::Batch, found, own.map(|own| own * batch)).ok().flatten();
        let fits = |(_, whole): (_, &ScriptOption)| number(whole) == Some(batch * own.unwrap_or(1));
        if whole.is_some_and(fits)
            && number(micro) == Some(batch)
            && let Some(place) = place(info, micro)
        {
            let turn = OptionTurn { value: Translation::Parts(batch), option: micro.clone(), place };
            return in_parts(batch, vec![turn], format!("{} divided by the parts", spelled(micro)));
        }
    }
    let (info, steps) = match chosen(Meaning::Accumulation, found, own) {
        Ok(Some(pair)) => pair,
        Ok(None) => return Match::Nothing,
        Err(why) => return Match::Unusable(why),
    };
    let Some(times) = number(steps).filter(|n| *n > 0 && own.is_none_or(|own| own == *n)) else {
        return Match::Unusable(format!("{} is not what the script was seen to do", spelled(steps)));
    };
    let size = match chosen(Meaning::Batch, found, Some(batch)) {
        Ok(Some((info, size))) => match checked(Meaning::Batch, info, size, Some(batch)) {
            Ok(place) => OptionTurn { value: Translation::Parts(batch), option: size.clone(), place },
            Err(why) => return Match::Unusable(why),
        },
        Ok(None) => {
            return Match::Unusable(format!("{} alone would make the batch larger", spelled(steps)));
        }
        Err(why) => return Match::Unusable(why),
    };
    let Some(place) = place(info, steps) else { return Match::Unusable(unreached(steps)) };
    let how = format!("{} times the parts, and {} divided by them", spelled(steps), spelled(&size.option));
    let steps = OptionTurn { value: Translation::Times(times), option: steps.clone(), place };
    in_parts(batch, vec![size, steps], how)
}

/// Only numbers of parts that divide the batch keep the effective batch.
fn in_parts(batch: u64, turns: Vec<OptionTurn>, how: String) -> Match {
    let parts = (1..=batch.min(MOST_PARTS)).filter(|k| batch.is_multiple_of(*k));
    let values: Vec<Value> = parts.map(|k| Value::Int(k.cast_signed())).collect();
    if values.len() < 2 {
        return Match::Unusable(format!("a batch of {batch} samples cannot be divided evenly"));
    }
    Match::Options(Turned { turns, how, current: None, values })
}

/// The option that means this: the best by value and name.
fn chosen(
    meaning: Meaning,
    found: &Inspection,
    seen: Option<u64>,
) -> Result<Option<(&OptionsInfo, &ScriptOption)>, String> {
    let Some(info) = &found.options else { return Ok(None) };
    let mut scored: Vec<_> =
        info.options.iter().filter_map(|o| Some((score(meaning, o, seen)?, o))).collect();
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    match scored.as_slice() {
        [] => Ok(None),
        [(one, a), (two, b), ..] if one == two => {
            Err(format!("it is not known which of {} and {} is meant", spelled(a), spelled(b)))
        }
        [(_, option), ..] => Ok(Some((info, option))),
    }
}

/// Higher is better: a value that agrees, then the plainer name, then a name that speaks of training.
fn score(meaning: Meaning, option: &ScriptOption, seen: Option<u64>) -> Option<(bool, usize, bool)> {
    let names = TABLE.iter().find(|n| n.meaning == meaning)?;
    if !names.kinds.contains(&option.kind.as_str()) || option.flags.is_empty() {
        return None;
    }
    let agrees = seen.is_some() && number(option) == seen;
    let called: Vec<Name> = option.flags.iter().chain([&option.dest]).map(|f| Name::of(f)).collect();
    let training = called.iter().any(|n| n.context.iter().any(|w| w.starts_with("train")));
    if called.iter().any(Name::elsewhere) {
        return None;
    }
    if let Some(rank) = names.sure.iter().position(|s| called.iter().any(|n| n.last == *s)) {
        return Some((agrees, names.sure.len() - rank, training));
    }
    let doubtful = |n: &Name| n.last.split('_').any(|w| names.doubtful.contains(&w));
    let other = called.iter().any(Name::about_something_else);
    (agrees && !other && called.iter().any(doubtful)).then_some((true, 0, training))
}

/// Where the option stands, if it can be used for a count.
fn checked(
    meaning: Meaning,
    info: &OptionsInfo,
    option: &ScriptOption,
    seen: Option<u64>,
) -> Result<Place, String> {
    let flag = spelled(option);
    if meaning == Meaning::Batch && info.world_size > 1 {
        let n = info.world_size;
        return Err(format!("{n} processes train, and {flag} may be the batch of one or of all of them"));
    }
    if let (Some(value), Some(seen)) = (number(option), seen)
        && value != seen
    {
        return Err(format!("{flag} is {value}, but {seen} is in force"));
    }
    if !option.choices.is_empty() && option.choices.iter().all(|c| c.parse::<i64>().is_err()) {
        return Err(format!("{flag} takes only {}", option.choices.join(", ")));
    }
    if option.write.is_empty() {
        return Err(format!("it is not known how {flag} is written"));
    }
    place(info, option).ok_or_else(|| unreached(option))
}

/// Where the option's parser reads the command.
fn place(info: &OptionsInfo, option: &ScriptOption) -> Option<Place> {
    let head = info.head()?;
    let in_words = option.first <= option.after && option.after <= info.words.len();
    in_words.then(|| Place::of(&info.command, head + option.first, head + option.after))
}

fn unreached(option: &ScriptOption) -> String {
    format!("the command's own words do not reach the parser of {}", spelled(option))
}

/// As it is written: `--batch-size`, `train.batch_size`.
fn spelled(option: &ScriptOption) -> String {
    let word = option.write.first().or(option.on.first()).or(option.flags.first());
    word.and_then(|w| w.split('=').next()).unwrap_or(&option.dest).to_owned()
}

fn number(option: &ScriptOption) -> Option<u64> {
    option.value.as_ref().or(option.default.as_ref())?.trim().parse().ok()
}

fn truth(option: &ScriptOption) -> bool {
    option.value.as_ref().or(option.default.as_ref()).is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// Words of the command that argparse takes for the beginning of a longer flag (`--batch` for `--batch-size`) are names
/// of that option, too.
pub(super) fn name_abbreviations(info: &mut OptionsInfo) {
    if info.parser != "argparse" {
        return;
    }
    let all: Vec<String> = info.options.iter().flat_map(|o| o.flags.iter().cloned()).collect();
    let mut short: BTreeMap<String, String> = BTreeMap::new();
    for word in info.words.iter().filter(|w| w.starts_with("--") && w.len() > 2) {
        let name = word.split('=').next().unwrap_or(word);
        let mut longer = all.iter().filter(|f| f.starts_with(name));
        if let (false, Some(flag), None) = (all.iter().any(|f| f == name), longer.next(), longer.next()) {
            short.insert(flag.clone(), name.to_owned());
        }
    }
    for option in &mut info.options {
        let more: Vec<String> = option.flags.iter().filter_map(|f| short.get(f).cloned()).collect();
        option.flags.extend(more);
    }
}
