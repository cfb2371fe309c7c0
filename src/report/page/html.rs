//! [`Page`] and [`Comparison`] -> `report.html`.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::commands::Command;
use super::comparison::Comparison;
use super::markdown::loss;
use super::model::{Dot, Figure, Losses, Page, Rung, TimeUse, Trace};
use super::shell::document;
use crate::model::Verdict;
use crate::model::size::Bytes;
use crate::report::words;

impl Page<'_> {
    /// The document.
    pub fn html(&self) -> String {
        let r = self.result;
        let body = html! {
            header class="wide" {
                p class="brand" { "autofit" span { "report" } }
                h1 { (self.headline) }
                p class="command" { (command(&shell_words::join(&r.command))) }
                p class="reason" { (r.reason) }
                (figures(&self.figures))
            }
            main class="wide" {
                (section("result", "What came out", &self.result()))
                (section("type", "What to type", &commands(&self.commands)))
                @if !self.ladder.is_empty() { (section("ladder", "The ladder as it was climbed", &self.ladder_table())) }
                @if !self.dots.is_empty() { (section("tradeoff", "Throughput against memory", &self.scatter())) }
                @if !self.traces.is_empty() { (section("memory", "Memory over time", &self.memory())) }
                @if let Some(l) = &self.losses { (section("losses", "Does it train alike?", &self.loss_chart(l))) }
                @if !self.times.is_empty() { (section("time", "Where the time went", &self.time_table())) }
                (section("environment", "Environment", &self.surroundings()))
            }
            footer class="wide" { p { "Written by autofit " (r.autofit) ". This page is whole in itself: it asks nobody for anything." } }
        };
        document(&format!("autofit: {}", self.headline), &self.data(), &body)
    }

    /// What the charts are drawn from.
    fn data(&self) -> Value {
        json!({
            "unit": self.unit,
            "cap": self.result.cap.bytes,
            "memory_name": self.memory_name(),
            "dots": dots(&self.dots, ""),
            "traces": self.traces.iter().map(trace).collect::<Vec<_>>(),
            "losses": self.losses.as_ref().map(|l| json!({"reference": l.reference, "winner": l.winner})),
        })
    }

    fn result(&self) -> Markup {
        html! {
            dl class="facts" {
                @for (name, fact) in &self.facts {
                    div { dt { (name) } dd { (fact) } }
                }
            }
            @if let Some(failure) = self.result.failure.as_ref().filter(|f| !f.tail.is_empty()) {
                h3 { "The script’s last words" }
                pre class="tail" tabindex="0" aria-label="The end of the script’s output" { code {
                    @for line in &failure.tail { (line) "\n" }
                } }
            }
        }
    }

    fn ladder_table(&self) -> Markup {
        let heads = ["#", "what changed", "verdict", "peak", "headroom", self.unit, "relative"];
        html! {
            table role="table" class="ladder" {
                thead role="rowgroup" { tr role="row" { @for h in heads { th role="columnheader" scope="col" { (h) } } } }
                tbody role="rowgroup" { @for rung in &self.ladder { (ladder_row(rung, self.unit)) } }
            }
            p class="note" {
                @if self.result.winner.is_some() {
                    "★ " @if self.result.confirmed.is_some() { "the winner" } @else { "the best so far, not confirmed" } ". "
                }
                (self.legend)
            }
        }
    }

    fn scatter(&self) -> Markup {
        let cap = self.cap().map_or_else(String::new, |c| format!(" The cap is {c}."));
        let label = format!(
            "Chart: throughput in {} against {} of each launch.{cap} The same figures stand in the ladder.",
            self.unit,
            self.memory_name()
        );
        html! {
            (plot("scatter", "tall", &label))
            (dot_legend(&self.dots, &[], self.cap().is_some()))
        }
    }

    fn memory(&self) -> Markup {
        html! {
            p class="note" {
                (capital(self.memory_name())) " of each launch, sampled from outside; every point has the highest value since the one \
                 before. " span class="mark first" {} " end of the first step"
                @if self.traces.iter().any(|t| t.memory.allocator.is_some()) {
                    ", " span class="mark reserved" {} " reserved and " span class="mark allocated" {} " allocated by PyTorch, highest so far"
                }
                @if let Some(cap) = self.cap() { ", " span class="mark cap" {} " cap " (cap) }
                "."
            }
            div class="multiples" {
                @for (i, t) in self.traces.iter().enumerate() {
                    figure class=[t.winner.then_some("winner")] {
                        figcaption {
                            span class="number" { @if t.winner { "★ " } (t.trial) } " " span class="what" { (t.what) } " "
                            span class="verdict" { (t.verdict) }
                        }
                        (plot(&format!("trace-{i}"), "small", &self.trace_label(t)))
                    }
                }
            }
            (self.trace_table())
        }
    }

    fn trace_label(&self, t: &Trace) -> String {
        let (peak, at) = highest(t);
        format!(
            "Chart: {} over time of trial {}, {}; highest {} after {}",
            self.memory_name(),
            t.trial,
            t.what,
            Bytes(peak),
            words::duration(at)
        )
    }

    fn trace_table(&self) -> Markup {
        let allocator = self.traces.iter().any(|t| t.memory.allocator.is_some());
        let device = self.traces.iter().any(|t| !t.memory.device.is_empty());
        let last = |v: &[u64]| v.iter().max().copied();
        html! {
            details {
                summary { "The same as a table" }
                (scroll("Memory over time, in figures", &html! { table {
                    thead { tr {
                        th scope="col" { "#" } th scope="col" { "what changed" } th scope="col" { "highest" } th scope="col" { "after" }
                        th scope="col" { "first step after" }
                        @if device { th scope="col" { "host, highest" } }
                        @if allocator { th scope="col" { "allocated" } th scope="col" { "reserved" } }
                    } }
                    tbody { @for t in &self.traces {
                        @let (peak, at) = highest(t);
                        @let a = t.memory.allocator.as_ref();
                        tr {
                            td { (t.trial) } th scope="row" { (t.what) } td { (Bytes(peak)) } td { (words::duration(at)) }
                            td { (t.first_step.map_or_else(|| words::NONE.to_owned(), words::duration)) }
                            @if device { td { (words::bytes(last(&t.memory.host))) } }
                            @if allocator {
                                td { (words::bytes(a.and_then(|a| last(&a.allocated)))) }
                                td { (words::bytes(a.and_then(|a| last(&a.reserved)))) }
                            }
                        }
                    } }
                } }))
            }
        }
    }

    fn loss_chart(&self, l: &Losses) -> Markup {
        let label = format!(
            "Chart: loss of the first {} steps, as the script is and with the winner’s settings",
            l.winner.len()
        );
        let figures =
            self.result.winner.as_ref().and_then(|w| w.parity.as_ref()).map(|p| p.figures.as_slice());
        html! {
            @if let Some(parity) = &self.parity { p { (capital(parity)) "." } }
            (plot("loss", "medium", &label))
            p class="legend" {
                span { span class="mark line ref" {} "as the script is (trial " (l.trials.0) ")" }
                span { span class="mark line" {} "winner’s settings (trial " (l.trials.1) ")" }
            }
            @if let Some(figures) = figures.filter(|f| !f.is_empty()) {
                (scroll("What was compared", &html! { table {
                    thead { tr { th scope="col" { "compared" } th scope="col" { "largest difference" } th scope="col" { "allowed" } } }
                    tbody { @for f in figures { tr {
                        th scope="row" { (f.what) }
                        td { (percent(f.difference)) }
                        td { (f.band.map_or_else(|| "not judged".to_owned(), percent)) }
                    } } }
                } }))
            }
            details {
                summary { "The losses as a table" }
                (scroll("Losses", &html! { table {
                    thead { tr { th scope="col" { "step" } th scope="col" { "as the script is" } th scope="col" { "winner’s settings" } } }
                    tbody { @for (i, (a, b)) in l.reference.iter().zip(&l.winner).enumerate() {
                        tr { th scope="row" { (i) } td { (loss(*a)) } td { (loss(*b)) } }
                    } }
                } }))
            }
        }
    }

    fn time_table(&self) -> Markup {
        let longest = self.times.iter().map(TimeUse::total).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let (launches, beside) = self.seconds();
        html! {
            p class="legend" {
                span { span class="mark box start" {} "until the first step" }
                span { span class="mark box measured" {} "measured steps" }
                span { span class="mark box rest" {} "warm-up, other phases, the end" }
            }
            (scroll("Where the time of each launch went", &html! { table role="table" class="times" {
                thead role="rowgroup" { tr role="row" {
                    th role="columnheader" scope="col" { "#" } th role="columnheader" scope="col" { "what changed" } th role="columnheader" scope="col" class="bars" { span class="unseen" { "shares" } }
                    th role="columnheader" scope="col" { "first step" } th role="columnheader" scope="col" { "measured" } th role="columnheader" scope="col" { "rest" } th role="columnheader" scope="col" { "total" }
                } }
                tbody role="rowgroup" { @for t in &self.times { tr role="row" {
                    td role="cell" { (t.trial) } th role="rowheader" scope="row" { (t.what) }
                    td role="cell" class="bars" { div class="stack" aria-hidden="true" {
                        (part("start", t.start.unwrap_or(0.0) / longest))
                        (part("measured", t.measured / longest))
                        (part("rest", t.rest / longest))
                    } }
                    td role="cell" class="part" { (t.start.map_or_else(|| words::NONE.to_owned(), words::duration)) }
                    td role="cell" class="part" { (words::duration(t.measured)) }
                    td role="cell" class="part" { (words::duration(t.rest)) }
                    td role="cell" { (words::duration(t.total())) }
                } } }
            } }))
            p class="note" { (words::duration(launches)) " in launches" @if beside >= 0.05 { ", " (words::duration(beside)) " beside them" } "." }
        }
    }

    fn surroundings(&self) -> Markup {
        let r = self.result;
        html! {
            dl class="facts" { @for (name, value) in &self.environment { div { dt { (name) } dd { (value) } } } }
            @if !r.knobs.is_empty() {
                details {
                    summary { "Knobs of this script" }
                    (scroll("Knobs", &html! { table {
                        thead { tr { th scope="col" { "knob" } th scope="col" { "class" } th scope="col" { "how, or why not" } } }
                        tbody { @for k in &r.knobs { tr {
                            th scope="row" { (k.name) } td class="word" { (k.class) }
                            td class="word" { (k.how.as_ref().or(k.why_not.as_ref()).map_or(words::NONE, String::as_str)) }
                        } } }
                    } }))
                }
            }
            @if !r.skipped.is_empty() {
                details {
                    summary { "What was not tried" }
                    dl class="facts" { @for s in &r.skipped { div { dt { (s.what) } dd { (s.why) } } } }
                }
            }
        }
    }
}

impl Comparison<'_> {
    /// The document.
    pub fn html(&self) -> String {
        let (a, b) = (&self.a, &self.b);
        let unit = a.unit;
        // Rates of another unit have no place on the same axis.
        let of_b: &[Dot] = if b.unit == unit { &b.dots } else { &[] };
        let all = [dots(&a.dots, "A"), dots(of_b, "B")].concat();
        let memory_name = if a.memory_name() == b.memory_name() { a.memory_name() } else { "memory" };
        let cap = (a.result.cap.bytes == b.result.cap.bytes).then_some(a.result.cap.bytes).flatten();
        let data = json!({"unit": unit, "cap": cap, "memory_name": memory_name, "dots": all, "traces": [], "losses": null});
        let body = html! {
            header class="wide" {
                p class="brand" { "autofit" span { "comparison" } }
                h1 { (capital(&self.headline)) }
                p class="command" { b { "A" } " " (command(&shell_words::join(&a.result.command))) }
                p class="command" { b { "B" } " " (command(&shell_words::join(&b.result.command))) }
            }
            main class="wide" {
                (section("result", "Beside each other", &beside(&self.rows)))
                @if !self.common.is_empty() { (section("common", "Measured in both", &self.common())) }
                @if !all.is_empty() { (section("tradeoff", "Throughput against memory", &html! {
                    (plot("scatter", "tall", &format!("Chart: throughput in {unit} against memory of each launch of both searches")))
                    (dot_legend(&a.dots, of_b, cap.is_some()))
                })) }
                (section("differences", "What else is different", &html! {
                    @if self.differences.is_empty() { p { "Nothing that is known." } } @else { (beside(&self.differences)) }
                }))
            }
            footer class="wide" { p { "Written by autofit " (env!("CARGO_PKG_VERSION")) ". This page is whole in itself: it asks nobody for anything." } }
        };
        document(&format!("autofit: {}", self.headline), &data, &body)
    }

    fn common(&self) -> Markup {
        scroll(
            "Configurations that both measured",
            &html! { table {
                thead { tr { @for h in ["settings", "A", "B", "B over A", "intervals"] { th scope="col" { (h) } } } }
                tbody { @for c in &self.common { tr {
                    th scope="row" { (c.settings) } td { (c.a) } td { (c.b) } td { (c.ratio) } td class="word" { (c.intervals) }
                } } }
            } },
        )
    }
}

fn beside(rows: &[[String; 3]]) -> Markup {
    scroll(
        "A and B",
        &html! { table class="beside" {
            thead { tr { th scope="col" { span class="unseen" { "figure" } } th scope="col" { "A" } th scope="col" { "B" } } }
            tbody { @for [name, a, b] in rows { tr { th scope="row" { (name) } td class="word" { (a) } td class="word" { (b) } } } }
        } },
    )
}

fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! { section id=(id) aria-labelledby=(format!("{id}-title")) { h2 id=(format!("{id}-title")) { (title) } (content) } }
}

fn figures(figures: &[Figure]) -> Markup {
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

fn commands(commands: &[Command]) -> Markup {
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
fn command(line: &str) -> Markup {
    html! { code { @for (i, word) in line.split(' ').enumerate() { @if i > 0 { " " } span { (word) } } } }
}

fn ladder_row(rung: &Rung, unit: &str) -> Markup {
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

fn part(class: &str, share: f64) -> Markup {
    html! { span class=(class) style=(format!("width:{:.2}%", share.clamp(0.0, 1.0) * 100.0)) {} }
}

/// Where a chart is drawn; arrow keys go through its points.
fn plot(id: &str, size: &str, label: &str) -> Markup {
    html! {
        div id=(id) class=(format!("plot {size}")) tabindex="0" role="application" aria-roledescription="chart"
            aria-label=(format!("{label}. Arrow keys go through the points.")) {
            noscript { p { "The chart needs JavaScript; the tables do not." } }
        }
    }
}

/// Only what is in the chart; `others` are those of a second search.
fn dot_legend(dots: &[Dot], others: &[Dot], cap: bool) -> Markup {
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
fn scroll(label: &str, table: &Markup) -> Markup {
    html! { div class="scroll" tabindex="0" role="region" aria-label=(label) { (table) } }
}

fn dots(dots: &[Dot], of: &str) -> Vec<Value> {
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

/// The memory that the cap is about.
fn shown(t: &Trace) -> &[u64] {
    if t.memory.device.is_empty() { &t.memory.host } else { &t.memory.device }
}

fn highest(t: &Trace) -> (u64, f64) {
    let points = shown(t).iter().copied().zip(t.memory.at.iter().copied());
    points.fold((0, 0.0), |best, p| if p.0 > best.0 { p } else { best })
}

fn trace(t: &Trace) -> Value {
    json!({
        "name": t.trial.to_string(), "what": t.what, "winner": t.winner, "first_step": t.first_step,
        "at": t.memory.at, "bytes": shown(t), "allocator": t.memory.allocator,
    })
}

fn percent(x: f64) -> String {
    if x.is_finite() { crate::report::table::percent(x) } else { words::NONE.to_owned() }
}

fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
