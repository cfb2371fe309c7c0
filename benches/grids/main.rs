//! Recorded grids: every combination of a script's settings, measured several times, and searches replayed against it.
//!
//! ```text
//! cargo bench --bench grids -- record RECIPE FILE [ROUNDS] -- COMMAND    measures; needs a quiet machine
//! cargo bench --bench grids -- replay FILE...                            writes OUT/grids.json, no script needed
//! ```
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark: what goes wrong ends it, and nobody imports it"
)]

mod grid;
mod oracle;
mod record;
mod replay;
mod rules;
mod tpe;
mod windows;

use std::path::{Path, PathBuf};

fn main() {
    // The launches' helper is this program.
    if std::env::args_os().nth(1).is_some_and(|word| word == autofit::process::helper::ARGUMENT) {
        autofit::process::helper::main();
    }
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let (ours, command) = match words.iter().position(|w| w == "--") {
        Some(at) => (&words[..at], words[at + 1..].to_vec()),
        None => (words.as_slice(), Vec::new()),
    };
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    match ours.as_slice() {
        ["record", recipe, file] => record::record(Path::new(recipe), Path::new(file), 6, &command),
        ["record", recipe, file, rounds] => {
            record::record(Path::new(recipe), Path::new(file), rounds.parse().unwrap(), &command);
        }
        ["replay", files @ ..] if !files.is_empty() => {
            replay::replay(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        }
        // `cargo bench` alone: nothing to measure with.
        _ => eprintln!("usage: record RECIPE FILE [ROUNDS] -- COMMAND | replay FILE..."),
    }
}
