//! Did the program go on after a phrase, and was the phrase meant as a failure at all?

use std::sync::LazyLock;

use regex::Regex;

use super::signs::Hit;
use super::size::compile;
use super::text::cut;

/// How a phrase stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the message of an exception.
    Exception,
    /// Printed or logged.
    Logged,
    /// Together with what the program does about it: `skipping batch`, `retrying`.
    Handled,
    /// As advice or in a manual; nothing happened.
    Advice,
}

/// What the program does about it.
static HANDLED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\bskip(?:ping|ped)\b|\bretrying\b|\bwill retry\b|\btrying again\b|\btrying (?:with|a|the|batch|smaller|lower)\b|\bre-?trying\b|\bfall(?:ing|s)? ?back\b|\bfell back\b|\bcontinuing\b|\bwill continue\b|\brecover(?:ing|ed)?\b|\bignor(?:ed|ing)\b|\breducing\b|\breduced\b|\blowering\b|\bdecreasing\b|\bhalving\b|\bsplitting\b|\bswitching\b|\bunloading\b|\bclearing\b|\battempting to\b|\bwarning: (?:ran out|out) of memory|跳过|重试",
    )
});

/// "irrecoverable", "cannot recover", "unable to continue" are the opposite.
static NOT_HANDLED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\birrecoverable\b|\bunrecoverable\b|\b(?:cannot|can't|can not|unable to|could not|failed to) (?:recover|continue)|\bgiving up\b|\baborting\b|\bnot recoverable\b",
    )
});

/// Conditions and advice in front of the words.
static ADVICE: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?:\bif (?:you|your|it|the|there|this|an?)\b|\bin case of\b|\bto (?:avoid|prevent|fix|reduce|save)\b|\b(?:may|might|can|could|would|will) (?:\w+ ){0,3}(?:cause|lead|result|run|go|get|be|raise|throw|trigger)\b|\bwhen (?:you|it|the)\b|\bhelps? (?:with|avoid|prevent)\b|\bwithout\b|\bavoid(?:s|ing)?\b|\bprevents?\b|\brisk of\b|\bcheck (?:for|if|whether)\b|\bsuch as\b|\be\.g\.|\bpossible (?:reasons?|causes?)\b|\bpotential root causes?\b)[^\n.:]{0,60}$",
    )
});

/// The class of an exception right in front.
static CLASS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?:^|[\s.(:'"`\]|>])\w*(?:Error|Exception)\b\s*(?:\(\s*['"]?|[:：]\s*)?(?:\[[^\]]*\]\s*\.?\s*)?[\w\s:.=]{0,40}$"#)
        .expect("a fixed pattern")
});

/// A line with a number that only a program at work prints.
static PROGRESS: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r#"(?m)^.*(?:['"]?\b(?:\w*loss|acc\w*|ppl|perplexity|lr|learning_rate|reward|tokens_per_second|wps|grad_?norm|gnorm)['"]?\s*[=:]\s*[-+]?\d|\b(?:epoch|step|iter(?:ation)?|batch)\b\W{0,4}\d+.*\d|\d+%\|.*\|).*$"#,
    )
});

/// A bar is weak evidence: other ranks and threads draw theirs for a while.
static BAR: LazyLock<Regex> = LazyLock::new(|| compile(r"\d+%\|"));

static FINISHED: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"\bdone training\b|\btraining (?:is |has |was )?(?:successfully )?(?:done|completed?|finished|ended)\b|\bfinished training\b|\btrain(?:ing)? finished\b|\ball done\b|\bcompleted successfully\b|\bfinished successfully\b|\b(?:successfully|run) (?:completed|finished)\b|\bsaved (?:the )?(?:final |best )?(?:model|checkpoint) to\b|训练(?:完成|结束)",
    )
});

/// The end of something: an exception that nobody caught, or a death.
static CRASH: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?m)^\s*Traceback \(most recent call last\)|^(?:[\w.]+\.)?\w+(?:Error|Exception)\b|\bSegmentation fault\b|\bAborted\b|\bcore dumped\b|^\S*KeyboardInterrupt\b|\bexitcode\s*: -?[1-9]|\bexit(?:ed)? (?:with )?(?:exit )?(?:code|status) [1-9]",
    )
});

/// How the phrase stands.
pub fn form(text: &str, hit: &Hit) -> Form {
    let line_start = text[..hit.start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[hit.end..].find('\n').map_or(text.len(), |i| hit.end + i);
    let before = &text[line_start.max(floor(text, hit.start.saturating_sub(200)))..hit.start];
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
        HANDLED.is_match(line) && !NOT_HANDLED.is_match(line) && !CRASH.is_match(line)
    };
    let exception = CLASS.is_match(before) || text[hit.start..hit.end].contains("Error");
    if own_handled || near(next) || (!exception && near(previous)) {
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

/// Whether the program went on after the phrase, up to `until`.
pub fn survived(text: &str, hit: &Hit, form: Form, until: usize, clean_end: bool) -> bool {
    let line_end = text[hit.end..].find('\n').map_or(text.len(), |i| hit.end + i);
    let after = &text[line_end.min(until)..until.max(line_end).min(text.len())];
    let crash = CRASH.find(after).map(|m| m.start());
    if let Some(finish) = FINISHED.find(after)
        && crash.is_none_or(|c| c > finish.start())
    {
        return true;
    }
    // Progress counts up to the next crash: what is printed after that is another rank's.
    let living = &after[..crash.unwrap_or(after.len())];
    let (mut lines, mut bars) = (0, 0);
    for m in PROGRESS.find_iter(living) {
        if BAR.is_match(m.as_str()) { bars += 1 } else { lines += 1 }
    }
    match form {
        Form::Advice => true,
        // Nothing more was printed, or only progress: it did what it said.  A crash right after it did not help.
        Form::Handled => crash.is_none() || lines + bars > 0,
        Form::Logged => lines >= 1 && lines + bars >= 2 || (clean_end && crash.is_none()),
        Form::Exception => lines >= 3 || (clean_end && crash.is_none() && lines + bars > 0),
    }
}
