//! [`TuneResult`] -> the summary that people read.

use super::result::{Candidate, Compared, Confirmed, Parity, Proved, Rate, Status, Trial, TuneResult};
use super::style::{Style, hang, one_line, wrap};
use super::{blocks, redact, shortfall, sweep, words};
use crate::model::observation::Cap;
use crate::model::parity::{Outcome, Quantity};
use crate::model::size::Bytes;
use crate::model::{Configuration, Purpose, Verdict};

/// Gap between columns.
const GAP: &str = "  ";

/// The column that says what changed is never narrower than this.
const NARROWEST_WHAT: usize = 12;

/// Skipped moves shown; `result.json` has all of them.
const SKIPPED_SHOWN: usize = 8;

/// The whole summary, ending with a line break.
pub fn summary(r: &TuneResult, style: Style) -> String {
    let mut out = String::new();
    let mut say = |head: &str, text: &str| out.push_str(&hang(head, &one_line(text), style.width));
    say("", &format!("autofit: {}", r.reason));
    say("command: ", &shell_words::join(&r.command));
    out.push('\n');
    if !r.trials.is_empty() {
        out.push_str(&table(r, style));
        out.push('\n');
        for t in r.trials.iter().filter(|t| !t.windows.is_empty()) {
            out.push_str(&sweep::table(t, style));
            out.push('\n');
        }
    }
    out.push_str(&facts(r, style));
    out.push_str(&next(r, style));
    out
}

/// A trial in words; the report shows the same.
#[derive(Debug, Clone)]
pub(in crate::report) struct Row {
    /// `*` for the winner.
    pub mark: &'static str,
    pub number: String,
    pub what: String,
    pub verdict: String,
    pub peak: String,
    pub headroom: String,
    pub rate: String,
    pub relative: String,
    pub fits: bool,
}

/// `winner` is the number of the winner's trial.
pub(super) fn row(t: &Trial, r: &TuneResult, winner: Option<u32>) -> Row {
    let m = &t.measured;
    let fits = t.verdict == Verdict::Fit;
    // A disturbed figure is less certain, but it is one.
    let measured = fits || t.verdict == Verdict::Disturbed;
    let rate = m.samples_per_second.as_ref().filter(|_| measured);
    Row {
        mark: if winner == Some(t.trial) { "*" } else { "" },
        number: t.trial.to_string(),
        what: words::what(&t.settings, t.purpose),
        verdict: words::verdict(t.verdict, t.oom.as_ref().and_then(|o| o.phase)),
        peak: words::bytes(m.peak_device_bytes.or(m.peak_host_bytes)),
        headroom: words::bytes(m.headroom_bytes),
        rate: rate.map_or_else(|| words::NONE.to_owned(), |x| rate_text(x, unit(r))),
        relative: m.relative.map_or_else(|| words::NONE.to_owned(), words::relative),
        fits,
    }
}

/// The unit that heads the column: the reference's, else the first that was measured.
pub(super) fn unit(r: &TuneResult) -> &str {
    let of = |t: &Trial| t.measured.samples_per_second.is_some();
    r.trials
        .iter()
        .find(|t| Some(t.trial) == r.reference_trial)
        .filter(|t| of(t))
        .or_else(|| r.trials.iter().find(|t| of(t)))
        .and_then(|t| t.measured.samples_per_second.as_ref())
        .map_or("samples/s", |x| &x.unit)
}

pub(super) fn rate_text(x: &Rate, column: &str) -> String {
    let figure = words::with_spread(x.value, words::spread(x.value, x.interval));
    if x.unit == column { figure } else { format!("{figure} {}", x.unit) }
}

fn table(r: &TuneResult, style: Style) -> String {
    let winner = r.winner.as_ref().map(|w| w.trial);
    let rows: Vec<Row> = r.trials.iter().map(|t| row(t, r, winner)).collect();
    let heads = ["#", "what changed", "verdict", "peak", "headroom", unit(r), "relative"];
    let cells = |row: &Row| {
        [
            format!("{}{}", row.mark, row.number),
            row.what.clone(),
            row.verdict.clone(),
            row.peak.clone(),
            row.headroom.clone(),
            row.rate.clone(),
            row.relative.clone(),
        ]
    };
    let body: Vec<[String; 7]> = rows.iter().map(cells).collect();
    let mut widths = heads.map(|h| h.chars().count());
    for line in &body {
        for (w, cell) in widths.iter_mut().zip(line) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let others: usize = widths.iter().sum::<usize>() - widths[1] + GAP.len() * (widths.len() - 1);
    widths[1] = widths[1].min(style.width.saturating_sub(others).max(NARROWEST_WHAT));
    let mut out = style.strong(line(&heads.map(str::to_owned), &widths).trim_end()) + "\n";
    for (row, cells) in rows.iter().zip(&body) {
        for (i, part) in wrap(&cells[1], widths[1]).into_iter().enumerate() {
            let mut shown: [String; 7] = if i == 0 { cells.clone() } else { Default::default() };
            shown[1] = part;
            let text = line(&shown, &widths);
            let text = text.trim_end();
            out += &match (row.mark, row.fits) {
                ("*", _) => style.good(text),
                (_, true) => text.to_owned(),
                _ => style.bad(text),
            };
            out.push('\n');
        }
    }
    out + &legend(r, style)
}

/// Numbers and figures to the right, words to the left.
fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let pad = |i: usize| {
        let blanks = " ".repeat(widths[i].saturating_sub(cells[i].chars().count()));
        match i {
            1 | 2 => format!("{}{blanks}", cells[i]),
            _ => format!("{blanks}{}", cells[i]),
        }
    };
    (0..cells.len()).map(pad).collect::<Vec<_>>().join(GAP)
}

fn legend(r: &TuneResult, style: Style) -> String {
    let mut parts = Vec::new();
    if r.winner.is_some() {
        parts.push(
            if r.confirmed.is_some() { "* the winner" } else { "* the best so far, not confirmed" }
                .to_owned(),
        );
    }
    let reference = r.trials.iter().find(|t| Some(t.trial) == r.reference_trial);
    match reference {
        Some(t) if t.purpose == Purpose::Baseline => parts.push("relative: to the baseline".to_owned()),
        Some(t) => parts.push(format!("relative: to trial {}, the first that fits", t.trial)),
        None => {}
    }
    if reference.is_some() {
        parts.push("±: 95 % interval within a launch".to_owned());
    }
    if parts.is_empty() { String::new() } else { hang("", &parts.join("; "), style.width) }
}

fn facts(r: &TuneResult, style: Style) -> String {
    let mut out = String::new();
    let mut say = |head: &str, text: &str| out.push_str(&hang(head, &one_line(text), style.width));
    if let Some(w) = &r.winner {
        winner(w, r, &mut say);
    }
    if let Some(c) = &r.compared {
        say("compared: ", &compared(c));
    }
    if let Some(f) = &r.failure {
        say("cause: ", &f.cause);
        for n in &f.next {
            say("try: ", n);
        }
    }
    if r.status == Status::NothingFits {
        for s in shortfall::sentences(r) {
            say("short: ", &s);
        }
    }
    for s in blocks::what_filled_it(r) {
        say("filled: ", &s);
    }
    say("cap: ", &words::cap(&Cap::from(&r.cap)));
    say("isolation: ", &isolation(r));
    for a in &r.advice {
        let option = a.option.as_ref().map(|o| format!(" (option: {o})")).unwrap_or_default();
        say("advice: ", &format!("{}{option}", a.text));
    }
    for s in r.skipped.iter().take(SKIPPED_SHOWN) {
        say("skipped: ", &format!("{}: {}", s.what, s.why));
    }
    if r.skipped.len() > SKIPPED_SHOWN {
        let rest = r.skipped.len() - SKIPPED_SHOWN;
        say("skipped: ", &format!("{rest} more; all are in result.json"));
    }
    for n in &r.notes {
        say("note: ", n);
    }
    if r.command.iter().any(|w| w.contains(redact::MASK)) {
        say("note: ", "*** stands for an argument that looks like a secret");
    }
    let launches = words::count(u64::from(r.cost.launches), "launch", "launches");
    say("cost: ", &format!("{launches}, {}", words::duration(r.cost.seconds)));
    let files: Vec<&str> = [&r.files.env, &r.files.result, &r.files.report, &r.files.markdown]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    if !files.is_empty() {
        say("files: ", &files.join(", "));
    }
    let tail = r.failure.iter().filter(|_| r.status == Status::ScriptFails).flat_map(|f| &f.tail);
    let tail: String = tail.map(|l| format!("  | {}\n", one_line(l))).collect();
    if tail.is_empty() { out } else { format!("the script's last words:\n{tail}{out}") }
}

pub(super) fn compared(c: &Compared) -> String {
    let (low, high) = (words::relative(c.interval.0), words::relative(c.interval.1));
    let pairs = words::count(u64::from(c.pairs), "pair", "pairs of launches in turns");
    let name = |c: &Configuration| match c.is_baseline() {
        true => "the script as it is".to_owned(),
        false => c.to_string(),
    };
    format!(
        "{} runs at {} of {} (95 % interval {low} to {high}, {pairs})",
        name(&c.settings),
        words::relative(c.ratio),
        name(&c.against)
    )
}

fn winner(w: &Candidate, r: &TuneResult, say: &mut impl FnMut(&str, &str)) {
    let name = if r.confirmed.is_some() { "winner" } else { "best so far" };
    say(&format!("{name}: "), &w.settings.to_string());
    match &r.confirmed {
        Some(c) => {
            say("  ", &confirmed(c, w, r));
            say("  ", &words::coverage(&c.coverage, c.train_seen));
            if let Some(p) = &c.proved {
                say("  ", &proved(p));
            }
        }
        None => say("  ", "not confirmed in a fresh process: a candidate, not a claim"),
    }
    if let Some(text) = trains_alike(w, r) {
        say("  ", &text);
    }
}

/// How the winner trains beside the script as it is; `None` where it is the script as it is.
pub(super) fn trains_alike(w: &Candidate, r: &TuneResult) -> Option<String> {
    let compared = w.parity.as_ref().and_then(|p| parity(p, r));
    if compared.is_some() || w.settings.is_baseline() {
        return compared;
    }
    // What was not checked is said, or it would be taken for granted.
    let why = r.baseline.as_ref().map_or("there is no baseline", |b| match b.verdict {
        Verdict::Oom => "the script as it is runs out of memory before there is one to compare",
        _ => "there are none of the same steps",
    });
    Some(format!("losses not compared: {why}"))
}

/// `loss within 0.02 % of the baseline's over 4 steps`, or the judgement's own sentence.
fn parity(p: &Parity, r: &TuneResult) -> Option<String> {
    if let Some(sentence) = &p.sentence {
        let word = match p.outcome {
            Some(Outcome::Agrees) if p.figures.iter().all(|f| f.what == Quantity::Output) => {
                "returns what the script as it is does: "
            }
            Some(Outcome::Agrees) => "trains like the script as it is: ",
            _ => "",
        };
        let batch = p.batch.map(|b| format!(", at a batch of {b}")).unwrap_or_default();
        return Some(format!("parity: {word}{sentence}{batch}"));
    }
    let of = match p.with_trial? {
        n if r.baseline.as_ref().is_some_and(|b| b.trial == n) => "the baseline's".to_owned(),
        n => format!("that of trial {n}"),
    };
    let norm = p.grad_norm.map(|g| format!(", gradient norm within {}", percent(g))).unwrap_or_default();
    let steps = words::count(u64::from(p.steps), "step", "steps");
    Some(format!("loss within {}{norm} of {of} over {steps}", percent(p.loss?)))
}

pub(super) fn confirmed(c: &Confirmed, w: &Candidate, r: &TuneResult) -> String {
    let mut parts = Vec::new();
    if let Some(peak) = c.peak_bytes {
        parts.push(format!("peak {}", Bytes(peak)));
    }
    if let Some(left) = c.headroom_bytes {
        parts.push(format!("headroom {}", Bytes(left)));
    }
    if let Some(x) = &c.samples_per_second {
        parts.push(format!("{} {}", rate_text(x, &x.unit), x.unit));
    }
    let reference = r.trials.iter().find(|t| Some(t.trial) == r.reference_trial);
    if let (Some(ratio), Some(t)) = (w.relative, reference) {
        let of =
            if t.purpose == Purpose::Baseline { "baseline".to_owned() } else { format!("trial {}", t.trial) };
        parts.push(format!("{} {of}", words::relative(ratio)));
    }
    format!("confirmed in a fresh process: {}", parts.join(", "))
}

/// `needs at most 612 MiB: enforced in a launch of its own (trial 9), peak 590 MiB, 409 ± 3 samples/s`.
pub(super) fn proved(p: &Proved) -> String {
    let limit = words::bytes(p.limit_bytes);
    let mut parts =
        vec![format!("needs at most {limit}: enforced in a launch of its own (trial {})", p.trial)];
    parts.extend(p.peak_bytes.map(|peak| format!("peak {}", Bytes(peak))));
    parts.extend(p.samples_per_second.as_ref().map(|x| format!("{} {}", rate_text(x, &x.unit), x.unit)));
    parts.join(", ")
}

/// `0.02 %`, `below 0.0001 %`.
pub(super) fn percent(x: f64) -> String {
    let p = x * 100.0;
    if p == 0.0 {
        "0 %".to_owned()
    } else if p < 1e-4 {
        "0.0001 %".to_owned()
    } else {
        // Rounded up: "within" must hold.
        let unit = 10f64.powf(p.log10().floor() - 1.0);
        format!("{} %", ((p / unit - 1e-9).ceil() * unit * 1e8).round() / 1e8)
    }
}

pub(super) fn isolation(r: &TuneResult) -> String {
    let i = &r.isolation;
    let mut text = i.mechanism.clone();
    if !i.covers.is_empty() {
        text += &format!(": {}", i.covers);
    }
    if !i.not_covered.is_empty() {
        text += &format!("; not covered: {}", i.not_covered.join(", "));
    }
    if text.is_empty() { "not stated".to_owned() } else { text }
}

fn next(r: &TuneResult, style: Style) -> String {
    if r.next.is_empty() {
        return String::new();
    }
    // Commands are never wrapped: they must work as they stand when copied.
    let lines: String = r.next.iter().map(|c| format!("  {}\n", style.strong(c))).collect();
    format!("\nnext:\n{lines}")
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
