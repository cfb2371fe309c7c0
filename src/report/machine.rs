//! What the figures were measured on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::watch::meminfo;

/// Hardware and software that the figures depend on.  No host name and no user name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// `Linux 6.1.0 x86_64`.
    pub system: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Memory of the host, bytes.
    pub memory_bytes: u64,
    /// Accelerators.
    pub devices: Vec<Accelerator>,
    /// `3.11.7`; absent before a trial said hello.
    pub python: Option<String>,
    /// Versions by package: `torch`, `transformers`, ...
    pub packages: BTreeMap<String, String>,
}

/// One accelerator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accelerator {
    /// Its name.
    pub name: String,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// The driver's version.
    pub driver: Option<String>,
}

impl Machine {
    /// The host without its accelerators, as the kernel describes it; what cannot be read stays empty.
    pub fn host() -> Self {
        let system = nix::sys::utsname::uname().map(|u| {
            format!(
                "{} {} {}",
                u.sysname().to_string_lossy(),
                u.release().to_string_lossy(),
                u.machine().to_string_lossy()
            )
        });
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            system: system.unwrap_or_default(),
            cpu: field(&cpuinfo, "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
            memory_bytes: meminfo::bytes(&meminfo::read(), "MemTotal").unwrap_or(0),
            ..Self::default()
        }
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|l| {
        let (key, value) = l.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_describes_this_host() {
        let m = Machine::host();
        assert!(m.system.starts_with("Linux "));
        assert!(m.cores >= 1);
        assert!(m.memory_bytes > 1 << 20);
    }
}
