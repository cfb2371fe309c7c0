//! What memory was held for, in words: categories, the largest blocks, and how a GPU's memory is cut up.

use std::collections::BTreeMap;

use super::result::{Trial, TuneResult};
use super::style::{Style, hang, one_line};
use crate::model::blocks::{BlockRow, Pieces};
use crate::model::size::Bytes;

/// Columns of a line of the user's and of a tensor; longer ones lose their beginning and their end.
const PLACE: usize = 28;
const TENSOR: usize = 30;
/// Blocks named in a sentence.
const NAMED: usize = 3;

/// A line each, most first, with the share of `all`; what nothing was held for is left out.
pub fn categories(parts: &BTreeMap<String, u64>, all: u64) -> String {
    let line = |(name, bytes): (&str, u64)| {
        let name = words(name);
        format!("  {name:<24} {:>9}  {:>3.0} %\n", Bytes(bytes).to_string(), share(bytes, all))
    };
    sorted(parts).into_iter().map(line).collect()
}

/// `activations 515 MiB (94 %), temporaries 24.0 MiB (4 %)`.
pub fn sentence(parts: &BTreeMap<String, u64>, all: u64) -> String {
    let part =
        |(name, bytes): (&str, u64)| format!("{} {} ({:.0} %)", words(name), Bytes(bytes), share(bytes, all));
    sorted(parts).into_iter().map(part).collect::<Vec<_>>().join(", ")
}

/// A line for each of the first `shown` rows, in columns as wide as what they hold.
pub fn table(rows: &[BlockRow], shown: usize, style: Style) -> String {
    let cells: Vec<[String; 6]> = rows.iter().take(shown).map(cells).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        let mut line = format!("  {:>1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:<width$}");
        }
        let line: String = line.chars().take(style.width).collect();
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn cells(row: &BlockRow) -> [String; 6] {
    [
        Bytes(row.bytes).to_string(),
        if row.count > 1 { format!("{}x", row.count) } else { String::new() },
        words(&row.category),
        end_of(row.place.as_deref().unwrap_or("-"), PLACE),
        tensor(row),
        one_line(row.what.as_deref().unwrap_or_default()),
    ]
}

/// How a GPU's memory is cut up.
pub fn pieces(p: &Pieces, style: Style) -> String {
    let text = format!(
        "the allocator holds {}: {} in tensors, {} in free segments, {} free between blocks in use; the largest free \
         piece is {}",
        Bytes(p.reserved),
        Bytes(p.allocated),
        Bytes(p.free_segments),
        Bytes(p.free_parts),
        Bytes(p.largest_free)
    );
    hang("  ", &text, style.width)
}

/// Of the first launch that ran out of memory and could still tell: categories, and the largest blocks.
pub fn what_filled_it(r: &TuneResult) -> Vec<String> {
    let told = |t: &Trial| Some((t.trial, t.oom.as_ref()?.filled.clone()?));
    let Some((trial, f)) = r.trials.iter().find_map(told) else { return Vec::new() };
    let cut = if f.partial { ", and more: the look was cut short" } else { "" };
    let mut all = vec![format!(
        "when trial {trial} ran out, tensors on {} held {}: {}{cut}",
        f.device,
        Bytes(f.bytes),
        sentence(&f.categories, f.bytes)
    )];
    let largest: Vec<String> = f.blocks.iter().take(NAMED).map(named).collect();
    if !largest.is_empty() {
        all.push(format!("the largest: {}", largest.join("; ")));
    }
    all
}

/// `8 x 4.00 MiB float32 2048x512 (activations, ReluBackward0)`.
fn named(row: &BlockRow) -> String {
    let times = if row.count > 1 { format!("{} x ", row.count) } else { String::new() };
    let what = row.what.as_deref().map_or_else(String::new, |w| format!(", {}", one_line(w)));
    let each = Bytes(row.bytes / row.count.max(1));
    format!("{times}{each} {} ({}{what})", tensor(row), words(&row.category))
}

/// `float32 128x128x256`.
pub fn tensor(row: &BlockRow) -> String {
    let Some(shape) = &row.shape else { return "-".to_owned() };
    let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
    let shape = if shape.is_empty() { "scalar".to_owned() } else { shape.join("x") };
    let text = format!("{} {shape}", row.dtype.as_deref().unwrap_or_default());
    text.trim_start().chars().take(TENSOR).collect()
}

/// `optimizer state`.
pub fn words(category: &str) -> String {
    category.replace('_', " ")
}

fn sorted(parts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut parts: Vec<(&str, u64)> =
        parts.iter().map(|(name, bytes)| (name.as_str(), *bytes)).filter(|(_, bytes)| *bytes > 0).collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    parts
}

fn share(bytes: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { bytes as f64 / all as f64 * 100.0 }
}

/// The end tells more of a path than its beginning.
fn end_of(text: &str, width: usize) -> String {
    let text = one_line(text);
    let count = text.chars().count();
    if count <= width {
        text
    } else {
        format!("…{}", text.chars().skip(count + 1 - width).collect::<String>())
    }
}
