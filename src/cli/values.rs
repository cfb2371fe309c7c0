//! Values of options.

use std::time::Duration;

/// Words of another program, as typed in a shell.
#[derive(Debug, Clone)]
pub(super) struct Words(pub(super) Vec<String>);

pub(super) fn parse_words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|e| format!("`{text}`: {e}"))?;
    match words.iter().find(|w| !w.starts_with('-')) {
        Some(word) => Err(format!("`{word}` is no option; write each as one word, as in --partition=gpu")),
        None => Ok(Words(words)),
    }
}

/// Reads `90`, `500ms`, `90s`, `10m`, `1.5h`.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is not a time; write it like 90s, 10m or 1h")),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(Duration::from_secs_f64(n * factor)),
        _ => Err(format!("`{text}` is not a time; write it like 90s, 10m or 1h")),
    }
}
