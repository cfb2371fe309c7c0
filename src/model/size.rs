//! Memory sizes, and shares of them, as people write and read them.

use std::fmt;

const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A number of bytes that prints in people's units (binary: 1 GiB = 2^30).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match UNITS.iter().rev().find(|(_, n)| self.0 >= *n) {
            Some((unit, n)) => {
                let x = self.0 as f64 / *n as f64;
                if x >= 100.0 {
                    format!("{x:.0} {unit}")
                } else if x >= 10.0 {
                    format!("{x:.1} {unit}")
                } else {
                    format!("{x:.2} {unit}")
                }
            }
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

/// Reads `24GiB`, `24G`, `24GB`, `1.5g`, `700MiB`, `1048576`.  All prefixes are binary, as PyTorch prints them.
///
/// # Errors
/// Says what a size looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => {
            return Err(format!("`{text}` is not a memory size; write it like 24GiB, 700MiB or 1.5G"));
        }
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok((n * factor as f64) as u64),
        _ => Err(format!("`{text}` is not a memory size; write it like 24GiB, 700MiB or 1.5G")),
    }
}

/// The largest share that may be kept free: what is left must hold something.
const LARGEST_SHARE: f64 = 0.9;

/// Reads `5%` or `0.05`.
///
/// # Errors
/// Says what a share looks like.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0),
        None => text.trim().parse::<f64>(),
    };
    match share {
        Ok(share) if (0.0..=LARGEST_SHARE).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share; write it like 5% or 0.05, at most 90%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(parse_bytes("24GiB"), Ok(24 << 30));
        assert_eq!(parse_bytes("1.5g"), Ok(3 << 29));
        assert_eq!(parse_bytes("700 MB"), Ok(700 << 20));
        assert!(parse_bytes("lots").is_err());
        assert!(parse_bytes("0").is_err());
        assert_eq!(Bytes(3 << 29).to_string(), "1.50 GiB");
        assert_eq!(Bytes(700 << 20).to_string(), "700 MiB");
    }

    #[test]
    fn shares_as_people_write_them() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.05"), Ok(0.05));
        assert_eq!(parse_share("0"), Ok(0.0));
        for wrong in ["5", "95%", "-1%", "some", "%", "nan"] {
            assert!(parse_share(wrong).is_err_and(|e| e.contains("5% or 0.05")), "{wrong}");
        }
    }
}
