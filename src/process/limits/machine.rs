//! How much memory this process could ever have.

use std::fs;

use super::mounts::{Version, own};
use crate::watch::meminfo;

/// The smaller of the machine's memory and the limits that this process already lives under, in bytes: those of its
/// cgroup and of every cgroup above it.  0 when the system tells nothing.
pub fn machine_limit() -> u64 {
    let total = meminfo::bytes(&meminfo::read(), "MemTotal");
    [total, group_limit()].into_iter().flatten().min().unwrap_or(0)
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
    fn this_machine_has_memory() {
        assert!(machine_limit() > 64 << 20);
    }
}
