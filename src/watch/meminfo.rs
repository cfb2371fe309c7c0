//! `/proc/meminfo`.

/// What the kernel says of memory now, as text; empty where it says nothing.
pub fn read() -> String {
    std::fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

/// The value of `key` (`MemTotal`), bytes; `None` where there is no such line.
pub fn bytes(meminfo: &str, key: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_in_kib() {
        let text = "MemTotal:       24684092 kB\nMemFree: 1 kB\nHugePages_Total:       0\n";
        assert_eq!(bytes(text, "MemTotal"), Some(24_684_092 << 10));
        assert_eq!(bytes(text, "MemAvailable"), None);
        assert_eq!(bytes("", "MemTotal"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(bytes(&read(), "MemTotal").is_some_and(|n| n > 64 << 20));
    }
}
