//! Did the program go on after a phrase, and was the phrase meant as a failure at all?

use std::sync::LazyLock;

use regex::Regex;

use super::signs::{Hit, Sign};
use super::size::compile;
use super::text::cut;

/// How a phrase stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the message of an exception.
    Exception,
    /// Printed or logged.
    Logged,
    /// As a warning, or together with what the program does about it: `skipping batch`, `retrying`.
    Handled,
    /// As advice or in a manual; nothing happened.
    Advice,
}

/// What the program does about it, on the same line.
static HANDLED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\bskip(?:ping|ped)\b|\bre-?trying\b|\bwill retry\b|\btrying (?:again|with|a|the|batch|smaller|lower)\b|\bfall(?:ing|s)? ?back\b|\bfell back\b|\bcontinuing\b|\bwill continue\b|\brecover(?:ing|ed)?\b|\bignor(?:ed|ing)\b|\b(?:reducing|reduced|lowering|decreasing|halving) (?:the )?(?:\w+ ){0,2}(?:batch|to|size|resolution)|\bsplitting\b|\bswitching (?:to|back)\b|\bunloading\b|\battempting to\b|跳过|重试",
    )
});

/// The same on a neighbouring line, where the words must be plainer.
static HANDLED_NEARBY: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\bskip(?:ping|ped)\b|\bre-?trying\b|\bwill retry\b|\btrying (?:again|batch)\b|\bfalling ?back\b|\bcontinuing\b|\brecover(?:ing|ed)\b|\b(?:reducing|lowering|decreasing|halving) (?:the )?(?:\w+ ){0,2}batch|跳过|重试",
    )
});

/// "irrecoverable", "cannot recover", "unable to continue" are the opposite.
static NOT_HANDLED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\b(?:ir|un)recoverable\b|\b(?:cannot|can'?t|can not|unable to|could not|failed to) (?:recover|continue)|\bgiving up\b|\baborting\b|\bnot recoverable\b|\bException ignored\b|\brecommend\b|\bplease\b",
    )
});

/// A warning; NCCL's are causes.
static WARNING: LazyLock<Regex> = LazyLock::new(|| compile(r"\bwarning\b|\b\w+Warning:|\bWARN\b|⚠"));

/// Conditions and advice in front of the words.
static ADVICE: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?:\bif (?:you|your|it|the|there|this|an?)\b|\bin case of\b|\bto (?:avoid|prevent|fix|reduce|save)\b|\b(?:may|might|can|could|would|will) (?:\w+ ){0,3}(?:cause|lead|result|run|go|get|be|raise|throw|trigger)\b|\bwhen (?:you|it|the)\b|\bhelps? (?:with|avoid|prevent)\b|\bwithout\b|\bavoid(?:s|ing)?\b|\bprevents?\b|\brisk of\b|\bcheck (?:for|if|whether)\b|\bsuch as\b|\be\.g\.|\bpossible (?:reasons?|causes?)\b|\bpotential root causes?\b)[^\n.:]{0,60}$",
    )
});

/// The class of an exception right in front.
static CLASS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?:^|[\s.(:'"`\]|>])\w*(?:Error|Exception)\b\s*(?:\(\s*['"]?|[:：]\s*)?(?:\[[^\]]*\]\s*\.?\s*)?[\w\s:.=]{0,40}$"#,
    )
    .expect("a fixed pattern")
});

/// A line with a number that only a program at work prints.
static PROGRESS: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r#"['"]?\b(?:\w*loss|acc\w*|ppl|perplexity|lr|learning_rate|reward|tokens_per_second|wps|grad_?norm|gnorm)['"]?\s*[=:]\s*[-+]?\d|\b(?:epoch|step|iter(?:ation)?|batch)\b\W{0,4}\d+.*\d|\d+%\|.*\|"#,
    )
});

/// Summaries of a tracker at the end, and a failed program's own reports, are no progress.
static NO_PROGRESS: LazyLock<Regex> = LazyLock::new(|| compile(r"^\s*(?:wandb|mlflow|neptune|clearml)\b"));

/// A bar is weak evidence: other ranks and threads draw theirs for a while.
static BAR: LazyLock<Regex> = LazyLock::new(|| compile(r"\d+%\|"));

static FINISHED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\bdone training\b|\btraining (?:is |has |was )?(?:successfully )?(?:done|completed?|finished|ended)\b|\bfinished training\b|\btrain(?:ing)? finished\b|\ball done\b|\bcompleted successfully\b|\bfinished successfully\b|\b(?:successfully|run) (?:completed|finished)\b|\btrial \d+ (?:finished|completed?)\b|\bsaved (?:the )?(?:final |best )?(?:model|checkpoint) to\b|训练(?:完成|结束)",
    )
});

/// The end of something: an exception that nobody caught, or a death.
static CRASH: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?m)^\s*Traceback \(most recent call last\)|^(?-i:(?:[\w.]+\.)?\w+(?:Error|Exception))\b|\bSegmentation fault\b|\bcore dumped\b|^\S*KeyboardInterrupt\b|\bexitcode\s*: -?[1-9]|\bexit(?:ed)? (?:with )?(?:exit )?(?:code|status) [1-9]",
    )
});

/// How the phrase stands.
pub fn form(text: &str, hit: &Hit) -> Form {
    let line_start = text[..hit.start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[hit.end..].find('\n').map_or(text.len(), |i| hit.end + i);
    let from = floor(text, line_start.max(hit.start.saturating_sub(200)));
    let before = &text[from..hit.start];
    if ADVICE.is_match(before) {
        return Form::Advice;
    }
    // The line itself and its neighbours; a neighbour with an exception of its own speaks of that.
    let previous = text[..line_start].trim_end().rsplit('\n').next().unwrap_or_default();
    let next = text[line_end..].trim_start_matches('\n').split('\n').next().unwrap_or_default();
    let own = cut(text, line_start, (line_end - line_start).min(1200));
    let own_handled = HANDLED.is_match(own) && !NOT_HANDLED.is_match(own);
    let near = |line: &str| {
        let line = cut(line, 0, 300);
        HANDLED_NEARBY.is_match(line) && !NOT_HANDLED.is_match(line) && !CRASH.is_match(line)
    };
    let phrase = &text[hit.start..hit.end];
    // `OutOfMemoryError` itself; "error ... out of memory" that begins inside the name of a class.
    let exception = CLASS.is_match(before)
        || phrase.contains("MemoryError")
        || (phrase.starts_with("Error") && before.ends_with(|c: char| c.is_alphanumeric()));
    let warning = matches!(hit.sign, Sign::Gpu | Sign::Library | Sign::Unnamed)
        && !exception
        && WARNING.is_match(&text[floor(text, line_start.max(hit.start.saturating_sub(600)))..hit.start])
        && !own.contains("NCCL");
    if own_handled || warning || near(next) || (!exception && near(previous)) {
        Form::Handled
    } else if exception {
        Form::Exception
    } else {
        Form::Logged
    }
}

fn floor(text: &str, mut i: usize) -> usize {
    while !text.is_char_boundary(i) {
        i -= 1;
    }
    i
}

/// What came after a phrase.
#[derive(Debug, Clone, Copy, Default)]
struct After {
    /// Lines with figures of training, and bars, up to the next crash.
    lines: usize,
    bars: usize,
    /// Something crashed later.
    crash: bool,
    /// The program said that it was done, before any crash.
    finished: bool,
}

/// What comes later than this many bytes after a phrase does not tell about it.
const FAR: usize = 128 << 10;

fn after(text: &str, hit: &Hit) -> After {
    let line_end = text[hit.end..].find('\n').map_or(text.len(), |i| hit.end + i);
    let rest = cut(text, line_end, FAR);
    let crash = CRASH.find(rest).map(|m| m.start());
    // What is printed after a crash is another rank's.
    let living = &rest[..crash.unwrap_or(rest.len())];
    let mut seen = After { crash: crash.is_some(), finished: FINISHED.is_match(living), ..After::default() };
    for line in living.lines().filter(|l| PROGRESS.is_match(l) && !NO_PROGRESS.is_match(l)) {
        if BAR.is_match(line) { seen.bars += 1 } else { seen.lines += 1 }
    }
    seen
}

/// Whether the program went on after the phrase.  `failed_later` is whether an exception of another kind, the
/// program's own, stands after it; `clean_end` whether it is known to have exited with status 0.
pub fn survived(text: &str, hit: &Hit, form: Form, failed_later: bool, clean_end: bool) -> bool {
    let After { lines, bars, crash, finished } = after(text, hit);
    if finished {
        return true;
    }
    match form {
        Form::Advice => true,
        // A loader without one of its workers does not go on, whatever other programs print into the same log.
        _ if hit.sign == Sign::Worker => false,
        // Nothing more was printed, or only progress: it did what it said.  A crash right after: it did not help.
        Form::Handled => !crash || lines + bars > 0,
        Form::Logged => (lines >= 1 && lines + bars >= 2) || (clean_end && !crash),
        // Progress of other ranks goes on for a while; a launcher that then reports a failure means this one.
        Form::Exception => {
            (lines >= 3 && (!crash || failed_later)) || (clean_end && !crash && lines + bars > 0)
        }
    }
}
