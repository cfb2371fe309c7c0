//! Text -> [`Recipe`], and serde's errors in our words.

use std::path::Path;

use serde::Deserialize;

use super::error::nearest;
use super::executor::{ExecutorWord, RawSlurm};
use super::knobs::KnobRules;
use super::scalars::{Command, DeviceWord, Positive, Seconds, Share, Size, Version};
use super::{Executor, Limits, Policy, Recipe, RecipeError, RecipeErrorKind, Rung};
use crate::model::{BatchPolicy, NumericsClass};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a recipe: keys such as `command:` and `ladder:`, one a line")]
struct Raw {
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    about: String,
    #[serde(default)]
    command: Option<Command>,
    #[serde(default)]
    directory: Option<String>,
    #[serde(default)]
    device: DeviceWord,
    #[serde(default)]
    memory_cap: Option<Size>,
    #[serde(default)]
    knobs: KnobRules,
    #[serde(default)]
    ladder: Option<Vec<Rung>>,
    #[serde(default)]
    policy: RawPolicy,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    executor: ExecutorWord,
    #[serde(default)]
    slurm: RawSlurm,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawPolicy {
    numerics: Option<NumericsClass>,
    batch: Option<BatchPolicy>,
    max_batch: Option<Positive>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    budget: Option<Seconds>,
    max_trials: Option<Positive>,
    trial_timeout: Option<Seconds>,
    margin: Option<Share>,
    prove_peak: Option<bool>,
    advice: Option<bool>,
}

/// Reads a recipe.  `path` names it in errors, and its folder is what the recipe's paths are relative to.
///
/// # Errors
/// The first mistake in the text.
pub fn load(text: &str, path: &Path) -> Result<Recipe, RecipeError> {
    if is_empty(text) {
        return Err(empty(path));
    }
    let raw: Raw = serde_yaml::from_str(text).map_err(|e| explain(&e, text, path))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let policy = Policy {
        numerics: raw.policy.numerics.unwrap_or(Policy::default().numerics),
        max_batch: raw.policy.max_batch.map(|p| p.0),
        batch: match (raw.policy.batch, raw.policy.max_batch) {
            (Some(batch), _) => batch,
            (None, Some(_)) => BatchPolicy::Max,
            (None, None) => BatchPolicy::Keep,
        },
    };
    let _ = raw.version;
    Ok(Recipe {
        name: path.file_stem().map_or_else(|| "recipe".into(), |s| s.to_string_lossy().into_owned()),
        about: raw.about.trim().to_owned(),
        command: raw.command.map(|c| c.0),
        directory: raw.directory.map_or_else(|| folder.to_path_buf(), |d| folder.join(d)),
        device: raw.device.0,
        memory_cap: raw.memory_cap.map(|s| s.0),
        knobs: raw.knobs.0,
        ladder: raw.ladder.unwrap_or_else(|| super::shipped::ladder(raw.device.0)),
        policy,
        limits: Limits {
            budget: raw.limits.budget.map(|s| s.0),
            max_trials: raw.limits.max_trials.map(|p| u32::try_from(p.0).unwrap_or(u32::MAX)),
            trial_timeout: raw.limits.trial_timeout.map(|s| s.0),
            margin: raw.limits.margin.map_or(0.0, |s| s.0),
            prove_peak: raw.limits.prove_peak.unwrap_or(false),
            advice: raw.limits.advice,
        },
        executor: raw.executor.0,
        slurm: raw.slurm.into(),
    })
}

/// Checks a recipe, for `autofit recipe check FILE`; the answer says in a few lines what the recipe would do.
///
/// # Errors
/// The first mistake in the text.
pub fn check(text: &str, path: &Path) -> Result<String, RecipeError> {
    let recipe = load(text, path)?;
    let mut lines = vec![format!("{}: the recipe is sound.", path.display())];
    match &recipe.command {
        Some(command) => {
            lines.push(format!("command: {} (in {})", shell_words::join(command), recipe.directory.display()))
        }
        None => lines.push("command: none; type it after `--`".to_owned()),
    }
    let rungs: Vec<String> = recipe.ladder.iter().map(rung_in_words).collect();
    lines.push(format!("ladder: {}", rungs.join(" -> ")));
    lines.push(format!("policy: numerics {}, batch {}", recipe.policy.numerics, recipe.policy.batch.name()));
    if recipe.executor == Executor::Slurm {
        let nodes = match recipe.slurm.nodes() {
            Ok(nodes) => nodes.map(|nodes| nodes.to_string()),
            Err(word) => Some(word),
        };
        let nodes = nodes.map(|nodes| format!("--nodes={nodes}"));
        let words: Vec<String> = recipe.slurm.words().into_iter().chain(nodes).collect();
        lines.push(format!("executor: slurm {}", words.join(" ")).trim_end().to_owned());
    }
    for (knob, rule) in &recipe.knobs {
        let what = if rule.off {
            "never turned".to_owned()
        } else {
            let env = rule.env.iter().map(|(k, v)| format!("{k}={v}"));
            let how: Vec<String> = rule.args.iter().cloned().chain(env).collect();
            let values: Vec<String> = rule.values.iter().map(ToString::to_string).collect();
            let only =
                if values.is_empty() { String::new() } else { format!(" (only {})", values.join(", ")) };
            format!("{}{only}", if how.is_empty() { "as autofit finds".into() } else { how.join(" ") })
        };
        lines.push(format!("knob {knob}: {what}"));
    }
    Ok(lines.join("\n"))
}

fn rung_in_words(rung: &Rung) -> String {
    match rung {
        Rung::Knob { knob, values } if values.is_empty() => knob.to_string(),
        Rung::Knob { knob, values } => {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("{knob}={}", values.join("|"))
        }
        Rung::Together(c) => format!("({c})"),
    }
}

/// Nothing but blanks, comments and marks of a document: a file that was never saved, or the wrong one.
fn is_empty(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    text.lines().map(str::trim).all(|l| l.is_empty() || l.starts_with('#') || l == "---" || l == "...")
}

fn empty(path: &Path) -> RecipeError {
    RecipeError {
        file: path.to_path_buf(),
        line: None,
        column: None,
        key: None,
        kind: RecipeErrorKind::BadValue,
        message:
            "the recipe is empty; `about:` and `ladder:` are what most begin with (without --recipe autofit \
                  takes its own)"
                .to_owned(),
        meant: None,
    }
}

/// serde's error in our words.
fn explain(error: &serde_yaml::Error, text: &str, path: &Path) -> RecipeError {
    let location = error.location();
    let whole = error.to_string();
    // The text is `key.path: message at line L column C`; the path and the place are told apart from it.
    let body = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(b, _)| b);
    let (key, message) = match body.split_once(": ") {
        Some((key, rest)) if looks_like_a_key(key) => (Some(key.to_owned()), rest),
        _ => (None, body),
    };
    let (kind, message, meant) = in_our_words(message);
    // Where something is missing at the end, the mark stands behind the text: its last line is the place to look.
    let last = text.lines().count().max(1);
    let end = text.lines().last().map_or(1, |l| l.chars().count() + 1);
    let place = location.map(|l| if l.line() > last { (last, end) } else { (l.line(), l.column()) });
    RecipeError {
        file: path.to_path_buf(),
        line: place.and_then(|p| u32::try_from(p.0).ok()),
        column: place.and_then(|p| u32::try_from(p.1).ok()),
        key,
        kind,
        message,
        meant,
    }
}

fn looks_like_a_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.[]?-\\".contains(c))
}

fn in_our_words(message: &str) -> (RecipeErrorKind, String, Option<String>) {
    use RecipeErrorKind as Kind;
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let (word, known) = quoted.split_first().map_or(("", &[][..]), |(w, k)| (*w, k));
        let meant = nearest(word, known.iter().copied()).map(str::to_owned);
        return if message.starts_with("unknown field") {
            (
                Kind::UnknownKey,
                format!("there is no key `{word}` here; the keys are {}", known.join(", ")),
                meant,
            )
        } else {
            (Kind::BadValue, format!("`{word}` is not one of {}", known.join(", ")), meant)
        };
    }
    if message.starts_with("there is no knob") || message.contains("; did you mean `") {
        let kind = if message.starts_with("there is no knob") { Kind::UnknownKnob } else { Kind::BadValue };
        return match message.split_once("; did you mean `") {
            Some((sentence, rest)) => {
                (kind, sentence.to_owned(), Some(rest.trim_end_matches("`?").to_owned()))
            }
            None => (kind, message.to_owned(), None),
        };
    }
    if let Some(rest) = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: ")) {
        let sentence = match rest.split_once(", expected ") {
            Some((found, expected)) => format!("expected {expected}, found {found}"),
            None => rest.to_owned(),
        };
        return (Kind::BadValue, sentence, None);
    }
    if message.starts_with("duplicate entry") || message.starts_with("duplicate field") {
        return (Kind::BadValue, format!("{message}; each key stands once"), None);
    }
    let syntax = ["did not find", "mapping values are not", "found ", "while ", "block ", "could not find"];
    if syntax.iter().any(|s| message.starts_with(s)) {
        return (Kind::Syntax, format!("this is not YAML: {message}"), None);
    }
    (Kind::BadValue, message.to_owned(), None)
}
