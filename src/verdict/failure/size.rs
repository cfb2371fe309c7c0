//! Sizes as error messages write them.

use std::sync::LazyLock;

use regex::Regex;

/// A size in a pattern: the number and its unit are two groups.
pub const SIZE: &str = r"([0-9][0-9,]*(?:\.[0-9]*)?)\s*([KMGTPkmgtp]i?[Bb]?|[Bb]ytes?|B)\b";

/// Larger "sizes" are a limit that is not set, or a difference that went below zero.
const ABSURD: f64 = (1_u64 << 60) as f64;

/// Number and unit in bytes; GB and MB are read as binary, as PyTorch prints them.
pub fn bytes(number: &str, unit: &str) -> Option<u64> {
    let number: f64 = number.replace(',', "").parse().ok()?;
    let factor = match unit.chars().next().map(|c| c.to_ascii_lowercase()) {
        None | Some('b') => 1_u64,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some('t') => 1 << 40,
        Some('p') => 1 << 50,
        Some(_) => return None,
    };
    let value = (number * factor as f64).round();
    (value.is_finite() && value < ABSURD).then_some(value as u64)
}

/// A pattern with one size in it, written as `{}`; blanks stand for any white space.
pub struct SizePattern(LazyLock<Regex, Box<dyn FnOnce() -> Regex + Send>>);

impl SizePattern {
    /// Compiled when first used.
    pub fn new(pattern: &'static str) -> Self {
        Self(LazyLock::new(Box::new(move || compile(&pattern.replace("{}", SIZE)))))
    }

    /// The first size that matches, in bytes.
    pub fn find(&self, text: &str) -> Option<u64> {
        self.0.captures(text).and_then(|c| bytes(c.get(1)?.as_str(), c.get(2).map_or("", |u| u.as_str())))
    }

    /// The sum of all sizes that match.
    pub fn sum(&self, text: &str) -> Option<u64> {
        self.0
            .captures_iter(text)
            .filter_map(|c| bytes(c.get(1)?.as_str(), c.get(2)?.as_str()))
            .reduce(u64::saturating_add)
    }
}

/// A pattern in which every blank stands for any white space, since people's terminals break lines anywhere; without
/// regard to case.  A blank with a question mark may be missing.
pub fn compile(pattern: &str) -> Regex {
    Regex::new(&format!("(?i){}", pattern.replace(" ?", r"\s*").replace(' ', r"\s+")))
        .expect("a fixed pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_messages() {
        assert_eq!(bytes("14.74", "GiB"), Some(15_826_954_486));
        assert_eq!(bytes("17.36", "GB"), Some(18_640_158_065));
        assert_eq!(bytes("0", "bytes"), Some(0));
        assert_eq!(bytes("11,105,720,320", "bytes"), Some(11_105_720_320));
        assert_eq!(bytes("17179869184.00", "GiB"), None, "a limit that is not set");
    }
}
