//! What the machine is, for `result.json` and reports; nothing in it names the host or its user.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::nvml::{Gpus, NvmlUnavailable};
use super::{cgroup, load, meminfo, shm};

/// The machine that a result was measured on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineFacts {
    /// As the processor calls itself.
    pub cpu: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// CPUs that this process may run on.
    pub cores: u32,
    /// CPUs that the machine has online.
    pub cores_online: u32,
    /// The cgroup's CPU quota in cores, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<f64>,
    /// The processor multiplies bf16 in hardware (AVX512-BF16, AMX-BF16, ARM bf16); without it bf16 on the CPU is
    /// emulated and usually slower than fp32.
    pub cpu_bf16: bool,
    /// Runs under a hypervisor.
    pub virtual_machine: bool,
    /// Installed memory, bytes.
    pub ram_bytes: u64,
    /// The lowest memory limit of our cgroups, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_limit_bytes: Option<u64>,
    /// Swap space, bytes.
    pub swap_bytes: u64,
    /// Size of `/dev/shm`, bytes; 0 without one.
    pub shm_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// GPUs and MIG devices that are visible.
    pub gpus: Vec<MachineGpu>,
    /// NVIDIA driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Highest CUDA version that the driver serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Why no GPU is listed, when NVML could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus_absent: Option<String>,
}

/// One GPU, without what identifies the very piece.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineGpu {
    /// As the driver names it.
    pub name: String,
    /// Memory, bytes.
    pub total_bytes: u64,
    /// A part of a divided GPU.
    #[serde(default)]
    pub mig: bool,
}

impl MachineFacts {
    /// Reads this machine; `gpus` as [`Gpus::open`] answered.
    pub fn read(gpus: Result<&Gpus, &NvmlUnavailable>) -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        let meminfo = meminfo::read();
        let memory = |key| meminfo::bytes(&meminfo, key).unwrap_or(0);
        let cpus = load::usable_cpus();
        let mut facts = Self {
            cpu: cpu_name(&cpuinfo),
            arch: std::env::consts::ARCH.to_owned(),
            cores: cpus.len() as u32,
            cores_online: online(&text("/sys/devices/system/cpu/online")).unwrap_or(cpus.len() as u32),
            cpu_quota: cgroup::cpu_quota(),
            cpu_bf16: has_bf16(&cpuinfo),
            virtual_machine: flags(&cpuinfo).any(|f| f == "hypervisor"),
            ram_bytes: memory("MemTotal"),
            ram_limit_bytes: cgroup::memory_limit(),
            swap_bytes: memory("SwapTotal"),
            shm_bytes: shm::read(Path::new("/dev/shm")).map_or(0, |s| s.total),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            os: os_name(&text("/etc/os-release")),
            ..Self::default()
        };
        match gpus {
            Ok(gpus) => {
                let gpu = |g: &super::nvml::GpuFacts| MachineGpu {
                    name: g.name.clone(),
                    total_bytes: g.total_bytes,
                    mig: g.mig.is_some(),
                };
                facts.gpus = gpus.devices().iter().map(gpu).collect();
                facts.driver = gpus.driver();
                facts.cuda = gpus.cuda();
            }
            Err(e) => facts.gpus_absent = Some(e.to_string()),
        }
        facts
    }

    /// Memory that this process tree may use at most, bytes.
    pub fn usable_ram(&self) -> u64 {
        self.ram_limit_bytes.map_or(self.ram_bytes, |l| l.min(self.ram_bytes))
    }

    /// Cores that can be kept busy: affinity, and the quota rounded up.
    pub fn usable_cores(&self) -> u32 {
        self.cpu_quota.map_or(self.cores, |q| self.cores.min(q.ceil().max(1.0) as u32))
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(cpuinfo: &'a str, names: &[&str]) -> Option<&'a str> {
    cpuinfo.lines().find_map(|l| {
        let (name, value) = l.split_once(':')?;
        names.contains(&name.trim()).then_some(value.trim())
    })
}

fn cpu_name(cpuinfo: &str) -> String {
    let implementer = || field(cpuinfo, &["CPU implementer"]).map(|i| format!("ARM implementer {i}"));
    field(cpuinfo, &["model name", "Processor", "Hardware"])
        .map(str::to_owned)
        .or_else(implementer)
        .unwrap_or_else(|| "unknown".into())
}

fn flags(cpuinfo: &str) -> impl Iterator<Item = &str> {
    field(cpuinfo, &["flags", "Features"]).unwrap_or_default().split_whitespace()
}

fn has_bf16(cpuinfo: &str) -> bool {
    flags(cpuinfo).any(|f| matches!(f, "avx512_bf16" | "amx_bf16" | "bf16" | "svebf16"))
}

fn os_name(release: &str) -> String {
    let value = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    value.trim_matches('"').to_owned()
}

/// Counts `0-3,8` as 5.
fn online(list: &str) -> Option<u32> {
    let mut n = 0;
    for range in list.trim().split(',') {
        let (a, b) = range.split_once('-').unwrap_or((range, range));
        n += b.parse::<u32>().ok()?.checked_sub(a.parse().ok()?)? + 1;
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let none = NvmlUnavailable::NoDriver;
        let m = MachineFacts::read(Err(&none));
        assert!(
            m.cores >= 1 && m.cores <= m.cores_online && m.ram_bytes > 1 << 28 && !m.kernel.is_empty(),
            "{m:?}"
        );
        assert!(m.usable_cores() >= 1 && m.usable_ram() <= m.ram_bytes);
        assert_eq!(m.gpus_absent.as_deref(), Some("the NVIDIA driver is not loaded; see `nvidia-smi`"));
        let json = serde_json::to_string(&m).unwrap();
        assert_eq!(serde_json::from_str::<MachineFacts>(&json).unwrap(), m);
    }

    #[test]
    fn bf16_is_found_on_both_architectures() {
        assert!(has_bf16("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n"));
        assert!(has_bf16("Features\t: fp asimd bf16 i8mm\n"));
        assert!(!has_bf16("flags\t\t: fpu avx512f avx2\n"));
        assert_eq!(online("0-3,8\n"), Some(5));
        assert_eq!(online(""), None);
    }
}
