//! How much memory this process could ever have.

use std::fs;

use super::mounts::{Version, own};

/// The smaller of the machine's memory and the limits that this process already lives under, in bytes: those of its
/// cgroup and of every cgroup above it.  0 when the system tells nothing.
pub fn machine_limit() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|t| mem_total(&t));
    [total, group_limit()].into_iter().flatten().min().unwrap_or(0)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The lowest limit from the own cgroup upwards.
fn group_limit() -> Option<u64> {
    let own = own()?;
    let file = match own.version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    own.dir
        .ancestors()
        .take_while(|dir| dir.starts_with(&own.top))
        .filter_map(|dir| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_text() {
        assert_eq!(mem_total("MemTotal:       24684092 kB\nMemFree: 1 kB\n"), Some(24_684_092 * 1024));
        assert_eq!(mem_total("nothing"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(machine_limit() > 64 << 20);
    }
}
