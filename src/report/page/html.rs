//! [`Page`] and [`Comparison`] -> `report.html`.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::comparison::Comparison;
use super::markdown::loss;
use super::model::{Dot, Losses, Page, TimeUse, Trace};
use super::parts::{
    beside, capital, command, commands, dot_legend, dots, figures, ladder_row, part, percent, plot, scroll,
    section, trace,
};
use super::shell::document;
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
                @if !self.sweeps().is_empty() { (section("turns", "Measured in turns", &self.sweeps_html())) }
                @if !self.dots.is_empty() { (section("tradeoff", "Throughput against memory", &self.scatter())) }
                @if !self.traces.is_empty() { (section("memory", "Memory over time", &self.memory())) }
                @if !self.curves.is_empty() { (section("batch", "How it grows with the batch", &self.curves_html())) }
                @if let Some(t) = &self.result.would_fit { (section("where", "What should fit where", &self.would_fit_html(t))) }
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
            "cap_in_sight": self.cap_in_sight(),
            "memory_name": self.memory_name(),
            "dots": dots(&self.dots, ""),
            "traces": self.traces.iter().map(trace).collect::<Vec<_>>(),
            "curves": self.curves.iter().map(super::sizes::Curve::data).collect::<Vec<_>>(),
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
                @if let Some(cap) = self.cap() {
                    ", " @if self.cap_in_sight() { span class="mark cap" {} " cap " (cap) } @else { "the cap, " (cap) ", lies far above" }
                }
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
        let (peak, at) = t.highest();
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
                        @let (peak, at) = t.highest();
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
        let data = json!({"unit": unit, "cap": cap, "cap_in_sight": a.cap_in_sight() || b.cap_in_sight(), "memory_name": memory_name, "dots": all, "traces": [], "curves": [], "losses": null});
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
