//! Reads what a failed program left on its terminal.
//!
//! # Theory of operation
//! 1. [`text`] removes colours, prefixes, bars and echoed source lines, and cuts long logs down.
//! 2. [`signs`] finds every phrase that speaks of memory (or of what is mistaken for it), [`ends`] the exit status and
//!    signal that launchers and schedulers state.
//! 3. [`context`] tells an exception from a log line, from advice, and from a failure that the program handled, and
//!    sees whether the program went on afterwards.
//! 4. Of the phrases that the program did not survive the **first** is the cause: what comes later follows from it.
//!    Named causes go before a dead worker, and that before a bare signal.  Allocations that fail after the
//!    accelerator's context was broken (a failed assertion, an illegal access) are consequences.
//! 5. [`numbers`] reads the figures of the message that decided, [`advice`] says what to do.
//!
//! What is not understood is `not_memory`: only positive evidence makes a memory failure.

mod advice;
mod context;
mod decide;
mod ends;
mod numbers;
mod rungs;
mod signs;
mod size;
mod text;

use std::sync::LazyLock;

use regex::Regex;

use crate::model::observation::ProcessEnd;
use crate::model::{Failure, FailureFields, FailureKind};

use context::{Form, form};
use decide::{deadly, decide};
pub use rungs::rung;
use signs::{Hit, Sign};
use size::compile;
pub use text::decode;

/// Reads a program's output.  `end` is how the process ended, where that is known; what the text itself states about
/// exit status and signal (of a rank, a worker) is more exact and goes first.
pub fn read_failure(text: &str, end: Option<&ProcessEnd>) -> Failure {
    let log = text::clean(&text::digest(text));
    let known = ends::read(&log, end);
    let clean_end = matches!(end, Some(ProcessEnd::Exited { code: 0 }));
    let hits = signs::find(&log);
    let deadly = deadly(&log, &hits, clean_end);
    let decision = decide(&log, &deadly, &known, end);
    let kind = decision.kind;

    let mut fields = match decision.hit {
        Some(hit) => figures(&log, kind, &deadly, &hit),
        None => mentioned(&log, &hits),
    };
    fields.torch_version = numbers::torch_version(&log);
    fields.exit_code = known.code;
    fields.signal = known.signal;
    let fragmentation = if kind == FailureKind::GpuOom { numbers::fragmentation(&fields) } else { None };
    let at = decision.hit.map(|h| h.start).or(decision.at);
    // A program that ends itself without an exception says why in its last line (`train.py: error: no such option`).
    let by_itself = matches!(end, Some(ProcessEnd::Exited { code }) if *code != 0);
    let last_words = || last_line(&log).filter(|_| by_itself && kind == FailureKind::NotMemory);
    let evidence = at.map(|at| line_at(&log, at)).or_else(|| last_error(&log)).or_else(last_words);
    let mut failure =
        Failure { kind, fragmentation, fields, cause: String::new(), evidence, next: Vec::new() };
    advice::write(&mut failure, clean_end);
    failure
}

/// The first line that says memory ran out, also where the program handled it; `None` when only a library's own
/// search for a faster algorithm speaks of it.
pub fn oom_line(text: &str) -> Option<String> {
    let log = text::clean(&text::digest(text));
    signs::find(&log)
        .into_iter()
        .filter(|h| matches!(h.sign, Sign::Gpu | Sign::Library | Sign::Host | Sign::Shm))
        .filter(|h| form(&log, h) != Form::Advice)
        .map(|h| line_at(&log, h.start))
        .find(|line| !PROBE.is_match(line))
}

/// Libraries that try an algorithm and go on with another one.
static PROBE: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"autotun|benchmark(?:ing)? (?:choice|failed)|choice|OutOfResources|select_algorithm")
});

/// The figures of the message that decided.  A bare first line is completed from the same failure's longer words.
fn figures(log: &str, kind: FailureKind, deadly: &[Hit], hit: &Hit) -> FailureFields {
    match kind {
        FailureKind::GpuOom => {
            let read = |h: &Hit| numbers::of_device(numbers::message(log, line_start(log, h.start), h.start));
            let first = read(hit);
            if first.requested_bytes.is_some() {
                return first;
            }
            let gpu = deadly.iter().filter(|h| h.sign == Sign::Gpu);
            gpu.map(read).find(|f| f.requested_bytes.is_some()).unwrap_or(first)
        }
        FailureKind::GpuOomLibrary => FailureFields::default(),
        _ => {
            let from = line_start(log, hit.start);
            numbers::of_host(text::cut(log, from, 600), log)
        }
    }
}

/// Figures of a message that the program survived.
fn mentioned(log: &str, hits: &[Hit]) -> FailureFields {
    let gpu = hits.iter().filter(|h| h.sign == Sign::Gpu);
    gpu.map(|h| numbers::of_device(numbers::message(log, line_start(log, h.start), h.start)))
        .find(|f| f.requested_bytes.is_some())
        .unwrap_or_default()
}

fn line_start(log: &str, at: usize) -> usize {
    log[..at].rfind('\n').map_or(0, |i| i + 1)
}

fn line_at(log: &str, at: usize) -> String {
    let line = log[line_start(log, at)..].lines().next().unwrap_or_default().trim();
    text::cut(line, 0, 400).to_owned()
}

fn last_line(log: &str) -> Option<String> {
    let line = log.lines().rev().map(str::trim).find(|l| !l.is_empty())?;
    Some(text::cut(line, 0, 400).to_owned())
}

/// The last line that an exception wrote.
fn last_error(log: &str) -> Option<String> {
    static EXCEPTION: LazyLock<Regex> =
        LazyLock::new(|| compile(r"(?m)^(?-i:(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt))\b"));
    EXCEPTION.find_iter(log).last().map(|m| line_at(log, m.start()))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
