//! Memory, processors and limits of the host, and what surrounds it.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::super::facts::{Host, Limit, System};
use super::text;
use crate::watch::{cgroup, load, machine::MachineFacts, meminfo, shm};

/// Variables that change how PyTorch runs.
const VARIABLES: [&str; 5] = [
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "OMP_NUM_THREADS",
];

/// Kernel, distribution, container.
pub fn system(machine: &MachineFacts) -> System {
    let there = |path: &str| Path::new(path).exists();
    let named = text("/run/systemd/container");
    let container = if there("/.dockerenv") {
        Some("docker".to_owned())
    } else if there("/run/.containerenv") {
        Some("podman".to_owned())
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Some("kubernetes".to_owned())
    } else {
        Some(named.trim().to_owned()).filter(|n| !n.is_empty() && n != "wsl")
    };
    System {
        os: machine.os.clone(),
        kernel: machine.kernel.clone(),
        apt: super::on_path(&["apt-get"]).is_some(),
        container,
        root: nix::unistd::geteuid().is_root(),
        wsl: machine.kernel.to_ascii_lowercase().contains("microsoft"),
    }
}

/// Memory, processors and limits.
pub fn read(machine: &MachineFacts) -> Host {
    let meminfo = meminfo::read();
    let memory = |key| meminfo::bytes(&meminfo, key).unwrap_or(0);
    let shm = shm::read(Path::new("/dev/shm"));
    let (nodes, our_nodes) = nodes();
    Host {
        cpu: machine.cpu.clone(),
        cores: machine.cores,
        cpu_quota: machine.cpu_quota,
        nodes,
        our_nodes,
        ram: machine.ram_bytes,
        available: memory("MemAvailable"),
        swap: machine.swap_bytes,
        swap_used: machine.swap_bytes.saturating_sub(memory("SwapFree")),
        limit: cgroup::memory_limit().filter(|l| *l < machine.ram_bytes),
        shm: shm.map(|s| s.total),
        shm_used: shm.map_or(0, |s| s.used),
        open_files: limit(Resource::RLIMIT_NOFILE),
        locked: limit(Resource::RLIMIT_MEMLOCK),
        address_space: limit(Resource::RLIMIT_AS),
        strict_overcommit: text("/proc/sys/vm/overcommit_memory").trim() == "2",
        rdma: std::fs::read_dir("/sys/class/infiniband").map_or(0, |d| d.count() as u32),
        variables: VARIABLES
            .iter()
            .filter_map(|n| Some(((*n).to_owned(), std::env::var(n).ok()?)))
            .filter(|(_, value)| !value.is_empty())
            .collect(),
    }
}

fn limit(resource: Resource) -> Limit {
    let finite = |n: u64| Some(n).filter(|n| *n != libc::RLIM_INFINITY);
    getrlimit(resource)
        .map_or_else(|_| Limit::default(), |(soft, hard)| Limit { soft: finite(soft), hard: finite(hard) })
}

/// How many NUMA nodes there are, and those whose processors we may run on.
fn nodes() -> (u32, Vec<u32>) {
    let cpus = load::usable_cpus();
    let entries = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("node")?.parse::<u32>().ok();
    let all: Vec<u32> = entries.filter_map(|e| number(e.file_name().to_str()?)).collect();
    let has_ours = |node: &u32| {
        cpus.iter().any(|cpu| Path::new(&format!("/sys/devices/system/node/node{node}/cpu{cpu}")).exists())
    };
    let mut ours: Vec<u32> = all.iter().copied().filter(has_ours).collect();
    ours.sort_unstable();
    (all.len().max(1) as u32, ours)
}
