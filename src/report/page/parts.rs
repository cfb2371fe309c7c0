//! Pieces that a page is put together from.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::commands::Command;
use super::model::{Dot, Figure, Rung, Trace};
use crate::model::Verdict;
use crate::report::words;

pub(super) fn beside(rows: &[[String; 3]]) -> Markup {
    scroll(
        "A and B",
        &html! { table class="beside" {
            thead { tr { th scope="col" { span class="unseen" { "figure" } } th scope="col" { "A" } th scope="col" { "B" } } }
            tbody { @for [name, a, b] in rows { tr { th scope="row" { (name) } td class="word" { (a) } td class="word" { (b) } } } }
        } },
    )
}

pub(super) fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! { section id=(id) aria-labelledby=(format!("{id}-title")) { h2 id=(format!("{id}-title")) { (title) } (content) } }
}

pub(super) fn figures(figures: &[Figure]) -> Markup {
    html! {
        dl class="figures" { @for f in figures { div {
            dt { (f.name) }
            dd {
                span class="value" { (f.value) @if !f.unit.is_empty() { " " span class="unit" { (f.unit) } } }
                @if let Some(share) = f.share { span class="meter" aria-hidden="true" { (part("used", share)) } }
                @if !f.note.is_empty() { span class="beside" { (f.note) } }
            }
        } } }
    }
}

pub(super) fn commands(commands: &[Command]) -> Markup {
    html! {
        ul class="commands" { @for c in commands { li {
            span class="does" { (c.what) }
            span class="line" {
                (command(&c.line))
                button type="button" data-copy aria-label=(format!("Copy: {}", c.what)) hidden { "Copy" }
            }
        } } }
    }
}

/// Broken between words, for `--` at the end of a line would belong to nothing.
pub(super) fn command(line: &str) -> Markup {
    html! { code { @for (i, word) in line.split(' ').enumerate() { @if i > 0 { " " } span { (word) } } } }
}

pub(super) fn ladder_row(rung: &Rung, unit: &str) -> Markup {
    let r = &rung.row;
    let winner = !r.mark.is_empty();
    html! {
        tr role="row" class=[winner.then_some("winner")] {
            td role="cell" class="number" { @if winner { span aria-label="winner" { "★" } " " } (r.number) }
            th role="rowheader" scope="row" class="what" {
                (r.what)
                @if !rung.why.is_empty() && rung.verdict != Verdict::Fit { span class="why" { (rung.why) } }
            }
            td role="cell" class="verdict" { span class=(format!("badge {}", kind(rung.verdict))) { (r.verdict) } }
            td role="cell" data-head="peak" class=[none(&r.peak)] { (r.peak) }
            td role="cell" data-head="headroom" class=[none(&r.headroom)] { (r.headroom) }
            td role="cell" data-head=(unit) class=(format!("rate {}", none(&r.rate).unwrap_or_default())) {
                (r.rate)
                @if rung.share > 0.0 { span class="meter" aria-hidden="true" { (part("used", rung.share)) } }
            }
            td role="cell" data-head="relative" class=[none(&r.relative)] { (r.relative) }
        }
    }
}

/// Cells without a figure take no room on a phone.
fn none(cell: &str) -> Option<&'static str> {
    (cell == words::NONE).then_some("none")
}

/// Colour and sign of a verdict.
fn kind(v: Verdict) -> &'static str {
    match v {
        Verdict::Fit => "good",
        Verdict::Disturbed => "unsure",
        Verdict::Oom | Verdict::Thrash | Verdict::Diverged => "bad",
        _ => "void",
    }
}

pub(super) fn part(class: &str, share: f64) -> Markup {
    html! { span class=(class) style=(format!("width:{:.2}%", share.clamp(0.0, 1.0) * 100.0)) {} }
}

/// Where a chart is drawn; arrow keys go through its points.
pub(super) fn plot(id: &str, size: &str, label: &str) -> Markup {
    html! {
        div id=(id) class=(format!("plot {size}")) tabindex="0" role="application" aria-roledescription="chart"
            aria-label=(format!("{label}. Arrow keys go through the points.")) {
            noscript { p { "The chart needs JavaScript; the tables do not." } }
        }
    }
}

/// Only what is in the chart; `others` are those of a second search.
pub(super) fn dot_legend(dots: &[Dot], others: &[Dot], cap: bool) -> Markup {
    let any = |of: fn(&Dot) -> bool| dots.iter().chain(others).any(of);
    let front = |dots: &[Dot]| dots.iter().filter(|d| d.front).count() > 1;
    html! {
        p class="legend" {
            @if others.is_empty() {
                @if any(|d| d.verdict == Verdict::Fit && !d.advice) { span { span class="mark dot" {} "fits" } }
            } @else {
                span { span class="mark dot" {} "fits, of A" }
                span { span class="mark dot second" {} "fits, of B" }
            }
            @if any(|d| d.winner) { span { span class="mark dot star" {} "winner" } }
            @if any(|d| d.verdict == Verdict::Disturbed) { span { span class="mark dot hollow" {} "fits, disturbed" } }
            @if any(|d| d.advice) { span { span class="mark diamond" {} "beyond the bound, for advice" } }
            @if any(|d| d.rate.is_none()) { span { span class="mark cross" {} "does not fit: at least this much" } }
            @if front(dots) || front(others) {
                span { span class="mark line front" {} "nothing is faster with as little memory" }
            }
            @if cap { span { span class="mark cap" {} "cap" } }
        }
    }
}

/// A wide table moves by itself, not the page.
pub(super) fn scroll(label: &str, table: &Markup) -> Markup {
    html! { div class="scroll" tabindex="0" role="region" aria-label=(label) { (table) } }
}

pub(super) fn dots(dots: &[Dot], of: &str) -> Vec<Value> {
    dots.iter()
        .map(|d| {
            json!({
                "name": format!("{of}{}", d.trial), "what": d.what, "text": d.text, "bytes": d.bytes,
                "rate": d.rate.map(|r| [r.0, r.1, r.2]), "kind": kind(d.verdict), "front": d.front, "advice": d.advice, "winner": d.winner,
                "of": of,
            })
        })
        .collect()
}

pub(super) fn trace(t: &Trace) -> Value {
    json!({
        "name": t.trial.to_string(), "what": t.what, "winner": t.winner, "first_step": t.first_step,
        "at": t.memory.at, "bytes": t.shown(), "allocator": t.memory.allocator,
    })
}

pub(super) fn percent(x: f64) -> String {
    if x.is_finite() { crate::report::table::percent(x) } else { words::NONE.to_owned() }
}

pub(super) fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
