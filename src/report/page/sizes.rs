//! How memory and time grow with the batch, and what should fit where.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::model::Page;
use super::parts::{plot, scroll};
use crate::model::size::Bytes;
use crate::report::result::Trial;
use crate::report::words;
use crate::verdict::curve::{self, Line, Point};
use crate::verdict::would_fit::{Row, WouldFit};

/// The batch sizes of one launch, and the lines through them.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Number of the trial.
    pub trial: u32,
    /// What else was set.
    pub what: String,
    /// What was measured, ascending.
    pub points: Vec<Point>,
    /// Bytes; absent where the points lie on no line.
    pub memory: Option<Line>,
    /// Seconds.
    pub time: Option<Line>,
}

impl Curve {
    pub(super) fn of(trial: &Trial) -> Option<Self> {
        if trial.curve.len() < 2 {
            return None;
        }
        Some(Self {
            trial: trial.trial,
            what: words::what(&trial.settings, trial.purpose),
            points: trial.curve.clone(),
            memory: curve::memory(&trial.curve),
            time: curve::time(&trial.curve),
        })
    }

    /// What the charts are drawn from.
    pub(super) fn data(&self) -> Value {
        let line = |l: Option<Line>| l.map(|l| json!([l.fixed, l.per_sample]));
        json!({
            "batch": self.points.iter().map(|p| p.batch).collect::<Vec<_>>(),
            "bytes": self.points.iter().map(|p| p.peak_bytes).collect::<Vec<_>>(),
            "seconds": self.points.iter().map(|p| p.step_seconds).collect::<Vec<_>>(),
            "memory": line(self.memory),
            "time": line(self.time),
        })
    }

    /// The lines in words.
    pub(super) fn sentences(&self) -> Vec<String> {
        let memory = self.memory.map_or_else(
            || "memory does not grow along a line".to_owned(),
            |l| {
                let (fixed, each) = (Bytes(l.fixed as u64), Bytes(l.per_sample as u64));
                format!("memory: {fixed} and {each} for each sample")
            },
        );
        let time = self.time.map_or_else(
            || "time does not grow along a line".to_owned(),
            |l| {
                format!(
                    "a step: {} and {} for each sample",
                    milliseconds(l.fixed),
                    milliseconds(l.per_sample)
                )
            },
        );
        vec![memory, time]
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{} ms", words::number(seconds * 1000.0))
}

impl Page<'_> {
    pub(super) fn curves_html(&self) -> Markup {
        html! {
            @for (i, c) in self.curves.iter().enumerate() {
                p class="note" { "Trial " (c.trial) ", " (c.what) ": " (c.sentences().join("; ")) "." }
                div class="multiples" {
                    figure {
                        figcaption { "memory of a batch" }
                        (plot(&format!("curve-bytes-{i}"), "small", &label("peak memory", c)))
                    }
                    figure {
                        figcaption { "time of a step" }
                        (plot(&format!("curve-seconds-{i}"), "small", &label("step time", c)))
                    }
                }
                details {
                    summary { "The same as a table" }
                    (scroll("Batch sizes of one launch", &html! { table {
                        thead { tr { @for h in ["batch", "peak", "step"] { th scope="col" { (h) } } } }
                        tbody { @for p in &c.points { tr {
                            th scope="row" { (p.batch) } td { (Bytes(p.peak_bytes)) } td { (milliseconds(p.step_seconds)) }
                        } } }
                    } }))
                }
            }
        }
    }

    pub(super) fn would_fit_html(&self, table: &WouldFit) -> Markup {
        html! {
            (scroll("Largest micro-batch that should fit", &html! { table {
                thead { tr {
                    th scope="col" { "largest micro-batch (predicted)" }
                    @for size in &table.sizes { th scope="col" { (Bytes(*size)) } }
                } }
                tbody { @for row in &table.rows { tr {
                    th scope="row" { (row.settings) }
                    @for cell in cells(row) { td { (cell) } }
                } } }
            } }))
            p class="note" { (note(table)) }
        }
    }

    pub(super) fn would_fit_markdown(&self) -> String {
        let Some(table) = &self.result.would_fit else { return String::new() };
        let mut heads = vec!["largest micro-batch (predicted)".to_owned()];
        heads.extend(table.sizes.iter().map(|s| Bytes(*s).to_string()));
        let row = |r: &Row| {
            let mut all = vec![r.settings.to_string()];
            all.extend(cells(r));
            all
        };
        let rows: Vec<Vec<String>> = table.rows.iter().map(row).collect();
        let align = format!(".{}", "r".repeat(table.sizes.len()));
        let grid = super::markdown::grid(&heads, &rows, &align);
        format!("\n## What should fit where\n\n{grid}\n{}\n", note(table))
    }
}

fn label(what: &str, c: &Curve) -> String {
    let sizes: Vec<String> = c.points.iter().map(|p| p.batch.to_string()).collect();
    format!("Chart: {what} against the batch, at {}", sizes.join(", "))
}

fn cells(row: &Row) -> Vec<String> {
    let cell = |(batch, at_least): (&Option<u64>, &bool)| match batch {
        Some(b) if *at_least => format!("{b}+"),
        Some(b) => b.to_string(),
        None => words::NONE.to_owned(),
    };
    row.batch.iter().zip(&row.at_least).map(cell).collect()
}

fn note(table: &WouldFit) -> String {
    let more = if table.rows.iter().any(|r| r.at_least.contains(&true)) {
        " A + is where the answer lies too far from what was measured to be predicted."
    } else {
        ""
    };
    format!(
        "Samples at once, from the batch sizes that trial {} measured (up to {}); nothing of it was launched. {:.0} % of \
         each size are counted on.{more} With accumulation the effective batch stays as it is.",
        table.trial,
        table.own_batch,
        100.0 * table.usable
    )
}
