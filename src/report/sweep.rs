//! What a sweep has shown, in words; and as a table below that of the launches.

use super::result::Trial;
use super::style::{Style, hang, one_line};
use super::words;
use crate::model::observation::Window;
use crate::model::{Configuration, Verdict};

/// Heads of the columns of [`row`].
pub(super) const HEADS: [&str; 5] = ["what differs", "speed", "95 % interval", "peak", "steps"];

/// What the figures of a sweep are beside.
pub(super) fn head(t: &Trial) -> String {
    let beside =
        if t.settings.is_baseline() { "the script as it is".to_owned() } else { t.settings.to_string() };
    format!("in one launch (trial {}), in turns with {beside}", t.trial)
}

/// What speed means here, where it was measured.
pub(super) fn legend(t: &Trial) -> Option<&'static str> {
    let measured = t.verdict == Verdict::Fit && t.windows.iter().any(|w| w.ratio.is_some());
    measured.then_some("speed: samples/s over those beside it; a launch of its own decides")
}

/// Why a window was not measured, or not to the end.
pub(super) fn why_not(w: &Window) -> Option<String> {
    let head = match w.ratio {
        _ if w.too_large => "too large",
        None => "not measured",
        Some(_) => "ended in it",
    };
    w.why_not.as_ref().map(|why| one_line(&format!("{head}: {why}")))
}

/// The windows of one launch.
pub(super) fn table(t: &Trial, style: Style) -> String {
    let mut out = hang("", &format!("{}:", head(t)), style.width);
    let heads = HEADS.map(str::to_owned);
    let rows: Vec<[String; 5]> = t.windows.iter().map(|w| row(w, &t.settings)).collect();
    let mut widths = heads.each_ref().map(|h| h.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    out += &(style.strong(&line(&heads, &widths)) + "\n");
    for (row, window) in rows.iter().zip(&t.windows) {
        let text = line(row, &widths);
        out += &(if window.ratio.is_none() { style.bad(&text) } else { text });
        out.push('\n');
        if let Some(why) = why_not(window) {
            out += &hang("    ", &why, style.width);
        }
    }
    if let Some(legend) = legend(t) {
        out += &hang("", legend, style.width);
    }
    out
}

/// One window: what differs, speed with interval, peak, steps.
pub(super) fn row(w: &Window, own: &Configuration) -> [String; 5] {
    let none = || words::NONE.to_owned();
    [
        differs(&w.settings, own),
        w.ratio.map_or_else(none, |r| words::relative(r.ratio)),
        w.ratio.map_or_else(none, |r| {
            format!("{} to {}", words::relative(r.interval.0), words::relative(r.interval.1))
        }),
        words::bytes(w.peak),
        if w.steps == 0 { none() } else { w.steps.to_string() },
    ]
}

/// `amp=bf16, no checkpoint`; `nothing` beside itself, which shows the noise.
fn differs(window: &Configuration, own: &Configuration) -> String {
    let set = window.0.iter().filter(|(k, v)| own.get(**k) != Some(*v)).map(|(k, v)| format!("{k}={v}"));
    let gone = own.0.keys().filter(|k| window.get(**k).is_none()).map(|k| format!("no {k}"));
    let words: Vec<String> = set.chain(gone).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn line(cells: &[String; 5], widths: &[usize; 5]) -> String {
    let mut out = format!("  {:<width$}", cells[0], width = widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        out += &format!("  {cell:>width$}");
    }
    out.trim_end().to_owned()
}
